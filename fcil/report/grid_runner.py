"""Carries out runs of a comparison one after another in this process, which keeps what they have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcil.data.progress import waiting
from fcil.engine.queue import Outcome
from fcil.engine.reuse import Reuse
from fcil.exchange.memo import MEMO, Memo
from fcil.exchange.shared import FEATURES, Features, Shared
from fcil.report.running import LOADING, Watch, carry_out, left_out_settings

if TYPE_CHECKING:
    from rich.console import Console

    from fcil.engine.comparison import Cell
    from fcil.loggers import Logger

__all__ = ["LOOK_SECONDS", "Runner", "say", "tell_failure"]

LOOK_SECONDS = 1.0
"""Time between two looks at runs that other processes carry out."""


def say(console: Console | None, *parts: str, style: str = "") -> None:
    """Print a line, where there is somebody to read it."""
    if console:
        console.print(*parts, soft_wrap=True, markup=False, style=style)


def tell_failure(outcome: Outcome, console: Console | None) -> None:
    """Say why a run failed; nothing of one that is finished."""
    if outcome.summary is None:
        say(console, f"{outcome.cell.name}: failed. {outcome.reason}", style="red")


class Runner:
    """Carries out runs one after another in this process, which keeps what they have in common."""

    def __init__(
        self,
        out: Path,
        runs: Sequence[Cell],
        console: Console | None,
        reuse: Reuse,
        beside_others: bool = False,
        loggers: Sequence[Logger] = (),
        shared: Shared | None = None,
    ) -> None:
        """Keep in the comparison's folder what runs take from each other.

        Args:
            beside_others: whether other processes of the comparison work at the same time.
            shared: what an earlier runner of this process has loaded, which then outlives this one.
        """
        kins = Counter(kin for cell in runs for kin in cell.kin if kin)
        self.several = {kin for kin, count in kins.items() if count > 1}
        self.memo = Memo(out / MEMO, reuse.share) if reuse.memo else None
        self.features = Features(out / FEATURES, reuse.share) if reuse.features else None
        self.watch: Watch | None = None
        """Called with every event of a run; see `fcil.report.running.carry_out`."""
        self.console, self.loggers, self.shared = console, loggers, shared or Shared(beside_others=beside_others)

    def tell_settings(self, runs: Sequence[Cell]) -> None:
        """Say which settings of the file rows run without, before any begins; each line once."""
        for line in dict.fromkeys(line for cell in runs for line in left_out_settings(cell.config).splitlines()):
            say(self.console, line)

    def __call__(self, cell: Cell) -> dict[str, Any]:
        """Carry out a run, or read it when it is finished."""
        say(self.console, f"{cell.name}: {cell.folder}")
        phases = frozenset(index for index, kin in enumerate(cell.kin) if kin in self.several)
        self.shared.memo = replace(self.memo, phases=phases) if self.memo and phases else None
        # where a client's error costs its update alone, so would the alarm of a check
        self.shared.features = None if cell.config.run.on_client_error == "skip" else self.features
        try:
            with waiting(self.console, LOADING):
                session = cell.session(self.shared)
            return carry_out(session, cell.folder, self.console, self.loggers, self.watch)
        except BaseException:
            self.shared.close()  # workers among it, which may have been the reason
            raise

    def close(self) -> None:
        """Let go what the runs had in common."""
        self.shared.close()
