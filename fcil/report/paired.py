"""Compares methods seed by seed: the mean difference of final accuracies, and an interval for it.

Two methods with the same seed share the classes' order, the split and the draws, so their difference varies less than
either. The interval is Student's for the mean of n paired differences d: mean(d) +- t(0.975, n - 1) sd(d) / sqrt(n).
It covers the chance of seeds alone, not that of data sets, and holds for differences that are about normal.
Literal transcription: `paired_difference` in tests/reference.py.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from fcil.report.references import images_and_classes
from fcil.report.tables import cells_markdown

__all__ = [
    "Difference", "differences", "differences_cells", "differences_csv", "differences_markdown", "paired_difference",
]  # fmt: skip

COVERAGE = 0.95
TINY = 1e-12
"""Half of an interval that is no more than rounding."""
HEADS = ["method", "minus", "seeds", "difference [points]", f"{100 * COVERAGE:.0f} % interval [points]"]


@dataclass(frozen=True)
class Difference:
    """The final accuracy of one method minus that of another, over the seeds that both have; shares, not percent."""

    label: str
    reference: str
    seeds: int
    mean: float
    half_width: float
    """Half of the interval's width; NaN for a single seed, and where all differences are equal."""

    @property
    def interval(self) -> tuple[float, float]:
        """The ends of the interval."""
        return self.mean - self.half_width, self.mean + self.half_width


def paired_difference(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Mean of paired differences, (n,) minus (n,), and half the width of Student's interval; NaN for n = 1."""
    from scipy.stats import t

    d = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    if len(d) < 2:
        return float(d.mean()), float("nan")
    return float(d.mean()), float(t.ppf((1 + COVERAGE) / 2, len(d) - 1) * d.std(ddof=1) / np.sqrt(len(d)))


def differences(runs: Sequence[Mapping[str, Any]]) -> list[Difference]:
    """Compare every method with every other one of a table, in the order of the runs, over the seeds that both have.

    Methods that were given other images or classes are not compared.
    """
    final: dict[str, dict[int, float]] = {}
    data: dict[str, set[str]] = {}
    for run in runs:
        final.setdefault(run["label"], {})[run["seed"]] = run["final_accuracy"]
        data.setdefault(run["label"], set()).add(images_and_classes(run))
    results = []
    for label, reference in permutations(final, 2):
        if data[label] != data[reference]:  # other images or classes: nothing is paired
            continue
        if seeds := sorted(final[label].keys() & final[reference].keys()):
            pairs = np.array([[final[label][s], final[reference][s]] for s in seeds])
            mean, half = paired_difference(pairs[:, 0], pairs[:, 1])
            # where nothing varies with these seeds, they say nothing of how much others would
            results.append(Difference(label, reference, len(seeds), mean, half if half > TINY else float("nan")))
    return results


def differences_csv(pairs: Sequence[Difference]) -> str:
    """Format differences as CSV, in shares, at full precision; an interval is empty for a single seed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "minus", "seeds", "difference", "interval_low", "interval_high"])
    for d in pairs:
        ends = ["" if np.isnan(end) else repr(end) for end in d.interval]
        writer.writerow([d.label, d.reference, d.seeds, repr(d.mean), *ends])
    return text.getvalue()


def differences_cells(pairs: Sequence[Difference]) -> tuple[list[str], list[list[str]]]:
    """Make heads and lines of the differences from the first row of a table; no lines where there are no two seeds."""
    shown = [d for d in pairs if d.reference == pairs[0].label and d.seeds > 1]
    return HEADS, [[d.label, d.reference, str(d.seeds), f"{100 * d.mean:+.2f}", _interval(d)] for d in shown]


def differences_markdown(pairs: Sequence[Difference]) -> str:
    """Format the differences from the first row of a table as Markdown; empty where there are no two seeds."""
    heads, lines = differences_cells(pairs)
    return cells_markdown(heads, lines) if lines else ""


def _interval(difference: Difference) -> str:
    low, high = (100 * end for end in difference.interval)
    if np.isnan(low):
        return "-"
    return f"{low:+.2f} to {high:+.2f}"
