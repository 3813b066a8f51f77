"""Your own images as NumPy arrays in one file: `data.name = "npz:FILE"`."""

import hashlib
import zipfile
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path

import numpy as np

from fcil.data.family import Family, Listing
from fcil.data.labelled import PARTS, Rows, listing_of
from fcil.data.settings import Data
from fcil.data.splits import some, stamp_of
from fcil.errors import ConfigError

__all__ = ["npz"]

FORMS = (
    "{part}_images, {part}_labels, {part}_domains; or x_{part}, y_{part}; or images, labels, domains alone, of which a "
    "fifth of each class is held out; and classes, the names"
)
"""The arrays that a file may hold, for messages; `{part}` stands for train, test and val."""


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        arrays = np.load(path, allow_pickle=False)
        if isinstance(arrays, np.ndarray):
            raise ValueError("it is one array, an .npy file; numpy.savez writes several with their names")
        with arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise ConfigError(f"{path}: cannot be read as an .npz file of plain arrays ({error})") from None


def _pixels(array: np.ndarray, name: str, path: Path) -> np.ndarray:
    """Images as (n, h, w, 1 or 3) uint8; without a last axis they are grey.

    Raises:
        ConfigError: they have another shape or type.
    """
    images = array[..., None] if array.ndim == 3 else array
    if images.ndim != 4 or images.shape[3] not in (1, 3) or images.dtype != np.uint8 or 0 in images.shape[1:]:
        raise ConfigError(
            f"{path}: {name} is {array.dtype} {array.shape}; images must be uint8, (n, height, width) or "
            "(n, height, width, 1 or 3), of one pixel or more"
        )
    return images


def _column(arrays: Mapping[str, np.ndarray], name: str, count: int, path: Path) -> list[str] | list[int] | None:
    """One value for each image, or None where there is no such array: (n,) or (n, 1) texts or whole numbers."""
    if name not in arrays:
        return None
    array = arrays[name]
    flat = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if flat.shape != (count,) or flat.dtype.kind not in "iuU":
        wanted = f"a whole number or a name for each of {count} images"
        raise ConfigError(f"{path}: {name} is {array.dtype} {array.shape}; there must be {wanted}")
    return list(flat.tolist())


def _rows(arrays: Mapping[str, np.ndarray], names: tuple[str, str, str], path: Path) -> Rows:
    images = _pixels(arrays[names[0]], names[0], path)
    labels, domains = (_column(arrays, name, len(images), path) for name in names[1:])
    if labels is None:
        raise ConfigError(f"{path}: has {names[0]} and no {names[1]}; it must hold {FORMS}")
    return Rows(images, labels, None if domains is None else [str(domain) for domain in domains])


def _listing(root: Path, settings: Data, file: str) -> Listing:
    path = root / file
    arrays = _load(path)
    parts: dict[str, Rows] = {}
    origins: dict[str, str] = {}
    for word, part in PARTS.items():
        for names in ((f"{word}_images", f"{word}_labels"), (f"x_{word}", f"y_{word}")):
            if names[0] in arrays:
                if part in origins:
                    both = f"{origins[part]} and {names[0]}"
                    raise ConfigError(f"{path}: two parts are {part}: {both}; join them, or leave one of the two out")
                origins[part] = names[0]
                parts[part] = _rows(arrays, (*names, f"{word}_domains"), path)
    if not parts and "images" in arrays:
        parts = {"train": _rows(arrays, ("images", "labels", "domains"), path)}
    if not parts:
        raise ConfigError(f"{path}: has {some(sorted(arrays)) or 'nothing'}; it must hold {FORMS}")
    classes = [str(name) for name in arrays["classes"].tolist()] if "classes" in arrays else ()
    origin = f"{path.name}, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
    return listing_of(parts, settings, str(path), classes, origin)


@cache
def npz(file: str) -> Family:
    """Describe the set of an .npz file in data.root. Images of one size are shown whole."""
    return Family(
        name=f"npz:{file}",
        source=f"{file} in data.root, with arrays {FORMS}",
        listing=partial(_listing, file=file),
        own=True,
        fits=lambda root: (root / file).is_file(),
        stamp=lambda root, settings: stamp_of([root / file], root),
    )
