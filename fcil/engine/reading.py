"""Reads the events and accuracies of a run folder; nothing in the folder is touched."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fcil.engine.records import CENSUS, EVENTS, MATRIX
from fcil.scenario.census import Census

__all__ = ["read_census", "read_events", "read_matrix"]


def read_census(folder: Path) -> Census | None:
    """Read how many images are held where; None of a run that an earlier version recorded, which did not write it."""
    try:
        return Census.from_table(json.loads((folder / CENSUS).read_text()))
    except FileNotFoundError:
        return None


def read_events(folder: Path) -> Iterator[dict[str, Any]]:
    """Read the lines of metrics.jsonl, without one that was being written when the run was stopped."""
    try:
        lines = (folder / EVENTS).read_bytes().split(b"\n")
    except FileNotFoundError:
        return
    for line in lines[:-1]:  # a whole one ends with a line break
        yield json.loads(line)


def read_matrix(folder: Path) -> np.ndarray:
    """Read accuracy_matrix.csv, (tasks done, tasks): shares, NaN for tasks not seen yet; (0, 0) before the first."""
    try:
        _, *rows = csv.reader((folder / MATRIX).read_text().splitlines())
    except FileNotFoundError:
        return np.zeros((0, 0))
    return np.array([[float(cell or "nan") for cell in cells] for _, *cells in rows])
