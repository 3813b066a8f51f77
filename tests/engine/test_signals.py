"""A process that is asked to end leaves its contexts first."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from fcil.engine.signals import leaving_contexts

_WAITS = """
import signal, sys, time
from fcil.engine.signals import leaving_contexts
{before}
with leaving_contexts():
    try:
        print("waits", flush=True)
        time.sleep({seconds})
    finally:
        print("left", flush=True)
"""


def _ended_by(number: int, before: str = "", seconds: float = 60) -> tuple[int, str]:
    code = _WAITS.format(before=before, seconds=seconds)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "waits\n"
        process.send_signal(number)
        rest = process.stdout.read()
    return process.returncode, rest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_was_begun_is_ended_and_the_exit_code_tells_the_signal(number):
    assert _ended_by(number) == (128 + number, "left\n")


def test_an_ignored_signal_stays_ignored():
    ignored = "signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    assert _ended_by(signal.SIGHUP, ignored, seconds=0.3) == (0, "left\n")


@pytest.fixture
def default_handlers() -> Iterator[None]:
    """Give the test the handlers of a fresh process: Ray, begun by an earlier test, leaves one of its own."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


@pytest.mark.usefixtures("default_handlers")
def test_handlers_are_put_back():
    with leaving_contexts():
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.usefixtures("default_handlers")
def test_a_handler_that_is_there_stays():
    def own(*_: object) -> None:
        """Stand for what another library has set."""

    signal.signal(signal.SIGTERM, own)
    with leaving_contexts():
        assert signal.getsignal(signal.SIGTERM) is own
    assert signal.getsignal(signal.SIGTERM) is own


@pytest.mark.usefixtures("default_handlers")
def test_another_thread_changes_nothing():
    seen = []

    def look() -> None:
        with leaving_contexts():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]
