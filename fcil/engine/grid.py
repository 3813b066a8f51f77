"""Writes down which runs a comparison consists of, so that other processes can carry out some, or watch them."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from fcil.config import Point, RowFacts, from_table, to_table
from fcil.engine.comparison import Cell
from fcil.engine.folder_lock import is_locked
from fcil.engine.records import CONFIG, EVENTS, FAILED, SUMMARY, write_atomic
from fcil.errors import ConfigError
from fcil.server.plan import phase_weights

__all__ = ["GRID", "RunState", "read_grid", "run_state", "watched", "write_grid"]

GRID = "grid.json"
"""Name of the file, in the folder of a comparison, that lists its runs."""
RunState = Literal["finished", "running", "failed", "stopped", "not begun"]


def run_state(folder: Path) -> RunState:
    """Say where a run is, by what lies in its folder and by who holds its lock."""
    if (folder / SUMMARY).exists():
        return "finished"
    if is_locked(folder / EVENTS):
        return "running"
    if (folder / FAILED).exists():
        return "failed"
    return "stopped" if (folder / CONFIG).exists() else "not begun"


def write_grid(out: Path, runs: Sequence[Cell]) -> None:
    """Write the list of a comparison's runs into its folder, with all that it takes to carry each out."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        table = [_entry(cell, out) for cell in runs]
        write_atomic(out / GRID, (json.dumps({"runs": table}, indent=1) + "\n").encode())
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror}); choose another --output") from None


def _entry(cell: Cell, out: Path) -> dict[str, Any]:
    return {
        "label": cell.label, "seed": cell.seed, "folder": str(cell.folder.relative_to(out)),
        "point": cell.point.settings, "facts": asdict(cell.facts), "common": sorted(cell.common), "kin": cell.kin,
        "work": cell.work, "config": to_table(cell.config),
    }  # fmt: skip


def read_grid(out: Path) -> list[Cell]:
    """Read the runs of the comparison in a folder.

    Raises:
        ConfigError: the folder holds no comparison, or its list is damaged.
    """
    try:
        return [_cell(entry, out) for entry in json.loads((out / GRID).read_text())["runs"]]
    except FileNotFoundError:
        raise ConfigError(f"{out}: holds no comparison (it has no {GRID})") from None
    except (ValueError, KeyError, TypeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{out / GRID}: damaged ({error}); start the comparison again with its own command") from None


def watched(folder: Path) -> list[Cell]:
    """Read the runs of the comparison in a folder, or the one run.

    Raises:
        ConfigError: the folder holds neither.
    """
    if (folder / GRID).exists() or not (folder / CONFIG).exists():
        return read_grid(folder)
    from fcil.engine.simulation import resume  # which imports torch

    plan = resume(folder).plan
    work = tuple(phase_weights(plan))
    return [Cell(plan.config.method.label, plan.config.run.seed, folder, plan.config, work=work)]


def _cell(entry: Mapping[str, Any], out: Path) -> Cell:
    return Cell(
        entry["label"], entry["seed"], out / entry["folder"], from_table([(str(out / GRID), entry["config"])]),
        Point(tuple((name, value) for name, value in entry["point"])), RowFacts(**entry["facts"]),
        frozenset(entry["common"]), tuple(entry["work"]), tuple(entry["kin"]),
    )  # fmt: skip
