"""Fashion-MNIST (Xiao, Rasul and Vollgraf, arXiv 1708.07747) from its IDX files, plain or gzipped."""

from pathlib import Path

import numpy as np

from fcil.data.families.idx import read_idx
from fcil.data.family import Family, Listing, Part
from fcil.data.settings import Data
from fcil.data.splits import check_no_split_file
from fcil.errors import ConfigError

__all__ = ["FASHION_MNIST"]

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


def _part(folder: Path, prefix: str) -> Part:
    try:
        images = read_idx(_find(folder, f"{prefix}-images-idx3-ubyte"))
        labels = read_idx(_find(folder, f"{prefix}-labels-idx1-ubyte"))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if images.shape[1:] != (28, 28) or images.shape[:1] != labels.shape or int(labels.max()) >= len(CLASSES):
        raise ConfigError(f"data.root: {folder}: {images.shape} images and {labels.shape} labels are not Fashion-MNIST")
    return Part(images[..., None], labels.astype(np.int64))


def _listing(root: Path, settings: Data) -> Listing:
    check_no_split_file(settings)
    folder = root if settings.root else DEBIAN
    return Listing(CLASSES, _part(folder, "train"), _part(folder, "t10k"))


FASHION_MNIST = Family(
    name="fashion-mnist",
    source="Xiao et al., 2017: four IDX files; found by itself where Debian's dataset-fashion-mnist puts them",
    listing=_listing,
    classes=10,
    counts=(60_000, 10_000),
    tasks=5,
    cached=False,
)
