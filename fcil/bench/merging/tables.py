"""The merging benchmark's tables: means over seeds as CSV and Markdown, and for the terminal."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from rich.table import Table
from rich.text import Text

from fcil.bench.merging.evaluation import HITS, Result

__all__ = ["Line", "lines", "to_csv", "told", "to_markdown", "to_rich"]


@dataclass(frozen=True)
class Line:
    """A method over its seeds."""

    model: str
    experts: int
    label: str
    merge: bool
    settings: str
    """Those chosen, each once, in the order of the seeds."""
    seeds: int
    values: np.ndarray
    """(seeds, figures): shares, and seconds last; see `heads`."""

    def mean(self) -> np.ndarray:
        """(figures,)."""
        return np.asarray(self.values.mean(0))

    def std(self) -> np.ndarray:
        """(figures,) of a sample (n - 1); NaN for one seed."""
        return self.values.std(0, ddof=1) if self.seeds > 1 else np.full(self.values.shape[1], np.nan)


def heads(tasks: int) -> list[str]:
    """Names of the figures: shares all, but for the seconds."""
    each = [f"task {t + 1}" for t in range(tasks)]
    return [*each, "held in", "held out", *(f"hits@{k}" for k in HITS), "seconds"]


def _values(result: Result) -> list[float]:
    return [*result.normalised, result.held_in, result.held_out, *result.hits, result.seconds]


def lines(results: Sequence[Result]) -> list[Line]:
    """In the order in which they were found first."""
    groups: dict[tuple[str, int, str, bool], list[Result]] = {}
    for r in results:
        groups.setdefault((r.model, len(r.tasks), r.label, r.merge), []).append(r)
    return [
        Line(*key, " / ".join(dict.fromkeys(r.settings for r in mine)), len(mine), np.array([_values(r) for r in mine]))
        for key, mine in groups.items()
    ]


def _titles(made: Sequence[Line], tasks: int) -> tuple[list[str], list[int]]:
    """Column titles, and which figures stand in them."""
    whole = all(line.experts == tasks for line in made)
    names = heads(tasks)
    wanted = [i for i, n in enumerate(names) if (whole or not n.startswith("task")) and not (whole and n == "held out")]
    units = {"seconds": "merge [s]", "held in": "mean [%]" if whole else "held in [%]"}
    lead = ["model", *(["experts"] if not whole else []), "method", "settings", "seeds"]
    return [*lead, *(units.get(names[i], f"{names[i]} [%]") for i in wanted)], wanted


def _cells(line: Line, wanted: Sequence[int], tasks: int, whole: bool) -> list[str]:
    names = heads(tasks)

    def figure(i: int) -> str:
        mean, std = line.mean()[i], line.std()[i]
        if np.isnan(mean) or (names[i] == "seconds" and not line.merge):
            return ""
        if names[i] == "seconds":
            return f"{mean:.2f}"
        spread = "" if np.isnan(std) or names[i].startswith("task") else f" ± {100 * std:.1f}"
        return f"{100 * mean:.1f}{spread}"

    lead = [line.model, *([] if whole else [str(line.experts)]), line.label, line.settings, str(line.seeds)]
    return [*lead, *map(figure, wanted)]


def table(results: Sequence[Result]) -> list[list[str]]:
    """Titles, then one list of cells per line."""
    made, tasks = lines(results), len(results[0].normalised)
    titles, wanted = _titles(made, tasks)
    return [titles, *(_cells(line, wanted, tasks, "experts" not in titles) for line in made)]


def to_markdown(results: Sequence[Result]) -> str:
    """What everything is normalised by, and below it the table of all lines."""
    titles, *body = table(results)
    rules = ["---" if t in ("model", "method", "settings") else "---:" for t in titles]
    text = "".join(f"| {' | '.join(c.replace('|', chr(92) + '|') for c in row)} |\n" for row in (titles, rules, *body))
    return f"{told(results)}\n\n{text}"


def told(results: Sequence[Result]) -> str:
    """A line for every backbone on what its accuracies are normalised by."""
    text = []
    for model in dict.fromkeys(r.model for r in results):
        own = 100 * np.mean([r.own for r in results if r.model == model], 0)
        text.append(f"{model}: accuracy of the experts on their own tasks [%]: {', '.join(f'{a:.1f}' for a in own)}")
    return "\n".join(text)


def to_csv(results: Sequence[Result]) -> str:
    """Means and deviations of full precision; shares and seconds."""
    made, tasks = lines(results), len(results[0].normalised)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    figures = [f"{name} {what}" for name in heads(tasks) for what in ("mean", "std")]
    writer.writerow(["model", "experts", "method", "merge", "settings", "seeds", *figures])
    for line in made:
        pairs = zip(line.mean().tolist(), line.std().tolist(), strict=True)
        numbers = ["" if np.isnan(x) else repr(x) for pair in pairs for x in pair]
        writer.writerow([line.model, line.experts, line.label, int(line.merge), line.settings, line.seeds, *numbers])
    return text.getvalue()


def to_rich(results: Sequence[Result]) -> Table:
    """For the terminal."""
    titles, *body = table(results)
    made = Table(box=None, padding=(0, 1, 0, 0))
    for title in titles:
        justify: Literal["left", "right"] = "left" if title in ("model", "method", "settings") else "right"
        made.add_column(Text(title.replace(" [", "\n[")), justify=justify, overflow="fold")
    for row in body:
        made.add_row(*map(Text, row))
    return made
