"""Gather what a page tells of several runs: those of a comparison, or any that were named together."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fcil.engine.comparison import Cell, short_titles
from fcil.engine.grid import read_grid, run_state
from fcil.engine.same_settings import same_key
from fcil.registry import method_class, method_names
from fcil.report.comparison_result import Comparison, open_comparison
from fcil.report.page.settings_parts import settings_of
from fcil.report.rows import compare_rows, setting_text
from fcil.report.run_result import Run
from fcil.report.run_rows import differing_settings

__all__ = ["Entry", "Subject", "of_comparison", "of_runs"]


@dataclass(frozen=True)
class Entry:
    """A run as a line of the table of runs, finished or not."""

    run: Run
    label: str
    facts: Mapping[str, str]
    """The run's method, seed, and every setting in which the runs differ: what it can be filtered by."""
    state: str
    figures: Mapping[str, Any]
    """Figures of the finished run; empty before."""


@dataclass(frozen=True)
class Subject:
    """Several runs: tables over seeds, and the runs one by one."""

    title: str
    comparison: Comparison
    entries: Sequence[Entry]
    cells: Sequence[Cell] = field(default=())
    """What is planned, where the runs are those of a comparison."""

    def runs_at(self, value: str) -> dict[str, list[int]]:
        """Label -> the numbers of its finished runs at a point of the sweep, in the order of the runs."""
        numbers: dict[str, list[int]] = {}
        for number, entry in enumerate(self.entries):
            if entry.figures and entry.figures["value"] == value:
                numbers.setdefault(entry.label, []).append(number)
        return numbers


def of_comparison(folder: Path) -> Subject:
    """Gather the runs of a comparison, those that are not finished too.

    Raises:
        ConfigError: the folder holds no comparison.
    """
    comparison, cells = open_comparison(folder), read_grid(folder)
    titles = short_titles(list(dict.fromkeys(cell.label for cell in cells)))
    figures = dict(zip([r.folder for r in comparison.runs if r.finished], comparison.figures, strict=True))
    varied = differing_settings(comparison.figures) if comparison.figures else []
    entries = []
    for cell, run in zip(cells, comparison.runs, strict=True):
        figures_of_run = figures.get(run.folder, {})
        settings = {**figures_of_run.get("settings", {}), **dict(cell.point.settings)}
        entries.append(_entry(run, titles[cell.label], cell.seed, settings, varied, figures_of_run))
    return Subject(f"Comparison {folder.resolve().name}", comparison, entries, cells)


def of_runs(folders: Sequence[Path]) -> Subject:
    """Gather runs that were named together; those that differ in the seed alone are one row of the table.

    Raises:
        ConfigError: a folder holds no run.
    """
    runs = [Run(folder) for folder in folders]
    settings = [settings_of(run) for run in runs]
    labels = _labels([run.config.method.label for run in runs], settings)
    seeds = Counter(zip(labels, [run.seed for run in runs], strict=True))
    labels = [
        f"{label} in {run.folder.resolve().name}" if seeds[label, run.seed] > 1 else label
        for label, run in zip(labels, runs, strict=True)
    ]  # the same run twice is no second seed
    figures: list[dict[str, Any]] = [
        _figures(run, label, of_run) for run, label, of_run in zip(runs, labels, settings, strict=True)
    ]
    varied = differing_settings(figures)
    for of_run in figures:  # nothing was set for all of them, so the table names all in which they differ
        recorded_settings = of_run["settings"]
        of_run["common"] = {
            name: recorded_settings[name]
            for name in varied
            if name in recorded_settings and not name.startswith("run.")
        }
    entries = [
        _entry(run, of_run["label"], run.seed, of_run["settings"], varied, of_run if run.finished else {})
        for run, of_run in zip(runs, figures, strict=True)
    ]
    done = [of_run for run, of_run in zip(runs, figures, strict=True) if run.finished]
    comparison = Comparison(folders[0], {"": compare_rows(done)}, tuple(runs), {"": {}}, done)
    title = runs[0].title if len(runs) == 1 else f"{len(runs)} runs"
    return Subject(title, comparison, entries)


def _figures(run: Run, label: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a run as those of a comparison have them, where nothing is swept over."""
    return {
        **run.summary, "label": label, "seed": run.seed, "value": "", "swept": {}, "settings": settings,
        **_stream(run), "same": same_key(settings, run.config.method.name),
    }  # fmt: skip


def _stream(run: Run) -> dict[str, str]:
    """Tell who holds the data, of shipped methods only: no file of the user's is imported to make a report."""
    name = run.config.method.name
    return {"stream": method_class(name).stream} if name in method_names() else {}


def _labels(methods: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name each run by its method, and by the settings in which it differs from others of that method."""
    labels = []
    for method, settings_of_run in zip(methods, settings, strict=True):
        like = [other for name, other in zip(methods, settings, strict=True) if name == method]
        names = dict.fromkeys(name for other in like for name in other)
        # one that a run does not record differs too: another version, or a setting that the method had not yet
        runs = [{"swept": {}, "settings": {k: _text(other.get(k, "")) for k in names}} for other in like]
        varied = [
            name for name in differing_settings(runs) if name in settings_of_run and name.partition(".")[0] != "run"
        ]
        text = ", ".join(f"{name} = {_text(settings_of_run[name])}" for name in varied)
        labels.append(f"{method} ({text})" if text else method)
    return labels


def _text(value: Any) -> str:
    return setting_text(list(value) if isinstance(value, tuple) else value)


def _entry(
    run: Run, label: str, seed: int, settings: Mapping[str, Any], varied: Sequence[str], figures: Mapping[str, Any]
) -> Entry:
    facts = {name: _text(settings[name]) for name in varied if name in settings and name != "method.name"}
    return Entry(run, label, {"method": label, "seed": str(seed), **facts}, run_state(run.folder), figures)
