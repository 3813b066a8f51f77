"""The embedded data: scikit-learn's `digits`, 1,797 real scans of hand-written digits (Alpaydin and Kaynak, 1998)."""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from fcil.data.dataset import Dataset, Split
from fcil.data.transforms import View
from fcil.seeding import generator

__all__ = ["load"]

SOURCE = "scikit-learn, installed with fcil: 1,797 images of 8x8 shown at 32x32; a fixed stratified quarter is for test"
SIZE = 32


def _test_quarter(labels: np.ndarray) -> np.ndarray:
    """A fixed choice, the same for every seed of a run: of each class every fourth in an order drawn once."""
    test = np.zeros(len(labels), bool)
    for c in np.unique(labels):
        members = generator(0, "digits", int(c)).permutation(np.flatnonzero(labels == c))
        test[members[: round(len(members) / 4)]] = True
    return test


def load(root: Path | None, size: int) -> Dataset:
    """The data set; `root` and `size` are not used, as it ships with scikit-learn and is small."""
    from sklearn.datasets import load_digits  # slow to import, and only needed here

    bunch = load_digits()
    small = torch.from_numpy(np.asarray(bunch.images, np.float32) / 16)[:, None]
    large = F.interpolate(small, size=(SIZE, SIZE), mode="bicubic").clamp(0, 1)
    images = (large * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    labels = np.asarray(bunch.target, np.int64)
    test = _test_quarter(labels)
    return Dataset(
        name="digits",
        classes=tuple("0123456789"),
        train=Split(images[~test], labels[~test]),
        test=Split(images[test], labels[test]),
        train_view=View(crop="area", scale=(0.7, 1.0), ratio=(0.8, 1.25)),
    )
