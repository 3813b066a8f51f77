"""Show how far a piece of work is: bars on a terminal, which vanish when it is done, and single lines elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["Step", "bar", "moving", "tell"]

Step = Callable[[str, float], None]
"""Called with what begins now, and the share of the work that is done before it."""


def _console() -> Console:
    """Standard error, so that tables on standard output stay clean."""
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


@contextmanager
def moving(console: Console, text: str) -> Iterator[Step]:
    """Show a bar over pieces of work that have names, on a terminal only; yields the function that moves it.

    Args:
        console: what is printed on it meanwhile stands above the bar.
        text: what goes on at first.
    """
    if not console.is_terminal:
        yield lambda text, share: None
        return
    columns = TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.percentage:3.0f} %")
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task(escape(text), total=1.0)
        yield lambda text, share: progress.update(task, description=escape(text), completed=share)
