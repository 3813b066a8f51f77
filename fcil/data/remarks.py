"""Says what is odd about a user's own images, a sentence each: what is no error, but what somebody should know."""

import io
from pathlib import Path

import numpy as np

from fcil.data.decode import DAMAGED
from fcil.data.family import Listing, Part
from fcil.data.splits import some

__all__ = ["remarks"]

LONG = 2.0
"""From this ratio of the sides on, a central square shows half of an image or less."""


def _sizes(part: Part) -> np.ndarray:
    """Read heights and widths, (n, 2), from the heads of the files; none where nothing but decoding tells them."""
    from PIL import Image

    def size(item: object) -> tuple[int, int]:
        try:
            with Image.open(io.BytesIO(item) if isinstance(item, bytes) else str(item)) as opened:
                return opened.height, opened.width
        except DAMAGED:
            return 1, 1  # decoding it says so

    if isinstance(part.images, np.ndarray):
        return np.tile(part.images.shape[1:3], (len(part), 1))
    if len(part) and not isinstance(part.images[0], Path | bytes):
        return np.zeros((0, 2), np.int64)
    return np.array([size(item) for item in part.images], np.int64).reshape(-1, 2)


def _name(part: Part, i: int) -> str:
    item = part.images[i]
    return f"{item.parent.name}/{item.name}" if isinstance(item, Path) else f"number {i}"


def _odd_sizes(part: Part, name: str, size: int, cropped: bool) -> list[str]:
    """Name images that are long and narrow, where they are cropped, and those smaller than the model's input."""
    sizes = _sizes(part)
    if not len(sizes):
        return []
    ratio, shorter = sizes.max(1) / sizes.min(1), sizes.min(1)
    remarks = []
    if cropped and (long := int((ratio >= LONG).sum())):
        i = int(ratio.argmax())
        remarks.append(
            f"{long} of {len(part):,} {name} images are at least twice as long as wide (most of all {_name(part, i)}, "
            f'{sizes[i, 1]} x {sizes[i, 0]}): a crop shows half of them or less; data.view = "whole" shows all'
        )
    if small := int((shorter < size).sum()):
        i = int(shorter.argmin())
        remarks.append(
            f"{small} of {len(part):,} {name} images are smaller than the model's {size} pixels and are enlarged (most "
            f"of all {_name(part, i)}, {sizes[i, 1]} x {sizes[i, 0]})"
        )
    return remarks


def remarks(listing: Listing, size: int, tested_here: bool = True, cropped: bool = True) -> tuple[str, ...]:
    """Name classes without test images, and images of odd sizes, beside what the listing itself remarks.

    Args:
        size: of the model's input, in pixels.
        tested_here: whether the test images of these classes are to be found in this set.
        cropped: whether the views cut something off images that are no squares.
    """
    without = [name for c, name in enumerate(listing.classes) if not (listing.test.labels == c).any()]
    lacking = [f"no test images of {some(without)}: their accuracy is not measured"] if without and tested_here else []
    return (
        *listing.remarks, *lacking, *_odd_sizes(listing.train, "training", size, cropped),
        *_odd_sizes(listing.test, "test", size, cropped),
    )  # fmt: skip
