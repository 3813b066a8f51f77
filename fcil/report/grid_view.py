"""Shows where all runs of a comparison stand: those that are over, those that go on and how long they will take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fcil.data.progress import Lines
from fcil.engine.comparison import Cell
from fcil.engine.following import Follower, Standing
from fcil.engine.jobs import alive
from fcil.report.live import clock
from fcil.words import counted

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["HEAD", "GridView", "Screen"]

STYLES = {"finished": "green", "running": "bold", "failed": "red", "stopped": "yellow", "not begun": "dim"}
HEAD = ("run", "state", "done", "left", "accuracy", "at")
LINES = 24
"""Runs that are shown, at most; of others only the numbers."""
FIRST = ("running", "failed", "stopped", "not begun", "finished")
"""States in the order in which runs are shown where not all of them can be."""


class GridView:
    """A table of the runs of a comparison, drawn anew from their folders at every look."""

    def __init__(self, runs: Sequence[Cell], out: Path | None = None) -> None:
        """Follow where the runs stand.

        Args:
            out: the comparison's folder, by which it is seen that processes load what their runs need.
        """
        self.runs, self.out = list(runs), out
        self._followers = [Follower(cell) for cell in runs]

    def look(self) -> list[Standing]:
        """Read where every run stands, in the order of the runs."""
        return [follower.look() for follower in self._followers]

    def draw(self, standings: Sequence[Standing], lines: int = LINES) -> Group:
        """Draw a line with the numbers of runs in each state, and a line for each run."""
        return Group(self.headline(standings), self._table(standings, lines))

    def headline(self, standings: Sequence[Standing]) -> Text:
        """The number of runs in each state, and how long the rest will take."""
        states = [standing.state for standing in standings]
        counts = [f"{states.count(state)} {state}" for state in STYLES if state in states]
        seconds, loading = self.seconds_left(standings), self.loading(states)
        if loading:
            counts.append(f"{counted(loading, 'process', 'processes')} loading")
        return Text(
            f"{counted(len(states), 'run')}: {', '.join(counts)}"
            + (f"; about {clock(seconds)} left" if seconds else "")
        )

    def loading(self, states: Sequence[str]) -> int:
        """Count the processes that work on no run yet: they load code, weights and data for one that is not begun."""
        waiting = len(states) - states.count("finished") - states.count("running")
        return max(0, min(waiting, alive(self.out) - states.count("running"))) if self.out else 0

    def line(self, cell: Cell, standing: Standing) -> str:
        """Say how a run ended, in a line."""
        figure = "" if standing.accuracy is None else f", {100 * standing.accuracy:.1f} %"
        return f"{cell.name}: {standing.state}{figure}{': ' if standing.place else ''}{standing.place}"

    def seconds_left(self, standings: Sequence[Standing]) -> float | None:
        """Seconds until the last run ends, if each unit of work takes as long as so far, shared by those that run now.

        None where nothing runs, or nothing is done yet.
        """
        pairs = list(zip((sum(cell.work) for cell in self.runs), standings, strict=True))
        done = sum(work * s.share for work, s in pairs if s.seconds)
        spent = sum(s.seconds for s in standings)
        running = sum(s.state == "running" for s in standings)
        remaining_work = sum(work * (1 - s.share) for work, s in pairs if s.state not in ("finished", "failed"))
        if not done or not running:
            return None
        longest = max((s.seconds_left or 0.0) for s in standings if s.state == "running")
        return max(spent / done * remaining_work / running, longest)

    def _table(self, standings: Sequence[Standing], lines: int) -> Table:
        shown = sorted(range(len(standings)), key=lambda i: (FIRST.index(standings[i].state), i))[:lines]
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("run", overflow="fold")
        table.add_column("state")
        for name in HEAD[2:5]:
            table.add_column(name, justify="right")
        table.add_column("at", overflow="fold")
        for i in sorted(shown):
            name, state, *others = self.cells(self.runs[i], standings[i])
            table.add_row(Text(name), Text(state, STYLES[state]), *map(Text, others))
        if len(shown) < len(standings):
            table.add_row(Text(f"and {len(standings) - len(shown)} more", "dim"))
        return table

    def cells(self, cell: Cell, standing: Standing) -> list[str]:
        """Write a run's line of the table, a text for each name in `HEAD`."""
        seconds = standing.seconds_left if standing.state == "running" else None
        return [
            cell.name,
            standing.state,
            f"{100 * standing.share:.0f} %" if standing.share else "",
            clock(seconds) if seconds else "",
            "" if standing.accuracy is None else f"{100 * standing.accuracy:.1f} %",
            standing.place,
        ]


class Screen:
    """Shows where runs of other processes stand: a line for each that ends, and on a terminal a table that moves."""

    def __init__(self, runs: Sequence[Cell], console: Console | None, out: Path | None = None) -> None:
        self.view, self.console = GridView(runs, out), console
        self.states = [standing.state for standing in self.view.look()]
        moving = console is not None and console.is_terminal
        self._live = Live(console=console, transient=True, auto_refresh=False) if moving else None
        self._lines: Lines | None = None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        elif self.console:
            self._lines = Lines(str(self.view.headline(self.view.look())))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live:
            self._live.stop()
        if self._lines:
            self._lines.stop()

    def look(self) -> None:
        """Read where the runs stand now, and show it."""
        standings = self.view.look()
        for cell, standing, before in zip(self.view.runs, standings, self.states, strict=True):
            if self.console and standing.state != before and standing.state in ("finished", "failed"):
                self.console.print(self.view.line(cell, standing), soft_wrap=True, markup=False)
                if self._lines:
                    self._lines.heard()
        self.states = [standing.state for standing in standings]
        if self._live:
            self._live.update(self.view.draw(standings), refresh=True)
        if self._lines:
            self._lines.text = str(self.view.headline(standings))
