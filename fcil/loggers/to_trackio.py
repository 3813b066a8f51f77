"""Log a run to trackio; the folder of its databases, or a Space, comes from TRACKIO_DIR, TRACKIO_SPACE_ID and so on."""

import os
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any

from fcil.loggers.base import Logger, RunInfo

__all__ = ["ToTrackio"]


class ToTrackio(Logger):
    """Log to the project TRACKIO_PROJECT, `fcil` without one; the name of a run ends in a part of fcil's id."""

    def started(self, run: RunInfo) -> None:
        """Begin the trackio run, or go on with the one of this name; what it prints goes to standard error."""
        import trackio

        self.step = run.done
        with redirect_stdout(sys.stderr):
            self.run: Any = trackio.init(
                project=os.environ.get("TRACKIO_PROJECT") or "fcil", name=f"{run.name} {run.id[:6]}",
                group=run.group or None, config=dict(run.config), resume="allow", embed=False,
            )  # fmt: skip

    def figures(self, step: int, figures: Mapping[str, float]) -> None:
        """Log the figures of a phase."""
        self.step = step
        self.run.log(dict(figures), step=step)

    def finished(self, figures: Mapping[str, float]) -> None:
        """Log the final figures at the last step."""
        self.run.log({f"final/{name}": value for name, value in figures.items()}, step=self.step)

    def closed(self, reason: str) -> None:
        """Wait until all is written."""
        if vars(self).pop("run", None):
            import trackio

            with redirect_stdout(sys.stderr):
                trackio.finish()  # the run's own `finish` would leave it to be finished again when Python ends
