"""Log a run to Weights & Biases; project, entity and mode come from its own variables, WANDB_PROJECT and so on."""

import os
from collections.abc import Mapping
from typing import Any

from fcil.loggers.base import Logger, RunInfo
from fcil.loggers.figures import AFTER_TASK

__all__ = ["ToWandb"]


class ToWandb(Logger):
    """Log to the run with fcil's id in the project WANDB_PROJECT, `fcil` without one; files lie in the run folder."""

    def started(self, run: RunInfo) -> None:
        """Begin the W&B run, or go on with it: its id is the run's."""
        import wandb

        self.run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "fcil", id=run.id, name=run.name, dir=str(run.folder.absolute()),
            group=os.environ.get("WANDB_RUN_GROUP") or run.group or None, resume="allow", reinit="create_new",
            config=dict(run.config), settings=wandb.Settings(console="off", silent=True),
        )  # fmt: skip
        self.run.define_metric("step", hidden=True)
        self.run.define_metric(AFTER_TASK, step_metric="task")
        self.run.define_metric("*", step_metric="step")  # W&B's own steps count what it was sent, also twice

    def figures(self, step: int, figures: Mapping[str, float]) -> None:
        """Log the figures of a phase, over `step`."""
        self.run.log({"step": step, **figures})

    def finished(self, figures: Mapping[str, float]) -> None:
        """Put the final figures into the run's summary."""
        self.run.summary.update({f"final/{name}": value for name, value in figures.items()})

    def closed(self, reason: str) -> None:
        """Wait for what is not sent yet, and mark a run that stopped as failed."""
        if run := vars(self).pop("run", None):
            run.finish(exit_code=1 if reason else 0)
