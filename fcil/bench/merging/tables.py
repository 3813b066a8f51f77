"""Make the merging benchmark's tables: means over seeds as CSV and Markdown, and for the terminal."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from rich.table import Table
from rich.text import Text

from fcil.bench.merging.evaluation import HITS, Result

__all__ = ["Line", "expert_accuracy_text", "figure_names", "mean_lines", "to_csv", "to_markdown", "to_rich"]


@dataclass(frozen=True)
class Line:
    """One line of the table: a merge or reference over its seeds."""

    model: str
    experts: int
    label: str
    merge: bool
    settings: str
    """Settings chosen, without repetitions, in the order of the seeds."""
    seeds: int
    values: np.ndarray
    """(seeds, figures): shares, and seconds last; see `figure_names`."""

    def mean(self) -> np.ndarray:
        """Take the mean over seeds, (figures,)."""
        return np.asarray(self.values.mean(0))

    def std(self) -> np.ndarray:
        """Sample standard deviation over seeds (n - 1), (figures,); NaN for one seed."""
        return self.values.std(0, ddof=1) if self.seeds > 1 else np.full(self.values.shape[1], np.nan)


def figure_names(tasks: int) -> list[str]:
    """Name the figures of a line: all are shares, but for the seconds."""
    per_task = [f"task {t + 1}" for t in range(tasks)]
    return [*per_task, "held in", "held out", *(f"hits@{k}" for k in HITS), "seconds"]


def _values(result: Result) -> list[float]:
    return [*result.normalised, result.on_merged_tasks, result.on_other_tasks, *result.hits, result.seconds]


def mean_lines(results: Sequence[Result]) -> list[Line]:
    """Group results over seeds into lines, in the order of each line's first result."""
    groups: dict[tuple[str, int, str, bool], list[Result]] = {}
    for r in results:
        groups.setdefault((r.model, len(r.tasks), r.label, r.merge), []).append(r)
    return [
        Line(*key, " / ".join(dict.fromkeys(r.settings for r in seeds)), len(seeds), np.array([*map(_values, seeds)]))
        for key, seeds in groups.items()
    ]


def _titles(lines: Sequence[Line], tasks: int) -> tuple[list[str], list[int]]:
    """Column titles, and the indices of the figures in the columns behind the leading ones."""
    whole = all(line.experts == tasks for line in lines)
    names = figure_names(tasks)
    columns = [
        i for i, n in enumerate(names) if (whole or not n.startswith("task")) and not (whole and n == "held out")
    ]
    units = {"seconds": "merge [s]", "held in": "mean [%]" if whole else "held in [%]"}
    lead = ["model", *(["experts"] if not whole else []), "method", "settings", "seeds"]
    return [*lead, *(units.get(names[i], f"{names[i]} [%]") for i in columns)], columns


def _cells(line: Line, columns: Sequence[int], tasks: int, whole: bool) -> list[str]:
    names = figure_names(tasks)

    def figure(i: int) -> str:
        mean, std = line.mean()[i], line.std()[i]
        if np.isnan(mean) or (names[i] == "seconds" and not line.merge):
            return ""
        if names[i] == "seconds":
            return f"{mean:.2f}"
        spread = "" if np.isnan(std) or names[i].startswith("task") else f" ± {100 * std:.1f}"
        return f"{100 * mean:.1f}{spread}"

    lead = [line.model, *([] if whole else [str(line.experts)]), line.label, line.settings, str(line.seeds)]
    return [*lead, *map(figure, columns)]


def table(results: Sequence[Result]) -> list[list[str]]:
    """Format the table: a list of titles, then a list of cells per line."""
    lines, tasks = mean_lines(results), len(results[0].normalised)
    titles, columns = _titles(lines, tasks)
    return [titles, *(_cells(line, columns, tasks, "experts" not in titles) for line in lines)]


def to_markdown(results: Sequence[Result]) -> str:
    """Format as Markdown: the experts' accuracies, by which all is normalised, and below them the table."""
    titles, *body = table(results)
    rules = ["---" if t in ("model", "method", "settings") else "---:" for t in titles]
    text = "".join(f"| {' | '.join(c.replace('|', chr(92) + '|') for c in row)} |\n" for row in (titles, rules, *body))
    return f"{expert_accuracy_text(results)}\n\n{text}"


def expert_accuracy_text(results: Sequence[Result]) -> str:
    """Say for every backbone, one a line, its experts' accuracies, by which all others are normalised."""
    text = []
    for model in dict.fromkeys(r.model for r in results):
        accuracies = 100 * np.mean([r.own for r in results if r.model == model], 0)
        text.append(
            f"{model}: accuracy of the experts on their own tasks [%]: {', '.join(f'{a:.1f}' for a in accuracies)}"
        )
    return "\n".join(text)


def to_csv(results: Sequence[Result]) -> str:
    """Format means and deviations over seeds as CSV, in full precision: shares and seconds."""
    lines, tasks = mean_lines(results), len(results[0].normalised)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    figures = [f"{name} {statistic}" for name in figure_names(tasks) for statistic in ("mean", "std")]
    writer.writerow(["model", "experts", "method", "merge", "settings", "seeds", *figures])
    for line in lines:
        pairs = zip(line.mean().tolist(), line.std().tolist(), strict=True)
        numbers = ["" if np.isnan(x) else repr(x) for pair in pairs for x in pair]
        writer.writerow([line.model, line.experts, line.label, int(line.merge), line.settings, line.seeds, *numbers])
    return text.getvalue()


def to_rich(results: Sequence[Result]) -> Table:
    """Format the table for the terminal."""
    titles, *body = table(results)
    rich_table = Table(box=None, padding=(0, 1, 0, 0))
    for title in titles:
        justify: Literal["left", "right"] = "left" if title in ("model", "method", "settings") else "right"
        rich_table.add_column(Text(title.replace(" [", "\n[")), justify=justify, overflow="fold")
    for row in body:
        rich_table.add_row(*map(Text, row))
    return rich_table
