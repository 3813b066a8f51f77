"""Fashion-MNIST (Xiao, Rasul and Vollgraf, arXiv 1708.07747) from its IDX files, plain or gzipped."""

from pathlib import Path

import numpy as np

from fcil.data.dataset import Dataset, Split
from fcil.data.idx import read_idx
from fcil.errors import ConfigError

__all__ = ["load"]

SOURCE = "four IDX files in data.root; found by itself where Debian's package dataset-fashion-mnist put them"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def _find(folder: Path, stem: str) -> Path:
    for name in (stem, f"{stem}.gz"):
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(
        f"data.root: no {stem}[.gz] in {folder}. Put the four IDX files of Fashion-MNIST there "
        "(https://github.com/zalandoresearch/fashion-mnist), or install Debian's package dataset-fashion-mnist"
    )


def _part(folder: Path, prefix: str) -> Split:
    try:
        images = read_idx(_find(folder, f"{prefix}-images-idx3-ubyte"))
        labels = read_idx(_find(folder, f"{prefix}-labels-idx1-ubyte"))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if images.shape[1:] != (28, 28) or images.shape[:1] != labels.shape or int(labels.max()) >= len(CLASSES):
        raise ConfigError(f"data.root: {folder}: {images.shape} images and {labels.shape} labels are not Fashion-MNIST")
    return Split(images[..., None], labels.astype(np.int64))


def load(root: Path | None, size: int) -> Dataset:
    """The data set, at its own 28x28; the model's size is reached batch by batch."""
    folder = root or DEBIAN
    return Dataset("fashion-mnist", CLASSES, _part(folder, "train"), _part(folder, "t10k"))
