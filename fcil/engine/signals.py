"""Makes a process that is asked to end leave its contexts first, so that what it started is ended too."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["leaving_contexts"]

_ASKED_TO_END = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


def _leave(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


@contextmanager
def leaving_contexts() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into SystemExit with code 128 + number, as shells tell it.

    By default they end a process on the spot: no `finally` is carried out, and processes that it started go on without
    it. What else handles or ignores such a signal (`nohup`) is left alone. Outside the main thread, where Python
    allows no handlers, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    changed = [number for number in _ASKED_TO_END if signal.getsignal(number) is signal.SIG_DFL]
    for number in changed:
        signal.signal(number, _leave)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)
