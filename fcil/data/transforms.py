"""Resize, crop and flip images: a data set declares a `View`, which is drawn per image and computed on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from fcil.data.resampling import resample

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["REFERENCE", "To", "View", "boxes", "render", "resized", "squashed"]

REFERENCE = 224
"""Side of the model's input, in pixels, for which the numbers of a `View` are given."""
ATTEMPTS = 10
To = int | tuple[int, int]
"""A size to resize to, as torchvision's Resize has it: the shorter side, 0 for as stored, or (height, width)."""


@dataclass(frozen=True)
class View:
    """A view declares how an image is shown: resize, crop, resize to the model's size, flip.

    The default shows the whole image, its aspect ratio lost where it is not square.
    """

    resize: int = 0
    """Length of the shorter side before the crop, for a model of 224 pixels; scales with the model. 0: as stored."""
    crop: Literal["whole", "centre", "random", "area"] = "whole"
    """The crop: everything, a central or a random square of the model's size, or a box of random area and ratio."""
    scale: tuple[float, float] = (0.08, 1.0)
    """For `area`: the box's area as a share of the image's."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """For `area`: the box's width over height, drawn log-uniformly."""
    flip: bool = False
    """Whether images are mirrored with probability 1/2."""
    squash: bool = False
    """Whether images are first made squares of the model's size, their aspect ratio lost (`squashed`)."""

    def __post_init__(self) -> None:
        if self.crop in ("centre", "random") and self.resize < REFERENCE:
            raise ValueError(f"View: crop = {self.crop!r} needs resize >= {REFERENCE}, not {self.resize}")

    def shorter(self, size: int) -> int:
        """Length of the shorter side before the crop, for a model of `size` pixels; 0: as stored."""
        return round(self.resize * size / REFERENCE)


def resized(shapes: np.ndarray, to: To) -> np.ndarray:
    """Heights and widths, (n, 2), resized `to`; a longer side is rounded down, as by torchvision."""
    if isinstance(to, tuple):
        return np.tile(np.array(to, np.int64), (len(shapes), 1))
    shorter = to
    if not shorter:
        return shapes
    short = shapes.min(1, keepdims=True)
    return np.where(shapes == short, shorter, shorter * shapes / short).astype(np.int64)


