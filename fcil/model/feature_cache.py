"""Keeps features of a frozen network in files, so that runs which see the same images compute them once.

Features of an image are the same bits in every batch on most processors, but not on all: the sums in a matrix product
may be ordered by the number of rows. So the first batch is computed in several pieces and orders; where one bit
differs, nothing is kept. Later a share of the batches found is computed all the same, and compared.
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

__all__ = ["FeatureCache", "Table", "is_independent"]

LIMIT = 20e9
"""Bytes that the folder may hold, unless another number is given; what was used longest ago is deleted."""
Compute = Callable[[Tensor], Tensor]
"""Images (n, 3, h, w) -> features (n, width), float32."""


def is_independent(images: Tensor, compute: Compute) -> bool:
    """Tell whether the features of an image have the same bits alone, in pieces of a batch, and in another order."""
    whole, n = compute(images), len(images)
    pieces = {1, 3, max(1, n // 2), max(1, n - 1)}
    same = all(torch.equal(compute(images[:size]), whole[:size]) for size in sorted(pieces) if size <= n)
    return same and torch.equal(compute(images.flip(0)).flip(0), whole)


class Table:
    """Features of the images of one part of a data set, (images, width) float32, with a checksum for every row.

    A row without one has not been computed, and a row that does not fit its own is computed again: the file may be
    written by several processes at once, and may have been cut off. A file has holes for what is not there.
    """

    def __init__(self, folder: Path, rows: int, width: int) -> None:
        self._values = np.memmap(folder / "features.f32", np.float32, "r+", shape=(rows, width))
        self._sums = np.memmap(folder / "checksums.u32", np.uint32, "r+", shape=(rows,))

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
        aside = folder / f".about.{os.getpid()}"
        aside.write_text(json.dumps({"rows": rows, "width": width}))
        aside.replace(folder / "about.json")
        return cls(folder, rows, width)

    def read(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features of samples, (n, width), and which of them are there, (n,) bool; the others are of no meaning."""
        values, sums = np.array(self._values[samples]), self._sums[samples]
        return values, np.array([sum_ == _checksum(row) for row, sum_ in zip(values, sums, strict=True)], bool)

    def write(self, samples: np.ndarray, values: np.ndarray) -> None:
        """Keep features of samples, (n, width) float32."""
        self._values[samples] = values
        self._sums[samples] = [_checksum(row) for row in values]


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
    """Images of which features were found, so far."""
    _independent: bool | None = None
    _tables: dict[str, Table] = field(default_factory=dict, repr=False)
    _batches: int = 0

    def features(self, part: str, samples: np.ndarray, tokens: str, images: Tensor, compute: Compute) -> Tensor:
        """Features of images, as they were kept, or computed and kept.

        Args:
            part: "train" or "test".
            samples: (n,) indices into the part.
            tokens: a hash of the arrays by which features are made; empty for the network's own.

        Raises:
            RunError: features that were computed again are others.
        """
        if self._independent is None:
            self._independent = is_independent(images, compute)
        if not self._independent:
            return compute(images)
        name = f"{self.key[:32]}-{part}{tokens and '-'}{tokens[:16]}"
        table = self._tables.get(name) or Table.open(self.folder / name)
        if table is None:
            return self._first(name, part, samples, compute(images))
        self._tables[name] = table
        values, there = table.read(samples)
        self.found += int(there.sum())
        if there.all():
            return self._checked(torch.from_numpy(values).to(images.device), images, compute)
        missing = np.flatnonzero(~there)
        computed = compute(images[torch.from_numpy(missing).to(images.device)]).cpu().numpy()
        values[missing] = computed
        table.write(samples[missing], computed)
        return torch.from_numpy(values).to(images.device)

    def _checked(self, found: Tensor, images: Tensor, compute: Compute) -> Tensor:
        """Compute every so many batches all the same."""
        self._batches += 1
        check = self.share and self._batches % max(1, round(1 / self.share)) == 0
        if check and not torch.equal(compute(images), found):
            raise RunError(
                "features that were kept have other bits than those computed now: this processor does not repeat its "
                f"results, or fcil has a fault. Delete {self.folder} and compare with --no-feature-cache"
            )
        return found

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
