"""Describe data sets that are named by where they come from, `SOURCE:NAME`."""

from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

from fcil.data.family import Family
from fcil.errors import ConfigError
from fcil.options import nearest

__all__ = ["SOURCES", "source_family"]


class Source(NamedTuple):
    """A place from which data sets come that are named `SOURCE:NAME`."""

    module: str
    """Module in `families`."""
    function: str
    """Function of it that describes a set of that NAME."""
    example: str
    text: str
    """A description for people."""


SOURCES = {
    "torchvision": Source("torchvision_sets", "torchvision_set", "torchvision:Flowers102",
                          "any set of torchvision to classify, as torchvision keeps, fetches and checks it"),
    "hf": Source("hub", "hub_set", "hf:NAME", "Hugging Face, or a folder saved from there; pip install fcil[datasets]"),
    "table": Source("table", "table", "table:FILE", "CSV, TSV or Parquet: columns of paths, labels, parts, domains"),
    "npz": Source("npz", "npz", "npz:FILE", "NumPy arrays of images and labels"),
}  # fmt: skip
"""Text before the colon -> the source."""


def source_family(name: str) -> Family:
    """The description of a data set named `SOURCE:NAME`.

    Raises:
        ConfigError: no such source, or no name behind the colon.
    """
    source, _, rest = name.partition(":")
    if source not in SOURCES:
        raise ConfigError(f"data.name = {name!r}: no such source. {nearest(source, SOURCES)}")
    described = SOURCES[source]
    if not rest:
        raise ConfigError(f"data.name = {name!r}: write what to read behind the colon, {described.example}")
    module = import_module(f"fcil.data.families.{described.module}")
    describe: Callable[[str], Family] = getattr(module, described.function)
    return describe(rest)