def _shapes(images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Heights and widths of images, (n, 2)."""
    if isinstance(images, np.ndarray):
        return np.full((len(images), 2), images.shape[1:3], np.int64)
    return np.array([image.shape[:2] for image in images], np.int64)


def squashed(image: np.ndarray, side: int) -> np.ndarray:
    """Resize an image, (h, w, 1 or 3) uint8, to a square of `side` pixels by Pillow's bicubic filter, in bytes again.

    Images that have this size are returned as they are: those of a cache that was made for the view.
    """
    if image.shape[:2] == (side, side):
        return image
    from PIL import Image  # a GPU's worker needs it for sets without a cache only

    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    square = np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC))
    return square.reshape(side, side, image.shape[2])


def _central_extents(shapes: np.ndarray, ratio: tuple[float, float]) -> np.ndarray:
    """Heights and widths, (n, 2), of the largest boxes within the admitted ratios."""
    height, width = shapes.T
    high = np.minimum(height, np.rint(width / ratio[0])).astype(np.int64)
    wide = np.minimum(width, np.rint(height * ratio[1])).astype(np.int64)
    return np.stack([high, wide], 1)


def _area_boxes(view: View, shapes: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw boxes as torchvision's RandomResizedCrop: the first of ten draws that fits, or the largest central one."""
    n, (low, high) = len(shapes), np.log(view.ratio)
    area = shapes.prod(1)[:, None] * rng.uniform(*view.scale, (n, ATTEMPTS))
    aspect = np.exp(rng.uniform(low, high, (n, ATTEMPTS)))
    drawn = np.rint(np.sqrt(np.stack([area / aspect, area * aspect], 2))).astype(np.int64)
    fits = ((drawn > 0) & (drawn <= shapes[:, None])).all(2)
    none = ~fits.any(1)
    extent = np.where(none[:, None], _central_extents(shapes, view.ratio), drawn[np.arange(n), fits.argmax(1)])
    corner = rng.integers(0, shapes - extent + 1)
    return np.where(none[:, None], (shapes - extent) // 2, corner), extent


def boxes(view: View, shapes: np.ndarray, size: int, rng: np.random.Generator | None) -> tuple[np.ndarray, np.ndarray]:
    """Draw the crops of resized images of `shapes`: corners (top, left) and extents (height, width), both (n, 2).

    Raises:
        ValueError: the crop is random, but `rng` is None.
    """
    if view.crop == "whole":
        return np.zeros_like(shapes), shapes
    extent = np.full_like(shapes, size)
    if view.crop == "centre":
        return np.rint((shapes - extent) / 2).astype(np.int64), extent
    if rng is None:
        raise ValueError(f"View: crop = {view.crop!r} is random and needs a generator")
    if view.crop == "random":
        return rng.integers(0, shapes - extent + 1), extent
    return _area_boxes(view, shapes, rng)


def _draw(
    view: View, shapes: np.ndarray, size: int, rng: np.random.Generator | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw the boxes, and which images are mirrored."""
    corner, extent = boxes(view, shapes, size, rng)
    flips = rng.random(len(shapes)) < 0.5 if view.flip and rng is not None else np.zeros(len(shapes), bool)
    return corner, extent, flips


def _to(x: Tensor, shape: tuple[int, int]) -> Tensor:
    """Resize bytes, (n, c, h, w), as torchvision does; images of this shape are returned as they are."""
    from torch.nn import functional as F

    return x if x.shape[-2:] == shape else F.interpolate(x, shape, mode="bicubic", antialias=True)


def _render_on_cpu(images: np.ndarray, whole: np.ndarray, corner: np.ndarray, extent: np.ndarray, size: int) -> Tensor:
    """Show images (n, h, w, c) resized to one shape, each in its box, (n, c, size, size) uint8.

    They are rounded to bytes after each stage, as in torchvision. What is done to all alike is done at once, which is
    up to six times faster.
    """
    import torch

    is_one_box = bool((corner == corner[:1]).all() and (extent == extent[:1]).all())
    if images.shape[1:3] == tuple(whole):  # then only boxes are read from a memory map, and copied
        if not is_one_box:
            alone = (slice(i, i + 1) for i in range(len(images)))
            return torch.cat([_render_on_cpu(images[i], whole, corner[i], extent[i], size) for i in alone])
        (top, left), (high, wide) = corner[0], extent[0]
        images, whole, corner = images[:, top : top + high, left : left + wide], extent[0], np.zeros_like(corner)
    x = _to(torch.from_numpy(images.copy()).permute(0, 3, 1, 2), (int(whole[0]), int(whole[1])))

    def shown(some: Tensor, place: int) -> Tensor:
        (top, left), (high, wide) = corner[place], extent[place]
        return _to(some[..., top : top + high, left : left + wide], (size, size))

    return shown(x, 0) if is_one_box else torch.cat([shown(x[i : i + 1], i) for i in range(len(x))])


def render(
    images: Sequence[np.ndarray] | np.ndarray,  # n times (h, w, c) uint8
    view: View,
    size: int,
    rng: np.random.Generator | None = None,
    device: torch.device | str = "cpu",
    batch: int = 0,
) -> Tensor:
    """Show each image as `view` says: (n, c, size, size) float32 in 0..1.

    Args:
        batch: images whose draws are made together; 0 for all. Batches that are rendered together are drawn as if each
            were rendered alone.

    The draws depend on the generator, the view and the images' shapes only. On a CPU, torch resizes bytes, which
    is several times faster than the batched products that a GPU gets. Those clamp once, at the end, and never round.
    """
    import torch

    device = torch.device(device)
    if view.squash:
        images = [squashed(image, size) for image in images]
    whole = resized(_shapes(images), view.shorter(size))
    begins = range(0, len(images), batch or max(1, len(images)))
    draws = [_draw(view, whole[begin : begin + (batch or len(images))], size, rng) for begin in begins]
    corner, extent, mirror = (np.concatenate(column) for column in zip(*draws, strict=True))
    if device.type != "cpu":
        shown = resample(images, whole, corner, extent, size, device).clamp_(0, 255)
        flips = torch.from_numpy(mirror).to(device).view(-1, 1, 1, 1)
        return torch.where(flips, shown.flip(3), shown).div_(255)
    shown = torch.empty(len(images), images[0].shape[-1], size, size)
    if isinstance(images, np.ndarray):  # of one shape, so that all are resized to one
        shown.copy_(_render_on_cpu(images, whole[0], corner, extent, size))
    else:
        for i, target in enumerate(shown):
            target.copy_(_render_on_cpu(images[i][None], whole[i], corner[i : i + 1], extent[i : i + 1], size)[0])
    shown[mirror] = shown[mirror].flip(3)
    return shown.div_(255)
