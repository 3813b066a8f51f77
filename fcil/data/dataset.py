"""Loaded data sets (`Dataset`, `Split`), and their images as normalised batches for the model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, overload

import numpy as np

from fcil.data.family import HALF, RGB, WHOLE
from fcil.data.transforms import View, render

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Dataset", "Pooled", "Ragged", "Split", "digest_of", "first_of_each", "normalise", "model_inputs"]


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

    @property
    def nbytes(self) -> int:
        """Bytes of all images, wherever they lie."""
        return int(self.pixels.nbytes)

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
class Pooled:
    """The images of several sites as one sequence; each is read from its own site's array, and only when indexed."""

    arrays: tuple[np.ndarray | Ragged | Pooled, ...]
    """The images of every site, as its data set has them."""
    array: np.ndarray
    """(n,) int64: the array that each image is in."""
    place: np.ndarray
    """(n,) int64: its place in that array."""

    def __len__(self) -> int:
        return len(self.array)

    @property
    def nbytes(self) -> int:
        """Bytes of all images, wherever they lie."""
        return sum(int(images.nbytes) for images in self.arrays)

    @overload
    def __getitem__(self, index: slice) -> Pooled: ...

    @overload
    def __getitem__(self, index: np.ndarray) -> Sequence[np.ndarray] | np.ndarray: ...

    def __getitem__(self, index: slice | np.ndarray) -> Pooled | Sequence[np.ndarray] | np.ndarray:
        """Select images: a slice gives a `Pooled`, an index array what a site's array gives, or a list across sites."""
        array, place = self.array[index], self.place[index]
        if isinstance(index, slice):
            return Pooled(self.arrays, array, place)
        if len(array) and (array == array[0]).all():
            selected: Sequence[np.ndarray] | np.ndarray = self.arrays[array[0]][place]
            return selected
        return [self.arrays[a][np.array([p])][0] for a, p in zip(array, place, strict=True)]


@dataclass(frozen=True)
class Split:
    """The images and labels of one part, training or test; `images` may be a memory map."""

    images: np.ndarray | Ragged | Pooled
    """(n, height, width, channels) uint8, or images of different shapes; one channel is shown as three equal ones."""
    labels: np.ndarray
    """(n,) int64, the data set's own class numbers."""
    digest: str = ""
    """Hash of the content where it is known without reading everything, otherwise empty."""
    owners: np.ndarray | None = None
    """(n,) int64: number of the site that holds each image, where sites have images of their own."""
    domains: np.ndarray | None = None
    """(n,) int64: the domain of each image, where the data set tells it."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def nbytes(self) -> int:
        """Bytes of all images, wherever they lie."""
        return int(self.images.nbytes)

    def of_site(self, site: int) -> Split:
        """Select the samples of one site, in their order."""
        if self.owners is None or not isinstance(self.images, Pooled):
            raise ValueError("of_site: these samples belong to no site")
        return self.select(np.flatnonzero(self.owners == site))

    def select(self, samples: np.ndarray) -> Split:
        """Select samples, (n,) indices, in the order given; images are read only when they are indexed."""
        images = self.images
        if isinstance(images, Pooled):
            pooled = Pooled(images.arrays, images.array[samples], images.place[samples])
        else:
            pooled = Pooled((images,), np.zeros(len(samples), np.int64), samples)
        owners, domains = (None if a is None else a[samples] for a in (self.owners, self.domains))
        return Split(pooled, self.labels[samples], self.digest, owners, domains)

    def first(self, count: int) -> Split:
        """The first `count` samples; all of them for 0."""
        if not count:
            return self
        domains = None if self.domains is None else self.domains[:count]
        return Split(self.images[:count], self.labels[:count], self.digest, domains=domains)

    def first_of_each(self, count: int) -> Split:
        """The first `count` samples of each class, in their order; all of them for 0."""
        if not count:
            return self
        part = self.select(first_of_each(self.labels, count))
        name = f"{self.digest} first {count} of each class"
        return replace(part, digest=hashlib.sha256(name.encode()).hexdigest() if self.digest else "")


def first_of_each(labels: np.ndarray, count: int) -> np.ndarray:
    """Choose the first `count` samples of each class, all of them for 0: sorted indices into `labels`, (n,).

    >>> first_of_each(np.array([1, 1, 0, 1, 0]), 2)
    array([0, 1, 2, 4])
    """
    if not count:
        return np.arange(len(labels))
    order = np.argsort(labels, kind="stable")
    begins = np.searchsorted(labels[order], labels[order])
    return np.sort(order[np.arange(len(labels)) - begins < count])


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
    digests: Mapping[str, str] = field(default_factory=dict)
    """"site 0", "site 1", ..., "test" -> its hash, where the data are those of several sites; otherwise empty."""
    domains: tuple[str, ...] = ()
    """Names of the domains, where the data set tells them."""
    remarks: tuple[str, ...] = ()
    """What is odd about a user's own files, a sentence each."""

    def sha256(self) -> str:
        """SHA-256 of the images and labels of both parts, for the records."""
        if self.digests:
            return digest_of(self.digests)
        sha = hashlib.sha256()
        for part in (self.train, self.test):
            for piece in [f"{part.digest} {len(part)}".encode()] if part.digest else _content(part):
                sha.update(piece)
        return sha.hexdigest()


def digest_of(parts: Mapping[str, str]) -> str:
    """SHA-256 of data that lie in several places, from the name and the hash of each."""
    return hashlib.sha256("\n".join(f"{name}: {parts[name]}" for name in sorted(parts)).encode()).hexdigest()


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
