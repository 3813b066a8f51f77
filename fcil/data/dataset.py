"""Loaded data sets (`Dataset`, `Split`), and their images as normalised batches for the model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np

from fcil.data.transforms import View, render

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Dataset", "Ragged", "Split", "normalise", "model_inputs"]

RGB = tuple[float, float, float]
HALF: RGB = (0.5, 0.5, 0.5)
WHOLE = View()


@dataclass(frozen=True)
class Ragged:
    """Images of different shapes in one flat array. Of a memory map, only the images that are indexed are read."""

    pixels: np.ndarray
    """(bytes,) uint8, image after image."""
    shapes: np.ndarray
    """(n, 3) int64: height, width, channels."""
    offsets: np.ndarray
    """(n,) int64: where each image begins in `pixels`."""

    @classmethod
    def of(cls, pixels: np.ndarray, shapes: np.ndarray) -> Ragged:
        """Build it from images that follow each other without gaps."""
        ends = shapes.prod(1).cumsum()
        return cls(pixels, shapes, ends - shapes.prod(1))

    def __len__(self) -> int:
        return len(self.shapes)

    @overload
    def __getitem__(self, index: slice) -> Ragged: ...

    @overload
    def __getitem__(self, index: np.ndarray) -> list[np.ndarray]: ...

    def __getitem__(self, index: slice | np.ndarray) -> Ragged | list[np.ndarray]:
        """Select images: a slice gives a `Ragged`, an index array gives a list of views, (h, w, c) each."""
        shapes, offsets = self.shapes[index], self.offsets[index]
        if isinstance(index, slice):
            return Ragged(self.pixels, shapes, offsets)
        ends = offsets + shapes.prod(1)
        return [self.pixels[a:b].reshape(shape) for a, b, shape in zip(offsets, ends, shapes, strict=True)]


@dataclass(frozen=True)
class Split:
    """The images and labels of one part, training or test; `images` may be a memory map."""

    images: np.ndarray | Ragged
    """(n, height, width, channels) uint8, or images of different shapes; one channel is shown as three equal ones."""
    labels: np.ndarray
    """(n,) int64, the data set's own class numbers."""
    digest: str = ""
    """Hash of the content where it is known without reading everything, otherwise empty."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def nbytes(self) -> int:
        """Bytes of all images, wherever they lie."""
        return (self.images.pixels if isinstance(self.images, Ragged) else self.images).nbytes

    def first(self, count: int) -> Split:
        """The first `count` samples; all of them for 0."""
        return Split(self.images[:count], self.labels[:count], self.digest) if count else self


@dataclass(frozen=True)
class Dataset:
    """A loaded data set: its training and test parts, and how their images are cropped and normalised."""

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    mean: RGB = HALF
    std: RGB = HALF
    train_view: View = WHOLE
    test_view: View = WHOLE
    files: str = ""
    """Where the files come from, for the records: checksums compared, split, unofficial files."""

    def sha256(self) -> str:
        """SHA-256 of the images and labels of both parts, for the records."""
        sha = hashlib.sha256()
        for part in (self.train, self.test):
            for piece in [f"{part.digest} {len(part)}".encode()] if part.digest else _content(part):
                sha.update(piece)
        return sha.hexdigest()


def _content(part: Split) -> Iterator[bytes]:
    for begin in range(0, len(part), 4096):
        for image in part.images[np.arange(begin, min(begin + 4096, len(part)))]:
            yield str(image.shape).encode()
            yield image.tobytes()
    yield part.labels.astype("<i8").tobytes()


def normalise(x: Tensor, mean: RGB, std: RGB) -> Tensor:
    """Normalise images, (n, 1 or 3, h, w) in 0..1 -> (n, 3, h, w), by channel means and stds; may overwrite `x`."""
    import torch

    low, spread = (torch.tensor(v, device=x.device).view(1, 3, 1, 1) for v in (mean, std))
    return x.expand(-1, 3, -1, -1).contiguous().sub_(low).div_(spread)


def model_inputs(
    images: Sequence[np.ndarray] | np.ndarray,  # n times (h, w, c) uint8
    dataset: Dataset,
    size: int,
    rng: np.random.Generator | None = None,
    device: torch.device | str = "cpu",
    batch: int = 0,
) -> Tensor:
    """Turn images into a normalised batch, (n, 3, size, size) float32 on `device`.

    They are cropped as in training, at random, if `rng` is given, and otherwise as in a test. For `batch` see
    `fcil.data.transforms.render`.
    """
    view = dataset.test_view if rng is None else dataset.train_view
    return normalise(render(images, view, size, rng, device, batch), dataset.mean, dataset.std)
