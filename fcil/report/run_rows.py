"""Write the runs of a comparison as a tidy table: one row a run, with all settings in which any two of them differ."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from fcil.report.missing_updates import count_updates
from fcil.report.rows import COLUMNS, setting_text

__all__ = ["differing_settings", "runs_csv"]


def differing_settings(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the settings that are swept over, then of others of which two runs that have it have different values.

    A setting of some methods only is among them if these differ in it. The seed is not: it has a column anyway.
    """
    swept = list(dict.fromkeys(name for run in runs for name in run["swept"]))
    names = dict.fromkeys(name for run in runs for name in run["settings"])
    values = {name: {setting_text(r["settings"][name]) for r in runs if name in r["settings"]} for name in names}
    return [*swept, *(n for n in names if len(values[n]) > 1 and n not in swept and n != "run.seed")]


def runs_csv(runs: Sequence[Mapping[str, Any]]) -> str:
    """Format runs as CSV: figures of full precision, in the units of the summary (shares, bytes, seconds).

    Settings are written as in TOML, words without quotes; a cell is empty where a method has no such setting or figure.
    """
    text, names = io.StringIO(), differing_settings(runs)
    writer = csv.writer(text, lineterminator="\n")
    ends = ["updates_missing", "updates_asked", "sha256"]
    writer.writerow(["method", "seed", *names, *(column.key for column in COLUMNS), *ends])
    for run in runs:
        settings = {**run["settings"], **run["swept"]}
        figures = [column.value(run) for column in COLUMNS]
        missing, asked = count_updates([run])
        writer.writerow([
            run["label"], run["seed"], *(setting_text(settings.get(name)) for name in names),
            *("" if figure is None else repr(figure) for figure in figures), missing, asked or "", run["sha256"],
        ])  # fmt: skip
    return text.getvalue()
