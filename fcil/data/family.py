"""Describe a data set before any of its files is read (`Family`), and what its files then list (`Listing`)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fcil.data.settings import Data, ViewName
from fcil.data.transforms import To, View

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["CACHE", "HALF", "IMAGENET_MEAN", "IMAGENET_STD", "PROTOCOL_TEST", "PROTOCOL_TRAIN", "RGB", "WHOLE",
           "Family", "File", "Listing", "Part"]  # fmt: skip

RGB = tuple[float, float, float]
HALF: RGB = (0.5, 0.5, 0.5)
IMAGENET_MEAN: RGB = (0.485, 0.456, 0.406)
IMAGENET_STD: RGB = (0.229, 0.224, 0.225)
PROTOCOL_TRAIN = View(resize=224, crop="area", flip=True)
PROTOCOL_TEST = View(resize=256, crop="centre")
CACHE = "fcil-cache"
"""The folder in data.root that holds decoded images, unless data.cache names another."""
WHOLE = View()
SQUARE = View(squash=True)
NAMED: Mapping[str, tuple[View, View]] = {
    "whole": (WHOLE, WHOLE),
    "centre": (PROTOCOL_TEST, PROTOCOL_TEST),
    "crop": (PROTOCOL_TRAIN, PROTOCOL_TEST),
}
"""Views for any data set: (training, test), but for their flips."""
ZERO: RGB = (0.0, 0.0, 0.0)
ONE: RGB = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class File:
    """One file of a data set, as its authors publish it."""

    name: str
    url: str = ""
    """Empty where the authors no longer serve it."""
    md5: str = ""
    """Empty where no checksum is known."""
    unpacks: str = ""
    """The folder that an archive holds; empty for a file that is used as it is."""
    inside: Mapping[str, str] = field(default_factory=dict)
    """File in that folder -> its MD5, checked also where the archive itself was deleted."""


@dataclass(frozen=True)
class Part:
    """The images and labels of one part, training, test or validation, before they are decoded."""

    images: "Sequence[Path] | Sequence[bytes] | Sequence[Callable[[], Image.Image]] | np.ndarray"
    """Image files, their contents, or what opens each; or pixels, (n, h, w, c) uint8."""
    labels: np.ndarray
    """(n,) int64."""
    domains: np.ndarray | None = None
    """(n,) int64: the domain of each image, in the data sets that tell it."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Listing:
    """The classes and images that the files of a data set list."""

    classes: tuple[str, ...]
    train: Part
    test: Part
    split: str = ""
    """How the split was made, with its hash; empty where it is the authors'."""
    origin: str = ""
    """Where the images come from, with hashes or versions, for the records; empty where the family says it all."""
    validation: Part | None = None
    """The set's own validation part; None where it has none, or where that is the test part."""
    domains: tuple[str, ...] = ()
    """Names of the domains; empty where the set does not tell them."""
    remarks: tuple[str, ...] = ()
    """What is odd about the files, a sentence each, for people."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """The description of one data set: its files, official numbers, statistics and views."""

    name: str
    source: str
    """Where the data set comes from, for people."""
    listing: Callable[[Path, Data], Listing]
    """(data.root, settings) -> what the files list; raises ConfigError."""
    classes: int = 0
    """Official number of classes; 0: whatever the files say, and then `counts` and `tasks` are open too."""
    counts: tuple[int, ...] = ()
    """Official numbers of training and test images, or of all images where there is no official split."""
    tasks: int = 0
    """The usual number of tasks in the literature that fcil follows."""
    files: tuple[File, ...] = ()
    own: bool = False
    """Whether these are a user's own images rather than a published set: then EXIF rotation, transparency and 16 bits
    are taken into account, what is odd is told, and sites may have them. Published sets are read as public code reads
    them."""
    fits: Callable[[Path], bool] | None = None
    """(data.root) -> whether the folder looks like one that holds the set; checked before anything is written."""
    fetch: Callable[[Path, Data], None] | None = None
    """(data.root, settings) -> None: downloads the set where that is asked for; raises ConfigError."""
    cached: bool = True
    """Whether images are decoded once into a cache that workers share; otherwise reading them anew must be fast."""
    shrunk: bool = False
    """Whether the cache stores images with the shorter side that the views need; otherwise at their own size."""
    stamp: Callable[[Path, Data], str] | None = None
    """(data.root, settings) -> a hash that changes with the files, beside the sizes and times of `files`; empty where
    they are gone and are not needed."""
    columns: bool = False
    """Whether it is a table, whose columns `data.columns` may name."""
    mean: RGB = HALF
    std: RGB = HALF
    train_view: View = WHOLE
    test_view: View = WHOLE

    def seen(self, view: ViewName) -> "Family":
        """The data set under a view named by `data.view`; flip, mean and std stay its own unless said.

        "whole" shows everything, made a square of the model's size. "centre" is a central crop, "crop" the same in
        tests and a box of random area in training. "squash" makes every image a square of the model's size first and
        loses its aspect ratio; the set's own crop is taken from that square (boxes of random area straight from it).
        It is what LoRM's public code does. "identity" shows the square as it is, in 0..1: no crop, no flip, no
        normalisation.
        """
        if view == "default":
            return self
        if view == "identity":
            return replace(self, train_view=SQUARE, test_view=SQUARE, mean=ZERO, std=ONE)
        views = self.train_view, self.test_view
        if view == "squash":
            train, test = (
                replace(v, squash=True, resize=v.resize if v.crop in ("centre", "random") else 0) for v in views
            )
        else:
            train, test = (replace(named, flip=v.flip) for named, v in zip(NAMED[view], views, strict=True))
        return replace(self, train_view=train, test_view=test)

    def stored(self, view: View, size: int) -> To:
        """The size in which a cache holds images for a view: squares, as Pillow rounds them, where it makes them so."""
        if view.squash or (self.shrunk and view == replace(WHOLE, flip=view.flip)):
            return (size, size)
        return view.shorter(size) if self.shrunk else 0
