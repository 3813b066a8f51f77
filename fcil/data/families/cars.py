"""Stanford Cars (Krause et al., 2013): 196 classes, with its authors' split and MATLAB annotations.

Images are resized to the model's size on their shorter side and cropped in the centre, in training and in test, as the
download routine of LoRM's public code does; its paper names only the flip.
"""

from pathlib import Path
from typing import Any

import numpy as np

from fcil.data.family import Family, File, Listing, Part
from fcil.data.settings import Data
from fcil.data.splits import check_no_split_file
from fcil.data.transforms import View
from fcil.errors import ConfigError

__all__ = ["CARS196"]

TEST_LABELS = "cars_test_annos_withlabels.mat"


def _mat(path: Path, key: str) -> Any:
    from scipy.io import loadmat  # slow to import, and only needed here

    try:
        return loadmat(path, squeeze_me=True)[key]
    except Exception as error:  # SciPy raises many kinds for a damaged file
        raise ConfigError(f"{path}: cannot be read as the annotations of Stanford Cars ({error!r})") from None


def _part(images: Path, annotations: Path) -> Part:
    rows = np.atleast_1d(_mat(annotations, "annotations"))
    if "class" not in (rows.dtype.names or ()):
        raise ConfigError(f"{annotations}: has no classes; the file with labels is called {TEST_LABELS}")
    return Part(
        [images / str(row["fname"]) for row in rows], np.array([int(row["class"]) - 1 for row in rows], np.int64)
    )


def _listing(root: Path, settings: Data) -> Listing:
    check_no_split_file(settings)
    names = np.atleast_1d(_mat(root / "devkit" / "cars_meta.mat", "class_names"))
    train = _part(root / "cars_train", root / "devkit" / "cars_train_annos.mat")
    return Listing(tuple(map(str, names)), train, _part(root / "cars_test", root / TEST_LABELS))


CARS196 = Family(
    name="cars196",
    source="Krause et al., 2013; no longer served by its authors",
    listing=_listing,
    classes=196,
    counts=(8_144, 8_041),
    tasks=10,
    files=(
        File("cars_train.tgz", md5="065e5b463ae28d29e77c1b4b166cfe61", unpacks="cars_train"),
        File("cars_test.tgz", md5="4ce7ebf6a94d07f1952d94dd34c4d501", unpacks="cars_test"),
        File("car_devkit.tgz", md5="c3b158d763b6e2245038c8ad08e45376", unpacks="devkit"),
        File(TEST_LABELS, md5="b0a2b23655a3edd16d84508592a98d10"),
    ),
    shrunk=True,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    train_view=View(resize=224, crop="centre", flip=True),
    test_view=View(resize=224, crop="centre"),
)
