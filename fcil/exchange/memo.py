"""Remembers clients' updates in a folder, so that runs of one comparison compute none twice.

An update depends on nothing but what a client is given, so two runs that give it the same have the same update: LoRM
and its hybrids train alike, and merges over tasks train every task alike. The key is a hash of all that it depends on.
A share of the updates that are found is computed all the same and compared, bit for bit.
"""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fcil.arrays import Arrays, digest, nbytes
from fcil.errors import RunError
from fcil.files import delete_stale
from fcil.method import ClientUpdate, Phase

__all__ = ["MEMO", "REUSED", "Memo"]

REUSED = "reused"
"""Metric of an update that was not computed anew: 1."""
MEMO = "memo"
"""Name of the folder, in that of a comparison, where updates are remembered."""
GROUPS = ("arrays", "statistics", "kept")
LIMIT = 20e9
"""Bytes that the folder may hold, unless another number is given; what was used longest ago is deleted."""


@dataclass
class Memo:
    """Updates in a folder, one file each, under their keys. Any number of processes may use it at once."""

    folder: Path
    share: float = 0.02
    """Share of the updates found that are computed again and compared."""
    limit: float = LIMIT
    """Bytes that the folder may hold."""
    phases: frozenset[int] | None = None
    """Phases of which updates are remembered, those in which another run may have the same; None for all."""
    _written: float = field(default=float("inf"), repr=False)
    """Bytes written since the folder was last looked through; at first it has not been."""

    def update(
        self, key: str | None, store: dict[str, np.ndarray], compute: Callable[[], ClientUpdate], phase: Phase
    ) -> ClientUpdate:
        """Return the update under a key, or compute it and keep it.

        Args:
            store: what the client keeps for itself; `compute` changes it, and it is changed in the same way here.

        Raises:
            RunError: an update that was computed again is another one: some of what it depends on is not in the key.
        """
        if key is None or (self.phases is not None and phase.index not in self.phases):
            return compute()
        entry = self._read(key)
        if entry is None:
            update = compute()
            self._write(key, update, store)
            return update
        update, after = entry
        if self._is_checked(key):
            _compare(compute(), store, update, after, self.folder)
        store.clear()
        store.update(after)
        return replace(update, phase=phase.index, metrics={**update.metrics, REUSED: 1.0})

    def _is_checked(self, key: str) -> bool:
        return int(key[:8], 16) < self.share * 2**32

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def _read(self, key: str) -> tuple[ClientUpdate, dict[str, np.ndarray]] | None:
        """The update under a key and what the client keeps; None where there is none, or where its file is damaged."""
        path = self._path(key)
        try:
            with safe_open(path, "numpy") as file:
                about = json.loads((file.metadata() or {})["update"])
                flat = {name: file.get_tensor(name) for name in about["order"]}
            if digest(flat) != about["sha256"]:
                return None
            os.utime(path)  # used now: what was used longest ago is deleted first
        except (OSError, SafetensorError, KeyError, ValueError):
            return None
        groups: dict[str, dict[str, np.ndarray]] = {group: {} for group in GROUPS}
        for name, a in flat.items():
            group, _, inner = name.partition(":")
            groups[group][inner] = a
        arrays, statistics, store = (groups[group] for group in GROUPS)
        return ClientUpdate(about["client"], 0, about["examples"], arrays, statistics, about["metrics"]), store

    def _write(self, key: str, update: ClientUpdate, store: Arrays) -> None:
        """Keep an update, whole or not at all; without room on the disk it is not kept."""
        flat = _flat(update, store)
        about = {
            "client": update.client, "examples": update.num_examples, "metrics": dict(update.metrics),
            "order": list(flat), "sha256": digest(flat),
        }  # fmt: skip
        path = self._path(key)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            self._make_room(nbytes(flat))
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(
                {name: np.asarray(a, order="C") for name, a in flat.items()}, aside, {"update": json.dumps(about)}
            )
            aside.replace(path)
        except (OSError, SafetensorError):  # nothing depends on what is remembered
            with suppress(OSError):
                aside.unlink()

    def _make_room(self, more: int) -> None:
        """Delete what was used longest ago where the folder has grown beyond its limit, now and then."""
        self._written += more
        if self._written < self.limit / 20:
            return
        self._written = 0.0
        files = []
        delete_stale(self.folder.glob("*/.*"))
        for path in self.folder.glob("*/*.safetensors"):
            try:
                files.append((path.stat().st_mtime_ns, path.stat().st_size, path))
            except FileNotFoundError:
                continue  # another process has deleted it
        size = sum(size for _, size, _ in files)
        for _, length, path in sorted(files):
            if size + more <= 0.9 * self.limit:
                return
            path.unlink(missing_ok=True)
            size -= length


def _flat(update: ClientUpdate, store: Arrays) -> dict[str, np.ndarray]:
    """All arrays of an update, and what the client keeps, under one name each."""
    parts = zip(GROUPS, (update.arrays, update.statistics, store), strict=True)
    return {f"{group}:{name}": np.asarray(a) for group, arrays in parts for name, a in arrays.items()}


def _compare(
    computed: ClientUpdate, store: Arrays, other_update: ClientUpdate, other_store: Arrays, folder: Path
) -> None:
    ours, theirs = _flat(computed, store), _flat(other_update, other_store)
    if digest(ours) == digest(theirs):
        return
    names = sorted(n for n in ours.keys() | theirs.keys() if digest({n: ours.get(n, np.zeros(0))}) !=
                   digest({n: theirs.get(n, np.zeros(0))}))  # fmt: skip
    raise RunError(
        f"client {computed.client}: the update that another run has computed from the same input has other bits "
        f"({', '.join(names[:3])}{' ...' if len(names) > 3 else ''}). This processor does not repeat its "
        f"results, or fcil has a fault. Delete {folder} and compare with --no-memo"
    )
