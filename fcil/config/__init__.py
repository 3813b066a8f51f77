"""Typed settings: TOML files that hold only differences, resolved into one frozen `Config`.

A file may name another as its `base` (relative to itself); later files and then `--set section.key=value` win. Every
value remembers which file it came from, so that a message can point at it.

sections    `Config` and its sections
tables      a table becomes a checked `Config`, and a `Config` a table again
layers      a file, its bases and the overrides as a list of tables, each with the name of where it came from
rows        what a file says of the rows of a comparison
sweep       what is swept over, as the points of a grid
resolved    settings as section.key, and of which two runs have different values
loading     the `Config` of a single run, or of one row of a comparison
"""

from fcil.config.layers import BENCH, Overrides, Source, load_section
from fcil.config.loading import load_all, load_config, load_variant
from fcil.config.resolved import common_settings, flat, flat_settings, unlike
from fcil.config.rows import (
    RowFacts,
    canonical,
    labels_of,
    row_call,
    row_facts,
    row_has_method,
    rows_have_bases,
    variant_names,
)
from fcil.config.sections import SECTIONS, Config, MethodChoice, Run
from fcil.config.sweep import Point, Sweep, grid, swept_settings
from fcil.config.tables import from_table, identity, to_table

__all__ = [
    "BENCH", "SECTIONS", "Config", "MethodChoice", "Overrides", "Point", "RowFacts", "Run", "Source", "Sweep",
    "canonical", "common_settings", "flat", "flat_settings", "from_table", "grid", "identity", "labels_of", "load_all",
    "load_config", "load_section", "load_variant", "row_call", "row_facts", "row_has_method", "rows_have_bases",
    "swept_settings", "to_table", "unlike", "variant_names",
]  # fmt: skip
