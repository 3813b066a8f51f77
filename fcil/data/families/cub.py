"""CUB-200-2011 (Wah et al., Caltech, 2011): 200 species of birds, with its authors' split."""

from pathlib import Path

import numpy as np

from fcil.data.family import IMAGENET_MEAN, IMAGENET_STD, PROTOCOL_TEST, Family, File, Listing, Part
from fcil.data.settings import Data
from fcil.data.splits import check_no_split_file
from fcil.data.transforms import View
from fcil.errors import ConfigError

__all__ = ["CUB200"]

FOLDER = "CUB_200_2011"


def _table(path: Path) -> dict[int, str]:
    """Read a list of CUB: number at the beginning of a line -> the rest of the line."""
    try:
        lines = path.read_text().splitlines()
        return {int(number): rest for number, _, rest in (line.partition(" ") for line in lines if line)}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); unpack {FOLDER}.tgz again") from None


def _listing(root: Path, settings: Data) -> Listing:
    check_no_split_file(settings)
    folder = root / FOLDER
    images, labels = _table(folder / "images.txt"), _table(folder / "image_class_labels.txt")
    training, names = _table(folder / "train_test_split.txt"), _table(folder / "classes.txt")
    if not images.keys() == labels.keys() == training.keys() or set(map(int, labels.values())) - names.keys():
        raise ConfigError(f"{folder}: its lists do not speak of the same images and classes; unpack {FOLDER}.tgz again")

    def part(flag: str) -> Part:
        ids = [i for i in images if training[i] == flag]
        return Part([folder / "images" / images[i] for i in ids], np.array([int(labels[i]) - 1 for i in ids]))

    classes = tuple(name.partition(".")[2].replace("_", " ") or name for name in names.values())
    return Listing(classes, part("1"), part("0"))


CUB200 = Family(
    name="cub200",
    source="Wah et al., 2011: https://www.vision.caltech.edu/datasets/cub_200_2011",
    listing=_listing,
    classes=200,
    counts=(5_994, 5_794),
    tasks=10,
    files=(
        File(
            f"{FOLDER}.tgz",
            f"https://data.caltech.edu/records/65de6-vp158/files/{FOLDER}.tgz",
            "97eceeb196236b17998738112f37df78",
            FOLDER,
        ),
    ),
    shrunk=True,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    train_view=View(resize=256, crop="random", flip=True),
    test_view=PROTOCOL_TEST,
)
