"""Writes down which runs a comparison consists of, so that other processes can carry out some, or watch them."""

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from fcil.config import Config, Point, RowFacts, from_table, to_table, unlike
from fcil.engine.comparison import Cell
from fcil.engine.folder_lock import is_locked
from fcil.engine.records import CONFIG, EVENTS, FAILED, GRID, SUMMARY, read_config, recorded_inside
from fcil.errors import ConfigError
from fcil.files import write_atomic
from fcil.server.plan import phase_weights

__all__ = [
    "GRID", "RunState", "check_settings_of", "go_where_it_was_begun", "read_grid", "run_state", "watched", "write_grid",
]  # fmt: skip

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


def check_settings_of(folder: Path, config: Config) -> None:
    """Check that the run in a folder, if there is one, has the settings of this one that numbers depend on.

    Raises:
        ConfigError: it has others.
    """
    if (folder / CONFIG).exists() and (names := unlike(read_config(folder), config)):
        raise ConfigError(
            f"{folder}: holds another run, which differs in {', '.join(names)} (see its {CONFIG}). Choose another "
            "--output, or delete the folder"
        )


def write_grid(out: Path, runs: Sequence[Cell]) -> None:
    """Write the list of a comparison's runs into its folder, with all that it takes to carry each out.

    Raises:
        ConfigError: the folder cannot be written, or holds a run; or runs of the comparison that was there, with other
            settings, go on.
    """
    if (out / CONFIG).exists():
        raise ConfigError(f"{out}: holds a single run, and no comparison goes on top of it; choose another --output")
    wanted = {cell.folder: cell.config for cell in runs}
    for cell in read_grid(out) if (out / GRID).exists() else ():
        if cell.folder in wanted and unlike(cell.config, wanted[cell.folder]) and run_state(cell.folder) == "running":
            raise ConfigError(
                f"{out}: another comparison goes on in this folder, whose {cell.name} has other settings "
                f"({', '.join(unlike(cell.config, wanted[cell.folder]))}); choose another --output"
            )
    try:
        out.mkdir(parents=True, exist_ok=True)
        table = [_entry(cell, out) for cell in runs]
        content = {"begun_in": str(Path.cwd()), "runs": table}
        write_atomic(out / GRID, (json.dumps(content, indent=1) + "\n").encode())
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror}); choose another --output") from None


def _entry(cell: Cell, out: Path) -> dict[str, Any]:
    return {
        "label": cell.label, "seed": cell.seed, "folder": str(cell.folder.relative_to(out)),
        "point": cell.point.settings, "facts": asdict(cell.facts), "common": sorted(cell.common), "kin": cell.kin,
        "work": cell.work, "config": to_table(cell.config),
    }  # fmt: skip


def go_where_it_was_begun(out: Path) -> Path:
    """Change to the folder from which a comparison was begun, where there is one here: its relative paths hold there.

    Returns:
        The comparison's folder, absolute.
    """
    out = out.absolute()
    read_grid(out)
    with suppress(OSError):
        os.chdir(json.loads((out / GRID).read_text()).get("begun_in", "."))
    return out


def read_grid(out: Path) -> list[Cell]:
    """Read the runs of the comparison in a folder.

    Raises:
        ConfigError: the folder holds no comparison, or its list is damaged.
    """
    try:
        return [_cell(entry, out) for entry in json.loads((out / GRID).read_text())["runs"]]
    except FileNotFoundError:
        new = "no such folder; if it has just been begun, it is made once code and data are loaded: ask again then"
        what = f"holds no comparison (it has no {GRID})" if out.is_dir() else new
        raise ConfigError(f"{out}: {what}{recorded_inside(out)}") from None
    except NotADirectoryError:
        raise ConfigError(f"{out}: a file, not the folder of a run or comparison") from None
    except (ValueError, KeyError, TypeError, tomllib.TOMLDecodeError) as error:
        told = f"{out / GRID}: damaged ({error}); delete it, and give the comparison's command again"
        raise ConfigError(f"{told}: finished runs are only read") from None


def watched(folder: Path) -> list[Cell]:
    """Read the runs of the comparison in a folder, or the one run.

    Raises:
        ConfigError: the folder holds neither.
    """
    if (folder / GRID).exists() or not (folder / CONFIG).exists():
        return read_grid(folder)
    from fcil.engine.session import prepare  # which imports torch

    plan = prepare(read_config(folder), folder).plan
    work = tuple(phase_weights(plan))
    return [Cell(plan.config.method.label, plan.config.run.seed, folder, plan.config, work=work)]


def _cell(entry: Mapping[str, Any], out: Path) -> Cell:
    return Cell(
        entry["label"], entry["seed"], out / entry["folder"], from_table([(str(out / GRID), entry["config"])]),
        Point(tuple((name, value) for name, value in entry["point"])), RowFacts(**entry["facts"]),
        frozenset(entry["common"]), tuple(entry["work"]), tuple(entry["kin"]),
    )  # fmt: skip
