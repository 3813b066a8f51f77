"""Log a run to MLflow; server or folder and experiment come from MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME."""

import os
import re
import time
from collections.abc import Mapping
from typing import Any

from fcil.loggers.base import Logger, RunInfo
from fcil.loggers.figures import AFTER_TASK

__all__ = ["ToMlflow"]

ID, GROUP = "fcil.id", "fcil.group"
"""Tags of an MLflow run: that by which it is found again, and the comparison that it belongs to."""
METRICS, PARAMETERS, LENGTH = 500, 100, 6000
"""Most metrics and parameters of one request, and characters of a parameter: MLflow admits 1000, 100 and 6000."""


def _admitted(name: str) -> str:
    """Replace the characters that MLflow does not admit in a name, which may come from names of classes."""
    return re.sub(r"[^\w./ -]", "_", name)


class ToMlflow(Logger):
    """Log to a run in the experiment MLFLOW_EXPERIMENT_NAME, `fcil` without one, which has fcil's id as a tag."""

    def started(self, run: RunInfo) -> None:
        """Begin the MLflow run, or go on with the one that has the run's id."""
        from mlflow import MlflowClient

        self.client: Any = MlflowClient()
        experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or "fcil")
        there = self.client.search_runs([experiment], f"tags.`{ID}` = '{run.id}'", max_results=1)
        self.step = run.done
        if there:
            self.id = there[0].info.run_id
            self.client.update_run(self.id, status="RUNNING")
            return
        tags = {ID: run.id, **({GROUP: run.group} if run.group else {})}
        self.id = self.client.create_run(experiment, run_name=run.name, tags=tags).info.run_id
        self._log_settings(run.config)

    def _experiment(self, name: str) -> str:
        """Find or make an experiment; another process may make it at the same time."""
        from mlflow.exceptions import MlflowException

        if (experiment := self.client.get_experiment_by_name(name)) is None:
            try:
                return str(self.client.create_experiment(name))
            except MlflowException:
                if (experiment := self.client.get_experiment_by_name(name)) is None:
                    raise
        return str(experiment.experiment_id)

    def _log_settings(self, config: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        rows = [Param(_admitted(name), str(value)[:LENGTH]) for name, value in config.items()]
        for begin in range(0, len(rows), PARAMETERS):
            self.client.log_batch(self.id, params=rows[begin : begin + PARAMETERS])

    def figures(self, step: int, figures: Mapping[str, float]) -> None:
        """Log a metric for each figure."""
        from mlflow.entities import Metric

        now, self.step = int(1000 * time.time()), step
        steps = {AFTER_TASK: int(figures.get("task", 0))}
        rows = [Metric(_admitted(name), float(x), now, steps.get(name, step)) for name, x in figures.items()]
        for begin in range(0, len(rows), METRICS):
            self.client.log_batch(self.id, metrics=rows[begin : begin + METRICS])

    def finished(self, figures: Mapping[str, float]) -> None:
        """Log the final figures as metrics at the last step."""
        self.figures(self.step, {f"final/{name}": value for name, value in figures.items()})

    def closed(self, reason: str) -> None:
        """Set the run's status: finished, or killed where it can be gone on with."""
        if run := vars(self).pop("id", None):
            self.client.set_terminated(run, "KILLED" if reason else "FINISHED")
