"""Log a run to TensorBoard, in the folder tensorboard/ of the run folder."""

from collections.abc import Mapping
from typing import Any

from fcil.loggers.base import Logger, RunInfo
from fcil.loggers.figures import AFTER_TASK

__all__ = ["FOLDER", "ToTensorBoard"]

FOLDER = "tensorboard"


class ToTensorBoard(Logger):
    """Write event files: scalars over phases, settings as text and, with the final figures, as hyperparameters.

    `tensorboard --logdir runs` shows all runs below a folder.
    """

    def started(self, run: RunInfo) -> None:
        """Open an event file; of a resumed run the steps that it will do again are taken back."""
        from torch.utils.tensorboard import SummaryWriter

        self.run, self.step = run, run.done
        self.writer: Any = SummaryWriter(str(run.folder / FOLDER), purge_step=run.done + 1 if run.done else None)
        if not run.done:
            rows = "\n".join(f"| {name} | `{value}` |" for name, value in run.config.items())
            self.writer.add_text("settings", f"| setting | value |\n|---|---|\n{rows}")

    def figures(self, step: int, figures: Mapping[str, float]) -> None:
        """Write a scalar for each figure."""
        self.step = step
        for name, value in figures.items():
            self.writer.add_scalar(name, value, int(figures["task"]) if name == AFTER_TASK else step)
        self.writer.flush()

    def finished(self, figures: Mapping[str, float]) -> None:
        """Write the final figures at the last step, beside the settings, for the tab HPARAMS."""
        plain = {n: v if isinstance(v, bool | int | float | str) else str(v) for n, v in self.run.config.items()}
        settings = {name: value for name, value in plain.items() if not name.startswith("provenance.")}
        final = {f"final/{name}": value for name, value in figures.items()}
        self.writer.add_hparams(settings, final, run_name=".", global_step=self.step)

    def closed(self, reason: str) -> None:
        """Write what is left and close the file."""
        if writer := vars(self).pop("writer", None):
            writer.close()
