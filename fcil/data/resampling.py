"""Resize, crop and resize again a whole batch of images on one device, as two batched matrix products.

Resizing is linear and separable, so all of it is out = R image C^T for each image, where R and C are small: products of
bicubic resampling matrices (Keys' kernel with a = -0.5, antialiased as in Pillow and torch) and of the crop, which
selects rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["stack_boxes", "resample"]


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with a = -0.5."""
    import torch

    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def _resampling(first: Tensor, length: Tensor, out: Tensor, rows: int, width: int) -> Tensor:
    """Build the matrices that resize a stretch of a line of pixels, antialiased.

    Args:
        first: (n,) where the stretch begins.
        length: (n,) pixels of the stretch.
        out: (n,) pixels that it is resized to.
        rows: the largest of `out`; rows beyond an image's own are zero.
        width: pixels of the whole line.

    Returns:
        (n, rows, width) float32, rows summing to one. Pixels outside the stretch have no weight.
    """
    import torch

    step = (length / out)[:, None]
    stretch = step.clamp(min=1)
    centre = (torch.arange(rows, device=first.device) + 0.5) * step
    taps = torch.arange(2 * int(np.ceil(2 * float(stretch.max()))) + 1, device=first.device)
    pixel = torch.floor(centre - 2 * stretch + 0.5)[..., None] + taps
    weight = _cubic((pixel + 0.5 - centre[..., None]) / stretch[..., None])
    weight *= (pixel >= 0) & (pixel < length[:, None, None]) & (centre < length[:, None])[..., None]
    total = weight.sum(2, keepdim=True)
    weight /= torch.where(total == 0, torch.ones_like(total), total)
    column = (pixel.long() + first[:, None, None]).clamp_(0, width - 1)
    return torch.zeros(len(first), rows, width, device=first.device).scatter_add_(2, column, weight)


def _axis(
    stored: np.ndarray, whole: np.ndarray, corner: np.ndarray, extent: np.ndarray, size: int, device: torch.device
) -> Tensor:
    """Matrices of one axis, (n, size, widest): `stored` pixels to `whole`, of these a stretch, and that to `size`."""
    import torch

    def tensor(a: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(a, np.int64)).to(device)

    wide, target = int(stored.max()), np.full(len(whole), size)
    if (stored == whole).all():
        return _resampling(tensor(corner), tensor(extent), tensor(target), size, wide)
    outer = _resampling(tensor(corner), tensor(extent), tensor(target), size, int(whole.max()))
    few = 1 if (stored == stored[0]).all() else len(stored)  # images of one shape share the first stage
    inner = _resampling(tensor(0 * stored[:few]), tensor(stored[:few]), tensor(whole[:few]), int(whole.max()), wide)
    return outer @ inner


def stack_boxes(
    images: Sequence[np.ndarray] | np.ndarray, corner: np.ndarray, extent: np.ndarray, device: torch.device
) -> Tensor:
    """Stack boxes of uint8 images as (n, c, h, w) float32 on `device`, zeros where one is smaller than the largest.

    Of a memory map only the boxes are read. Bytes, not floats, go over the bus, and from pinned memory, so that the
    copy does not wait.
    """
    import torch

    high, wide = extent.max(0)
    batch = np.zeros((len(images), high, wide, images[0].shape[-1]), np.uint8)
    for padded, image, (top, left), (h, w) in zip(batch, images, corner, extent, strict=True):
        padded[:h, :w] = image[top : top + h, left : left + w]
    pixels = torch.from_numpy(batch)
    pixels = pixels.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else pixels.to(device)
    return pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)


def resample(
    images: Sequence[np.ndarray] | np.ndarray, whole: np.ndarray, corner: np.ndarray, extent: np.ndarray, size: int,
    device: torch.device,
) -> Tensor:  # fmt: skip
    """Resize each image to `whole`, keep the box of `extent` at `corner`, resize it to a square of `size` pixels.

    Args:
        images: each (h, w, c) uint8.
        whole: (n, 2) heights and widths; so are `corner` and `extent`.

    Returns:
        (n, c, size, size) float32 in units of bytes, not clamped to 0..255: bicubic kernels overshoot.
    """
    stored = np.array([image.shape[:2] for image in images], np.int64)
    if (stored == whole).all():
        pixels = stack_boxes(images, corner, extent, device)
        stored = whole = extent
        corner = 0 * corner
    else:
        pixels = stack_boxes(images, 0 * corner, stored, device)
    rows, columns = (_axis(stored[:, i], whole[:, i], corner[:, i], extent[:, i], size, device) for i in (0, 1))
    n, channels, high, wide = pixels.shape
    across = (pixels.view(n, channels * high, wide) @ columns.mT).clamp_(0, 255)  # as Pillow does on the way
    return rows[:, None] @ across.view(n, channels, high, size)
