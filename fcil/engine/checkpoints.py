"""Writes and reads checkpoints, NNNNNN.safetensors: a run's state and progress with a checksum over both. No pickle."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fcil.arrays import Arrays, digest, grouped, ungrouped
from fcil.files import replacing
from fcil.server.plan import Progress, Storage
from fcil.server.traffic import Ledger

__all__ = [
    "CHECKPOINTS",
    "checksum",
    "newest_first",
    "read_checkpoint",
    "read_progress",
    "with_new_keys",
    "write_checkpoint",
]

CHECKPOINTS, KEPT = "checkpoint", 2
"""Name of the folder in a run's, and how many checkpoints are kept there."""


def with_new_keys(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with keys renamed since it was written: `correct` was `right`."""
    return {"correct" if key == "right" else key: value for key, value in record.items()}


def checksum(progress: str, arrays: Arrays) -> str:
    """SHA-256 over progress, as it is written, and arrays."""
    return hashlib.sha256(f"{progress}|{digest(arrays)}".encode()).hexdigest()


def write_checkpoint(folder: Path, progress: Progress, events_bytes: int) -> None:
    """Write a checkpoint into a run's folder of them, and delete all but the newest.

    Args:
        events_bytes: length of the event log at this time.
    """
    # not ascontiguousarray, which gives a scalar an axis
    arrays = {name: np.asarray(a, order="C") for name, a in ungrouped(progress.state).items()}
    metadata = json.dumps({
        "position": progress.position, "correct": progress.correct, "at_places": progress.at_places,
        "class_correct": progress.class_correct, "kept": progress.kept, "storage": progress.storage,
        "totals": progress.totals, "events": events_bytes,
        "ledger": {name: [content, hex(mask)] for name, (content, mask) in progress.ledger.holders.items()},
        **({"unevaluated": True} if progress.unevaluated else {}),
    })  # fmt: skip
    with replacing(folder / f"{progress.position:06d}.safetensors") as aside:
        save_file(arrays, aside, {"progress": metadata, "sha256": checksum(metadata, arrays)})
    for old in sorted(folder.glob("[0-9]*.safetensors"))[:-KEPT]:
        old.unlink()


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints of a run, newest first."""
    return sorted((folder / CHECKPOINTS).glob("[0-9]*.safetensors"), reverse=True)


def read_checkpoint(path: Path) -> tuple[Progress, int]:
    """Read the progress, and the bytes of the event log at that time; ValueError if the file is torn or corrupt."""
    try:
        with safe_open(path, "numpy") as file:
            meta = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
        if checksum(meta["progress"], arrays) != meta["sha256"]:
            raise ValueError("its checksum does not match")
    except (SafetensorError, OSError, KeyError) as error:
        raise ValueError(str(error)) from None
    saved = with_new_keys(json.loads(meta["progress"]))
    ledger = Ledger({name: (content, int(mask, 16)) for name, (content, mask) in saved["ledger"].items()})
    correct = tuple(tuple(row) for row in saved["correct"])
    # older runs have none of these
    at_places, by_class = (tuple(tuple(row) for row in saved.get(key, ())) for key in ("at_places", "class_correct"))
    sizes = {int(client): int(n) for client, n in saved.get("kept", {}).items()}
    storage = tuple(Storage(*row) for row in saved.get("storage", ()))
    progress = Progress(
        saved["position"], grouped(arrays), ledger, correct, at_places, by_class, sizes, storage, saved["totals"],
        saved.get("unevaluated", False),
    )  # fmt: skip
    return progress, int(saved["events"])


def read_progress(folder: Path) -> Progress | None:
    """Read where a run stands by its newest good checkpoint, None before the first; the folder is not touched."""
    for path in newest_first(folder):
        try:
            return read_checkpoint(path)[0]
        except ValueError:
            continue
    return None
