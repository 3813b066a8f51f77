"""What every data set looks like once it is loaded, and how a batch of it reaches the model."""

import hashlib
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Augmentation", "Dataset", "Split", "prepare"]


@dataclass(frozen=True)
class Split:
    """Images and labels of one part; `images` may be a memory map."""

    images: np.ndarray
    """(n, height, width, channels) uint8; one channel is shown as three equal ones."""
    labels: np.ndarray
    """(n,) int64, the data set's own class numbers."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Augmentation:
    """Random resized crop and horizontal flip, drawn per image; the default changes nothing."""

    scale: tuple[float, float] = (1.0, 1.0)
    """Area of the crop as a share of the image's."""
    ratio: tuple[float, float] = (1.0, 1.0)
    """Width over height of the crop, drawn log-uniformly."""
    flip: bool = False


@dataclass(frozen=True)
class Dataset:
    """A data set, ready for use."""

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    augmentation: Augmentation = field(default_factory=Augmentation)

    def sha256(self) -> str:
        """Over the images and labels of both parts, for the records."""
        sha = hashlib.sha256()
        for part in (self.train, self.test):
            for a in (part.images, part.labels):
                sha.update(str((a.shape, a.dtype.str)).encode())
                for begin in range(0, len(a), 4096):
                    sha.update(np.ascontiguousarray(a[begin : begin + 4096]).data)
        return sha.hexdigest()


def _boxes(n: int, augmentation: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """(n, 2, 3) affine maps from the output's coordinates (-1..1) to the input's, one crop and flip per image."""
    area = rng.uniform(augmentation.scale[0], augmentation.scale[1], n)
    ratio = np.exp(rng.uniform(np.log(augmentation.ratio[0]), np.log(augmentation.ratio[1]), n))
    extent = np.minimum(np.sqrt(np.stack([area * ratio, area / ratio], 1)), 1.0)
    centre = rng.uniform(-1, 1, (n, 2)) * (1 - extent)
    theta = np.zeros((n, 2, 3))
    theta[:, [0, 1], [0, 1]] = extent
    theta[:, :, 2] = centre
    if augmentation.flip:
        theta[:, 0, 0] *= np.where(rng.random(n) < 0.5, -1.0, 1.0)
    return theta.astype(np.float32)


def prepare(
    images: np.ndarray,  # (n, h, w, c) uint8
    dataset: Dataset,
    size: int,
    rng: np.random.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """uint8 images -> normalised (n, 3, size, size) float32 on `device`; augmented where a generator is given."""
    x = torch.tensor(images, device=device).permute(0, 3, 1, 2).float().div_(255)
    if rng is not None and dataset.augmentation != Augmentation():
        theta = torch.from_numpy(_boxes(len(x), dataset.augmentation, rng)).to(device)
        grid = F.affine_grid(theta, [len(x), x.shape[1], size, size], align_corners=False)
        x = F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    elif x.shape[-1] != size or x.shape[-2] != size:
        x = F.interpolate(x, size=(size, size), mode="bicubic", antialias=True).clamp_(0, 1)
    if x.shape[1] == 1:
        x = x.expand(-1, 3, -1, -1)
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (dataset.mean, dataset.std))
    return (x - mean) / std
