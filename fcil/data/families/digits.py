"""The embedded data set: scikit-learn's `digits`, 1,797 scans of hand-written digits (Alpaydin and Kaynak, 1998)."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from fcil.data.family import Family, Listing, Part
from fcil.data.settings import Data
from fcil.data.splits import check_no_split_file
from fcil.data.transforms import View
from fcil.seeding import generator

__all__ = ["DIGITS"]

SIZE = 32


def _test_quarter(labels: np.ndarray) -> np.ndarray:
    """Choose a quarter of each class for the test part; the choice is fixed, the same for every seed of a run."""
    test = np.zeros(len(labels), bool)
    for c in np.unique(labels):
        members = generator(0, "digits", int(c)).permutation(np.flatnonzero(labels == c))
        test[members[: round(len(members) / 4)]] = True
    return test


def _scans() -> tuple[np.ndarray, np.ndarray]:
    """Read the scans, (n, 8, 8) float64 in 0..16, and their digits, (n,) int64.

    They are read from scikit-learn's file: to import what else would read it takes fifty times as long.
    """
    package = find_spec("sklearn")
    for folder in (package and package.submodule_search_locations) or ():
        file = Path(folder, "datasets", "data", "digits.csv.gz")
        if file.is_file():
            table = np.loadtxt(file, delimiter=",")
            return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits  # another version may keep the file elsewhere

    bunch = load_digits()
    return np.asarray(bunch.images), np.asarray(bunch.target, np.int64)


@cache
def _shown() -> tuple[np.ndarray, np.ndarray]:
    """Enlarge the scans, once in a process: (n, 32, 32, 1) uint8; with their digits."""
    import torch  # slow to import, and only needed here
    from torch.nn import functional as F

    scans, labels = _scans()
    small = torch.from_numpy(np.asarray(scans, np.float32) / 16)[:, None]
    large = F.interpolate(small, size=(SIZE, SIZE), mode="bicubic").clamp(0, 1)
    return (large * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy(), labels


def _listing(root: Path, settings: Data) -> Listing:
    check_no_split_file(settings)
    images, labels = _shown()  # indexed below, which copies
    test = _test_quarter(labels)
    return Listing(tuple("0123456789"), Part(images[~test], labels[~test]), Part(images[test], labels[test]))


DIGITS = Family(
    name="digits",
    source="scikit-learn, installed with fcil: 8x8 shown at 32x32; a fixed stratified quarter is for test",
    listing=_listing,
    classes=10,
    counts=(1_347, 450),
    tasks=5,
    cached=False,
    train_view=View(crop="area", scale=(0.7, 1.0), ratio=(0.8, 1.25)),
)
