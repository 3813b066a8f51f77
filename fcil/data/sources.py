"""Describe data sets that are named by where they come from, `SOURCE:NAME`."""

from collections.abc import Callable
from importlib import import_module

from fcil.data.family import Family
from fcil.errors import ConfigError
from fcil.options import nearest

__all__ = ["SOURCES", "source_family"]

SOURCES = {
    "torchvision": ("torchvision_sets", "torchvision_set", "torchvision:Flowers102", "any classification set of it"),
    "hf": (
        "hub",
        "hub_set",
        "hf:NAME",
        "Hugging Face, or a folder saved from there; pip install fcil[datasets]",
    ),
    "table": ("table", "table", "table:FILE", "a CSV, TSV or Parquet file of paths and labels, and parts and domains"),
    "npz": ("npz", "npz", "npz:FILE", "NumPy arrays of images and labels"),
}
"""Source -> module in `families`, function of it, an example, and what it is, for people."""


def source_family(name: str) -> Family:
    """The description of a data set named `SOURCE:NAME`.

    Raises:
        ConfigError: no such source, or no name behind the colon.
    """
    source, _, rest = name.partition(":")
    if source not in SOURCES:
        raise ConfigError(f"data.name = {name!r}: no such source. {nearest(source, SOURCES)}")
    module, function, example, _ = SOURCES[source]
    if not rest:
        raise ConfigError(f"data.name = {name!r}: write what to read behind the colon, {example}")
    describe: Callable[[str], Family] = getattr(import_module(f"fcil.data.families.{module}"), function)
    return describe(rest)
