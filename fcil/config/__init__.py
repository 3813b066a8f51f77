"""Typed settings: TOML files that hold only differences, resolved into one frozen `Config`."""

from fcil.config.sections import (
    BENCH,
    SECTIONS,
    Config,
    MethodChoice,
    Overrides,
    RowFacts,
    Run,
    Source,
    from_table,
    load_config,
    load_section,
    load_variant,
    row_facts,
    rows_have_bases,
    sweep_overrides,
    to_table,
    variant_names,
)

__all__ = [
    "BENCH", "SECTIONS", "Config", "MethodChoice", "Overrides", "RowFacts", "Run", "Source", "from_table",
    "load_config", "load_section", "load_variant", "row_facts", "rows_have_bases", "sweep_overrides", "to_table",
    "variant_names",
]  # fmt: skip
