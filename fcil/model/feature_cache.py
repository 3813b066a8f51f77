"""Keeps features of a frozen network in files, so that runs which see the same images compute them once.

Features of an image are the same bits in every batch on most processors, but not on all: the sums in a matrix product
may be ordered by the number of rows. So the first batch is computed in several pieces and orders; where one bit
differs, nothing is kept. Later a share of the batches found is computed all the same, once in a process, and compared;
of the first batch that a run finds in a table, a few images in any case.
"""

import json
import os
import shutil
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fcil.errors import RunError
from fcil.files import write_atomic

__all__ = ["FeatureCache", "Table", "is_independent"]

LIMIT = 20e9
"""Bytes that the folder may hold, unless another number is given; what was used longest ago is deleted."""
TESTED = 64
"""Rows of the batch, at least, on which it is tried whether an image's bits depend on the images beside it."""
FEW = 8
"""Images of the first batch found that are compared: what was left out of a key would change every image."""
Compute = Callable[[Tensor], Tensor]
"""Images (n, 3, h, w) -> features (n, width), float32."""


def is_independent(images: Tensor, compute: Compute) -> bool:
    """Tell whether the features of an image have the same bits alone, in pieces of a batch, and in another order."""
    n = max(TESTED, len(images))
    images = images[torch.arange(n, device=images.device) % len(images)]  # repeated: few images would show nothing
    whole = compute(images)
    same = all(torch.equal(compute(images[:size]), whole[:size]) for size in (1, 3, FEW, n // 2, n - 1))
    return same and torch.equal(compute(images.flip(0)).flip(0), whole)


class Table:
    """Features of the images of one part of a data set, (images, width) float32, with a checksum for every row.

    A row without one has not been computed, and a row that does not fit its own is computed again: the file may be
    written by several processes at once, and may have been cut off. A file has holes for what is not there.
    """

    def __init__(self, folder: Path, rows: int, width: int) -> None:
        self._values = np.memmap(folder / "features.f32", np.float32, "r+", shape=(rows, width))
        self._sums = np.memmap(folder / "checksums.u32", np.uint32, "r+", shape=(rows,))
        self._folder = folder
        self.own = np.zeros(rows, bool)
        """(rows,) those that this object has written."""

    @classmethod
    def open(cls, folder: Path) -> "Table | None":
        """Open a table; None where there is none, or its files are not whole."""
        try:
            about = json.loads((folder / "about.json").read_text())
            os.utime(folder)
            return cls(folder, about["rows"], about["width"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @classmethod
    def create(cls, folder: Path, rows: int, width: int) -> "Table":
        """Create a table of nothing but holes; another process may do the same at the same time."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, size in (("features.f32", 4 * rows * width), ("checksums.u32", 4 * rows)):
            with open(folder / name, "ab") as file:
                file.truncate(size)
        write_atomic(folder / "about.json", json.dumps({"rows": rows, "width": width}).encode())
        return cls(folder, rows, width)

    def read(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features of samples, (n, width), and which of them are there, (n,) bool; the others are of no meaning."""
        values, sums = np.array(self._values[samples]), self._sums[samples]
        return values, np.array([sum_ == _checksum(row) for row, sum_ in zip(values, sums, strict=True)], bool)

    def write(self, samples: np.ndarray, values: np.ndarray) -> None:
        """Keep features of samples, (n, width) float32.

        Raises:
            OSError: no room on the disk. It would kill a process that wrote into mapped memory.
        """
        with (
            open(self._folder / "features.f32", "r+b") as features,
            open(self._folder / "checksums.u32", "r+b") as sums,
        ):
            for sample, row in zip(samples.tolist(), values, strict=True):
                os.pwrite(features.fileno(), row.tobytes(), sample * row.nbytes)
                os.pwrite(sums.fileno(), np.uint32(_checksum(row)).tobytes(), 4 * sample)
                self.own[sample] = True


def _checksum(row: np.ndarray) -> int:
    """The CRC-32 of a row, 1 for 0, which stands for a row that has not been computed."""
    return zlib.crc32(row.tobytes()) or 1


@dataclass
class FeatureCache:
    """Features of one network in a folder, one table for each part of the data and each choice of tokens."""

    folder: Path
    key: str
    """A hash of everything that features depend on beside the image and the loaded arrays."""
    rows: dict[str, int]
    """Part of the data set -> number of its images."""
    share: float = 0.02
    """Share of the batches found that are computed all the same and compared."""
    limit: float = LIMIT
    found: int = 0
    """Images of which features were found that another run has computed, so far."""
    tested: dict[str, int] = field(default_factory=dict, repr=False)
    """Key -> rows of the largest batch in which an image's bits were found to depend on nothing else; -1 if they do."""
    compared: set[int] = field(default_factory=set, repr=False)
    """Hashes of the batches of the share that were compared."""
    _tables: dict[str, Table] = field(default_factory=dict, repr=False)
    _begun: set[str] = field(default_factory=set, repr=False)
    """Tables of which images have been compared, or would have been."""

    def features(self, part: str, samples: np.ndarray, tokens: str, images: Tensor, compute: Compute) -> Tensor:
        """Features of images, as they were kept, or computed and kept.

        Args:
            part: "train" or "test".
            samples: (n,) indices into the part.
            tokens: a hash of the arrays by which features are made; empty for the network's own.

        Raises:
            RunError: features that were computed again are others.
        """
        if not self._may_keep(images, compute):
            return compute(images)
        name = f"{self.key[:32]}-{part}{tokens and '-'}{tokens[:16]}"
        table = self._tables.get(name) or Table.open(self.folder / name)
        if table is None:
            return self._first(name, part, samples, compute(images))
        self._tables[name] = table
        values, there = table.read(samples)
        found = np.flatnonzero(there & ~table.own[samples])
        self.found += len(found)

        def computed(places: np.ndarray) -> np.ndarray:
            return compute(images[torch.from_numpy(places).to(images.device)]).cpu().numpy()

        if len(found):
            self._compare(name, samples, found, values, computed)
        missing = np.flatnonzero(~there)
        if len(missing):
            values[missing] = computed(missing)
            with suppress(OSError):  # without room on the disk they are computed again
                table.write(samples[missing], values[missing])
        return torch.from_numpy(values).to(images.device)

    def _may_keep(self, images: Tensor, compute: Compute) -> bool:
        """Try once for a network, and again for larger batches, whether an image's bits depend on it alone."""
        tested = self.tested.get(self.key, 0)
        if tested >= 0 and len(images) > tested:
            tested = max(TESTED, len(images)) if is_independent(images, compute) else -1
            self.tested[self.key] = tested
        return tested >= 0

    def _compare(
        self, name: str, samples: np.ndarray, found: np.ndarray, values: np.ndarray,
        computed: Callable[[np.ndarray], np.ndarray],
    ) -> None:  # fmt: skip
        """Compute images found all the same: FEW of the first batch of a table, and all of a batch of the share.

        Args:
            found: places in the batch of what others have computed.
            values: (n, width) what is kept of the batch.
            computed: places in the batch -> features.
        """
        count, batch = 0, zlib.crc32(name.encode() + samples.tobytes())
        if name not in self._begun:
            count = FEW if self.share else 0
            self._begun.add(name)
        is_chosen = batch < self.share * 2**32 and batch not in self.compared
        places = found if is_chosen else found[:count]
        if len(places) and not np.array_equal(computed(places), values[places]):
            self._begun.discard(name)  # who goes on all the same is stopped again
            raise RunError(
                "features that were kept have other bits than those computed now: this processor does not repeat its "
                f"results, or fcil has a fault. Delete {self.folder} and compare with --no-feature-cache"
            )
        if is_chosen:
            self.compared.add(batch)

    def _first(self, name: str, part: str, samples: np.ndarray, computed: Tensor) -> Tensor:
        """Create the table for features of this width, where there is room for it."""
        width = computed.shape[1]
        if 4.0 * self.rows[part] * (width + 1) <= self.limit:
            with suppress(OSError):  # without room on the disk everything is computed
                self._make_room(4 * self.rows[part] * (width + 1))
                self._tables[name] = Table.create(self.folder / name, self.rows[part], width)
                self._tables[name].write(samples, computed.cpu().numpy())
        return computed

    def _make_room(self, more: int) -> None:
        """Delete the tables that were used longest ago, until another one fits."""
        tables = sorted((path.stat().st_mtime_ns, path) for path in self.folder.glob("*") if path.is_dir())
        sizes = {path: sum(file.stat().st_size for file in path.iterdir()) for _, path in tables}
        total = sum(sizes.values())
        for _, path in tables:
            if total + more <= self.limit:
                return
            self._tables.pop(path.name, None)
            shutil.rmtree(path, ignore_errors=True)
            total -= sizes[path]
