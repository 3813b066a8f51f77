"""Run all checks on one method: which hold, which fail, and where in the method's file."""

import inspect
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fcil.battery import clients, merging, settings, storing
from fcil.battery.outcome import Broken, NotAsked, NotReached
from fcil.battery.trial import Trial
from fcil.method import Method
from fcil.registry.shipped import FCIL
from fcil.threads import threads

__all__ = ["CHECKS", "Check", "CheckResult", "examine"]

Check = Callable[[Trial], None]
CHECKS: tuple[Check, ...] = (
    settings.settings_have_defaults_and_texts,
    clients.run_goes_through,
    clients.replies_pass_the_servers_check,
    clients.only_what_is_declared_trains,
    clients.only_generators_of_the_phase_are_drawn,
    clients.inputs_stay_as_they_are,
    clients.same_inputs_give_the_same_bits,
    clients.clients_repeat_their_work,
    merging.shapes_are_kept_over_rounds,
    merging.order_of_clients_does_not_matter,
    merging.clients_without_examples_have_no_influence,
    merging.copies_of_a_client_are_that_client,
    merging.additive_merges_add,
    merging.changes_are_what_the_network_adds,
    storing.states_survive_storage,
    storing.stores_survive_storage,
    storing.deployed_arrays_score_every_class,
)


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one check."""

    title: str
    """The property that must hold."""
    outcome: Literal["holds", "fails", "not asked", "not reached"]
    message: str
    seconds: float
    place: str = ""
    """`file.py:12`, in the method's own file where that is known."""


def examine(trial: Trial) -> Iterator[CheckResult]:
    """Run all checks, and yield the result of each as it comes."""
    for check in CHECKS:
        start = time.perf_counter()
        title = (check.__doc__ or "").partition("\n")[0]
        with threads(1):
            outcome, message, place = _outcome(check, trial)
        yield CheckResult(title, outcome, message, time.perf_counter() - start, place)


def _outcome(check: Check, trial: Trial) -> tuple[Any, str, str]:
    try:
        check(trial)
    except NotAsked as reason:
        return "not asked", str(reason), ""
    except NotReached as reason:
        return "not reached", str(reason), ""
    except Broken as broken:
        return "fails", str(broken), _place(trial.method, broken)
    except Exception as error:  # whatever else a method's code may raise
        return "fails", f"{type(error).__name__}: {error}", _line(error, trial.method)
    return "holds", "", ""


def _place(method: Method, broken: Broken) -> str:
    """Locate a fault: where the exception behind it was raised, or else where the function to blame is defined."""
    if broken.__cause__ is not None and (line := _line(broken.__cause__, method)):
        return line
    acting = method.acting(broken.phase) if broken.phase else method
    return _definition(type(acting), broken.functions) or _definition(type(method), broken.functions)


def _line(error: BaseException, method: Method) -> str:
    """Find the last line of the traceback that is neither fcil's nor a library's: mostly that of the method's file."""
    files = {file for kind in type(method).__mro__ if (file := _file(kind))}
    frames = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)
              if frame.filename in files or _foreign(frame.filename)]  # fmt: skip
    return frames[-1] if frames else ""


def _file(kind: type) -> str | None:
    """Find the file that defines a class of a method's; None for those of the contract itself."""
    try:
        file = inspect.getfile(kind)
    except (TypeError, OSError):
        return None
    return None if Path(file).is_relative_to(FCIL / "method") else file


def _foreign(file: str) -> bool:
    """Tell whether a file belongs neither to fcil nor to installed packages."""
    path = Path(file)
    return path.is_absolute() and not path.is_relative_to(FCIL) and "site-packages" not in path.parts


def _definition(kind: type, names: tuple[str, ...]) -> str:
    """Find where the nearest class that defines one of these functions does so; empty if none does."""
    for base in kind.__mro__:
        for name in (n for n in names if n in vars(base) and _file(base)):
            function = vars(base)[name]
            code = getattr(getattr(function, "fget", function), "__code__", None)
            if code is not None:
                return f"{code.co_filename}:{code.co_firstlineno}"
    return ""
