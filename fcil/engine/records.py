"""Reads and writes a run folder: settings, events, figures and checkpoints. Append-only or atomic; no pickle.

config.toml          resolved settings, and under [provenance] the method's defaults, versions, commit and hashes
census.json          classes in their order of arrival, and how many images of each task and class are held where
metrics.jsonl        one line per event
accuracy_matrix.csv  row: after task t, column: task
summary.json         only in a finished run
checkpoint/          the two newest, NNNNNN.safetensors: state and progress with a checksum over both
clients/             what clients keep for themselves, if the method lets them
secure_sums.json     with run.secure_sums, of which clients sums were had, see `fcil.engine.arrivals`
diagnostics/         with run.diagnostics, see `fcil.engine.diagnostics`
plots/
"""

import csv
import io
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tomli_w

from fcil.config import Config, from_table, to_table
from fcil.engine.checkpoints import CHECKPOINTS, newest_first, read_checkpoint, with_new_keys, write_checkpoint
from fcil.engine.disk import writing
from fcil.engine.figures import completed
from fcil.engine.folder_lock import open_locked
from fcil.engine.metrics import accuracy_matrix
from fcil.errors import ConfigError, FolderInUse
from fcil.files import left_aside, write_atomic
from fcil.scenario.census import Census
from fcil.server.plan import Progress

__all__ = [
    "CENSUS", "CONFIG", "EVENTS", "FAILED", "GRID", "MATRIX", "PLOTS", "SUMMARY", "Recorder", "left_at_start",
    "read_config", "read_provenance", "read_summary", "recorded_inside",
]  # fmt: skip

NAMED = 4
"""Runs that a message names."""

FAILED = "failed.txt"
"""Name of the file that says why a run of a comparison failed; gone when the run is tried again."""
GRID = "grid.json"
"""Name of the file, in the folder of a comparison, that lists its runs."""
CONFIG, CENSUS, EVENTS, MATRIX, SUMMARY, PLOTS = (
    "config.toml", "census.json", "metrics.jsonl", "accuracy_matrix.csv", "summary.json", "plots"
)  # fmt: skip


def left_at_start(path: Path) -> bool:
    """Tell whether a path is of what a process leaves in a run folder that is killed before it wrote any settings."""
    if path.name in (CHECKPOINTS, PLOTS) and path.is_dir():
        return not any(path.iterdir())
    empty = path.name == EVENTS and path.is_file() and not path.stat().st_size
    return left_aside(path) or path.name == FAILED or empty


def recorded_inside(folder: Path) -> str:
    """Name the runs and comparisons in a folder that is neither, for the end of a message."""
    folders = sorted(path.parent.name for name in (CONFIG, GRID) for path in folder.glob(f"*/{name}"))
    more = f", ... ({len(folders)} in all)" if len(folders) > NAMED else ""
    return f"; in it lie {', '.join(folders[:NAMED])}{more}: name one or several of these" if folders else ""


def _read_table(folder: Path) -> dict[str, Any]:
    try:
        return tomllib.loads((folder / CONFIG).read_text())
    except FileNotFoundError:
        what = f"not a run folder (it has no {CONFIG})" if folder.is_dir() else "no such folder"
        raise ConfigError(f"{folder}: {what}{recorded_inside(folder)}") from None
    except NotADirectoryError:
        raise ConfigError(f"{folder}: a file, not the folder of a run") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{folder / CONFIG}: damaged ({error}); start the run anew in another folder") from None


def read_config(folder: Path) -> Config:
    """Read the settings of the run in `folder`; raises ConfigError if there is none."""
    table = _read_table(folder)
    table.pop("provenance", None)
    return from_table([(str(folder / CONFIG), table)])


def read_provenance(folder: Path) -> dict[str, Any]:
    """Read the versions and hashes that were recorded when the run started."""
    return dict(_read_table(folder).get("provenance", {}))


def read_summary(folder: Path) -> dict[str, Any] | None:
    """Read the figures of a finished run; None while it is not finished."""
    try:
        return completed(with_new_keys(json.loads((folder / SUMMARY).read_text())))
    except (FileNotFoundError, NotADirectoryError):
        return None


class Recorder:
    """Writes one run folder. Holds a lock on it, so that no two processes go on with the same run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with writing(folder, begun=False):
            self._events: BinaryIO = open_locked(folder / EVENTS)
            for part in (folder, folder / CHECKPOINTS, folder / PLOTS):
                part.mkdir(exist_ok=True)
                for stale in filter(left_aside, part.iterdir()):  # by a process that was killed while it wrote
                    stale.unlink()

    @classmethod
    def create(cls, folder: Path, config: Config, provenance: Mapping[str, Any]) -> "Recorder":
        """Begin to record a new run; the caller has made sure that the folder holds no other.

        Raises:
            FolderInUse: another process has begun it in the meantime.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be made ({error.strerror}); choose another --output") from None
        recorder = cls(folder)  # locked before its settings are written: of two processes one has the run
        try:
            if (folder / CONFIG).exists():
                raise FolderInUse(f"{folder}: another process is working on this run")
            recorder.write_settings(config, provenance)
        except BaseException:
            recorder.close()
            raise
        return recorder

    def write_settings(self, config: Config, provenance: Mapping[str, Any]) -> None:
        """Write config.toml, before any phase."""
        text = tomli_w.dumps({**to_table(config), "provenance": provenance})
        with writing(self.folder, begun=False):
            write_atomic(self.folder / CONFIG, text.encode())

    def latest(self) -> tuple[Progress | None, list[str]]:
        """Read the newest good checkpoint and cut the event log back to it; a warning for each damaged one."""
        warnings = []
        for path in newest_first(self.folder):
            try:
                progress, length = read_checkpoint(path)
            except ValueError as error:
                warnings.append(f"{path.name}: {error}; going back to the checkpoint before it")
                path.unlink()
                continue
            self._events.truncate(length)
            return progress, warnings
        self._events.truncate(0)
        return None, warnings

    def emit(self, event: Mapping[str, Any]) -> None:
        """Write an event as one line of metrics.jsonl."""
        with writing(self.folder):
            self._events.write(json.dumps(event).encode() + b"\n")
            self._events.flush()

    def save(self, progress: Progress) -> None:
        """Write a checkpoint, after the events that led to it are on disk."""
        with writing(self.folder):
            os.fsync(self._events.fileno())
            write_checkpoint(self.folder / CHECKPOINTS, progress, os.fstat(self._events.fileno()).st_size)

    def write_census(self, census: Census) -> None:
        """Write who holds how many images of which class into census.json."""
        with writing(self.folder):
            write_atomic(self.folder / CENSUS, (json.dumps(census.to_table()) + "\n").encode())

    def write_matrix(self, correct: Sequence[Sequence[int]], total: Sequence[int]) -> None:
        """Write accuracy_matrix.csv, with empty cells for tasks not seen yet."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["after_task", *(f"task_{s + 1}" for s in range(len(total)))])
        for t, row in enumerate(accuracy_matrix(correct, total)):
            writer.writerow([t + 1, *("" if np.isnan(value) else repr(float(value)) for value in row)])
        with writing(self.folder):
            write_atomic(self.folder / MATRIX, text.getvalue().encode())

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json: from now on the run counts as finished."""
        with writing(self.folder):
            write_atomic(self.folder / SUMMARY, (json.dumps(summary, indent=2) + "\n").encode())

    def close(self) -> None:
        """Close the event log, which unlocks the folder."""
        with suppress(OSError):  # what a full disk did not take before, it does not take now
            self._events.close()
