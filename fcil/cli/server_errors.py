"""Tells an error that is not a fault of the program as one message where Flower would show a traceback.

Flower ends a run as failed when its ServerApp raises, logs the traceback, and keeps the exception's text as the run's
"status-details", which `flwr ls --format json` shows and by which `fcil deploy` learns what happened.
"""

import logging
import re
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from fcil import errors
from fcil.errors import FcilError

__all__ = ["STOPPED", "Stopped", "as_one_message", "told"]

_P = ParamSpec("_P")
STOPPED = "the run stopped: "
"""What a run's log says before the text of `Stopped`."""
_DETAILS = re.compile(r"^(?:ServerApp|Simulation) failed with exception: (\w+): (.*)", re.DOTALL)
"""What Flower 1.42 writes, around the text of `Stopped`."""


class Stopped(Exception):
    """The run stopped for a reason that the user can mend; the text is `Kind: message`."""


def _without_traceback(record: logging.LogRecord) -> bool:
    """Change Flower's record of a `Stopped` into its text; let every record pass."""
    if record.exc_info and isinstance(record.exc_info[1], Stopped):
        record.msg, record.args, record.exc_info = f"{STOPPED}{record.exc_info[1]}", (), None
    return True


def as_one_message(main: Callable[_P, None]) -> Callable[_P, None]:
    """Make a ServerApp's main function fail with one message for an `FcilError`; other errors keep their traceback."""

    @wraps(main)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            main(*args, **kwargs)
        except FcilError as error:
            logging.getLogger("flwr").addFilter(_without_traceback)
            raise Stopped(f"{type(error).__name__}: {error}") from None

    return wrapped


def told(details: str) -> tuple[str, int]:
    """The message and the exit code of a failed run, from the details that Flower keeps of it.

    Returns:
        2 for a mistake in what was asked for (ConfigError, MergeError), else 1.
    """
    match = _DETAILS.match(details)
    if not match:
        return details, 1
    kind = getattr(errors, match[1], None)
    if isinstance(kind, type) and issubclass(kind, FcilError):
        return match[2], kind.exit_code
    return f"{match[1]}: {match[2]}", 1
