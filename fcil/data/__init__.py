"""Data sets by name; the only rooms that touch the disk. One file per family, each with `load(root, size)`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from fcil.data import digits, fashion_mnist
from fcil.data.dataset import Dataset
from fcil.errors import ConfigError
from fcil.options import Option, nearest

__all__ = ["SOURCES", "Data", "load"]

_LOADERS: dict[str, Callable[[Path | None, int], Dataset]] = {
    "digits": digits.load,
    "fashion-mnist": fashion_mnist.load,
}
SOURCES = {"digits": digits.SOURCE, "fashion-mnist": fashion_mnist.SOURCE}
"""Data set -> where it comes from."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """`[data]`: which images."""

    name: Annotated[str, Option("data set; `fcil data list` names them")] = "digits"
    root: Annotated[str, Option("folder that holds its files, where it needs any")] = ""
    train_limit: Annotated[int, Option("use only the first so many training images; 0 for all", low=0)] = 0
    test_limit: Annotated[int, Option("use only the first so many test images; 0 for all", low=0)] = 0


def load(settings: Data, size: int) -> Dataset:
    """Load a data set for images of `size` pixels.

    Raises:
        ConfigError: unknown name, or files that are missing or damaged; says what to put where.
    """
    if settings.name not in _LOADERS:
        raise ConfigError(f"data.name = {settings.name!r}: no such data set. {nearest(settings.name, _LOADERS)}")
    data = _LOADERS[settings.name](Path(settings.root).expanduser() if settings.root else None, size)
    return replace(data, train=data.train.first(settings.train_limit), test=data.test.first(settings.test_limit))
