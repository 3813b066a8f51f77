"""Print progress bars and single lines to standard error, so that tables on standard output stay clean."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["bar", "tell"]


def _console() -> Console:
    return Console(stderr=True, highlight=False)


def tell(text: str) -> None:
    """Print one line for a person, on standard error."""
    _console().print(text, soft_wrap=True, markup=False)


@contextmanager
def bar(text: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a bar of `total` units on a terminal, one line elsewhere; yields a function that advances it."""
    console = _console()
    if not console.is_terminal:
        tell(text)
        yield lambda done: None
        return
    columns = TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.percentage:3.0f} %")
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task(text, total=total)
        yield lambda done: progress.advance(task, done)
