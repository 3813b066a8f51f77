"""Stores what a client keeps for itself between phases (a replay buffer, say), in files that are never sent.

A client that takes part in phase p reads the newest state written before p and writes its own for p. So a phase that is
run again, after a crash or on another worker, starts from the same state and overwrites the same file.
"""

import os
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fcil.arrays import Arrays
from fcil.errors import RunError
from fcil.files import delete_stale, replacing

__all__ = ["ClientStore", "MemoryStore", "StoreError"]

KEPT = 4
"""States of a client that are kept: enough to go back behind the older of the two checkpoints that a run keeps."""


class StoreError(RunError):
    """Tells that what a client keeps cannot be written: a full disk, a quota, a folder that is read-only or gone."""


class ClientStore:
    """The states of all clients under one folder, `client/phase.safetensors`; the KEPT newest of each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _phases(self, client: int) -> list[tuple[int, Path]]:
        folder = self.folder / str(client)
        try:
            names = os.listdir(folder)
        except FileNotFoundError:  # most clients of most methods keep nothing
            return []
        stems = (name.removesuffix(".safetensors") for name in names if name.endswith(".safetensors"))
        return sorted((int(stem), folder / f"{stem}.safetensors") for stem in stems if stem.isdigit())

    def read(self, client: int, phase: int) -> dict[str, np.ndarray]:
        """The client's arrays as they stood before `phase`; empty at first."""
        earlier = [path for index, path in self._phases(client) if index < phase]
        return dict(load_file(earlier[-1])) if earlier else {}

    def write(self, client: int, phase: int, arrays: Arrays) -> None:
        """Write the client's arrays after `phase`, aside and renamed, and delete what no resumed run can need.

        Raises:
            StoreError: they cannot be written; nothing is left of them, and the earlier ones stay.
        """
        if not arrays and not self._phases(client):
            return  # it never kept anything; one that dropped what it had is written, or the old would come back
        folder = self.folder / str(client)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / f"{phase:06d}.safetensors") as aside:
                save_file({name: np.asarray(a, order="C") for name, a in arrays.items()}, aside)
        except (OSError, SafetensorError) as error:
            reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
            raise StoreError(
                f"{folder}: cannot be written ({reason}): what the client keeps for its next round would be lost, so "
                "its update is not sent"
            ) from None
        for _, path in self._phases(client)[:-KEPT]:
            path.unlink(missing_ok=True)
        delete_stale(folder.iterdir())


class MemoryStore:
    """The states of all clients in the memory of one process, for a run that has no folder."""

    def __init__(self) -> None:
        self._states: dict[int, dict[int, Arrays]] = {}

    def read(self, client: int, phase: int) -> dict[str, np.ndarray]:
        """Copies of the client's arrays as they stood before `phase`; empty at first."""
        states = self._states.get(client, {})
        earlier = [index for index in states if index < phase]
        return {name: a.copy() for name, a in states[max(earlier)].items()} if earlier else {}

    def write(self, client: int, phase: int, arrays: Arrays) -> None:
        """Keep the client's arrays after `phase`."""
        if arrays or client in self._states:
            states = {**self._states.get(client, {}), phase: dict(arrays)}
            self._states[client] = {index: states[index] for index in sorted(states)[-KEPT:]}
