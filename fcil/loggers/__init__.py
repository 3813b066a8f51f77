"""Tell other programs of a run while it goes on: TensorBoard, Weights & Biases, MLflow, trackio, CSV, or your own.

A logger is told what the run's records hold; it changes no result and cannot stop a run. See docs/loggers.md.
"""

from fcil.loggers.base import Logger, RunInfo
from fcil.loggers.choice import BUILT_IN, build_loggers, check_loggers
from fcil.loggers.figures import AFTER_TASK, figures_of, final_figures

__all__ = [
    "AFTER_TASK",
    "BUILT_IN",
    "Logger",
    "RunInfo",
    "build_loggers",
    "check_loggers",
    "figures_of",
    "final_figures",
]
