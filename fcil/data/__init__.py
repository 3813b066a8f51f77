"""Load image data sets by name. Each module of `families` describes one data set, or those of one source."""

from dataclasses import replace

from fcil.data.dataset import Dataset
from fcil.data.families.cars import CARS196
from fcil.data.families.cifar import CIFAR100
from fcil.data.families.class_folders import CLASS_FOLDERS
from fcil.data.families.cub import CUB200
from fcil.data.families.digits import DIGITS
from fcil.data.families.eurosat import EUROSAT
from fcil.data.families.fashion_mnist import FASHION_MNIST
from fcil.data.families.folder import FOLDER
from fcil.data.families.imagenet_variants import IMAGENET_A, IMAGENET_R
from fcil.data.family import Family
from fcil.data.held_out import hold_out
from fcil.data.settings import Data
from fcil.data.sources import source_family
from fcil.errors import ConfigError
from fcil.options import nearest

__all__ = ["FAMILIES", "Data", "family", "load"]

FAMILIES = {
    f.name: f
    for f in (CIFAR100, IMAGENET_R, IMAGENET_A, CUB200, CARS196, EUROSAT, FASHION_MNIST, DIGITS, FOLDER, CLASS_FOLDERS)
}  # fmt: skip
"""Data set name -> its description."""


def family(name: str) -> Family:
    """The description of the data set `name`, or `SOURCE:NAME`; raises ConfigError for an unknown name."""
    if ":" in name:
        return source_family(name)
    if name not in FAMILIES:
        raise ConfigError(f"data.name = {name!r}: no such data set. {nearest(name, FAMILIES)}")
    return FAMILIES[name]


def load(settings: Data, size: int, download: bool = False) -> Dataset:
    """Load a data set for a model of `size` pixels, after decoding it into its cache where that was not done before.

    Raises:
        ConfigError: unknown name, or files that are missing, damaged or not official; says which files to put where.
    """
    from fcil.data.loading import load_family  # what reads files is slow to import; families are known without it
    from fcil.data.stand_in import stand_in
    from fcil.data.views import shown

    described = family(settings.name)
    if settings.stand_in:
        data = stand_in(shown(described, settings), size)
    else:
        data = load_family(described, settings, size, download)
    train = data.train.first(settings.train_limit).first_of_each(settings.train_per_class)
    data = replace(data, train=train)
    if settings.held_out:
        data = hold_out(data, settings.held_out, settings.split_seed)
    return replace(data, test=data.test.first(settings.test_limit).first_of_each(settings.test_per_class))
