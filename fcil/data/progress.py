"""Show what goes on: bars and moving lines on a terminal, which vanish when it is done, and single lines elsewhere."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["Lines", "Step", "bar", "moving", "tell", "waiting"]

SILENCE, LONGEST_SILENCE = 2.0, 60.0
"""Seconds without a line after which one says what goes on: at first, and at last; it doubles with each line."""

Step = Callable[[str, float], None]
"""Called with what begins now, and the share of the work that is done before it."""

_MOVING: list[Progress] = []
"""What moves on the terminal now, the last one alone; those before it wait."""


def _console() -> Console:
    """Standard error, so that tables on standard output stay clean."""
    return Console(stderr=True, highlight=False)


def tell(text: str) -> None:
    """Print one line for a person, on standard error."""
    with _held():
        _console().print(text, soft_wrap=True, markup=False)


@contextmanager
def _held() -> Iterator[None]:
    """Take off the terminal what moves there, which would run into what another console writes."""
    if not _MOVING:
        yield
        return
    _MOVING[-1].stop()
    try:
        yield
    finally:
        _MOVING[-1].start()


@contextmanager
def _shown(progress: Progress) -> Iterator[None]:
    """Show one thing that moves, in the place of the one that moved before."""
    with _held():
        _MOVING.append(progress)
        try:
            with progress:
                yield
        finally:
            _MOVING.remove(progress)


class Lines:
    """Says on standard error what goes on, where two seconds went by without a line; on and on, but ever less often."""

    def __init__(self, text: str) -> None:
        self.text = text
        """What goes on now; a text is said once."""
        self._over, self._heard = False, threading.Event()
        self._thread = threading.Thread(target=self._speak, daemon=True)
        self._thread.start()

    def _speak(self) -> None:
        wait, text = SILENCE, ""
        while not self._over:
            if self._heard.wait(wait):
                self._heard.clear()
            elif self.text != text:
                text, wait = self.text, min(2 * wait, LONGEST_SILENCE)
                tell(text)

    def heard(self) -> None:
        """Note that another line has been printed: the silence begins anew."""
        self._heard.set()

    def stop(self) -> None:
        """Say nothing any more."""
        self._over = True
        self._heard.set()
        self._thread.join()


@contextmanager
def _lines(text: str) -> Iterator[Lines]:
    lines = Lines(text)
    try:
        yield lines
    finally:
        lines.stop()


@contextmanager
def bar(text: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a bar of `total` units on a terminal, one line elsewhere; yields a function that advances it."""
    console = _console()
    if not console.is_terminal:
        tell(text)
        yield lambda done: None
        return
    columns = TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.percentage:3.0f} %")
    progress = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
    with _shown(progress):
        task = progress.add_task(escape(text), total=total)
        yield lambda done: progress.advance(task, done)


@contextmanager
def moving(console: Console, text: str) -> Iterator[Step]:
    """Show a bar over pieces of work that have names; where there is no terminal, lines, as `Lines` says them.

    Args:
        console: what is printed on it meanwhile stands above the bar.
        text: what goes on at first.

    Yields:
        The function that moves it.
    """
    if not console.is_terminal:
        with _lines(text) as lines:
            yield lambda text, share: setattr(lines, "text", f"{text} ({100 * share:.0f} % done)")
        return
    columns = TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.percentage:3.0f} %")
    progress = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
    with _shown(progress):
        task = progress.add_task(escape(text), total=1.0)
        yield lambda text, share: progress.update(task, description=escape(text), completed=share)


@contextmanager
def waiting(console: Console | None, text: str) -> Iterator[Callable[[str], None]]:
    """Show what goes on where nothing can be counted, with its seconds; else as `moving`. Nothing without a console.

    Yields:
        A function that changes the text.
    """
    if console is None:
        yield lambda text: None
    elif not console.is_terminal:
        with _lines(text) as lines:
            yield lambda text: setattr(lines, "text", text)
    else:
        columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
        progress = Progress(*columns, console=console, transient=True)
        with _shown(progress):
            task = progress.add_task(escape(text), total=None)
            yield lambda text: progress.update(task, description=escape(text))
