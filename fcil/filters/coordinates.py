"""Filters that replace single numbers of what trained: the coordinate median, and the trimmed mean.

Yin, Chen, Ramchandran and Bartlett, ICML 2018, arXiv 1803.01498, put them in the place of the mean. Here other merges
follow, so a list of updates is mapped to a list of updates of which the mean is the paper's. Statistics have no
coordinates in that sense: most of their numbers belong to classes that most clients lack, and a Gram matrix with single
entries replaced may be none. They are scaled down whole instead, which is to count a client's samples as fewer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from fcil.arrays import Arrays
from fcil.filters.base import Filter, Filtered
from fcil.filters.parts import WIDTH, Starts, norms
from fcil.method import ClientUpdate, NoSum, Shapes
from fcil.options import Option

__all__ = ["Median", "Trimmed"]

SHRINKING = {"root": 0.5, "constant": 1.0, "weighted": 0.0}
"""The power of a factor by which an array that is no sum is multiplied, where sums are multiplied by the factor."""


def _scaled(statistics: Arrays, factor: float, declared: Shapes) -> dict[str, np.ndarray]:
    def power(shape: object) -> float:
        return SHRINKING[shape.amount] if isinstance(shape, NoSum) else 1.0

    return {name: (a * factor ** power(declared.get(name))).astype(a.dtype) for name, a in statistics.items()}


def bounded_statistics(
    updates: Sequence[ClientUpdate], lengths: np.ndarray, bound: float, declared: Shapes
) -> tuple[list[ClientUpdate], dict[int, float]]:
    """Scale statistics that are longer for each sample than `bound` down to it.

    All sums of an update get one factor f, so that they remain sums over samples, each of which counts less. Of what is
    no sum, the root of one gets sqrt(f), what does not grow with the samples f too, and a mean that counts as much as
    the numbers beside it say stays as it is: those get f.

    Args:
        lengths: of the updates' statistics for each sample, (clients,).

    Returns:
        The updates, and the factors below one by client.
    """
    factors = {u.client: bound / length for u, length in zip(updates, lengths, strict=True) if length > bound}
    scaled = [
        replace(u, statistics=_scaled(u.statistics, factors[u.client], declared)) if u.client in factors else u
        for u in updates
    ]
    return scaled, factors


def replaced_numbers(
    updates: Sequence[ClientUpdate], rule: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> tuple[list[ClientUpdate], dict[int, float]]:
    """Apply a rule to every array that trained.

    Args:
        rule: (values, (clients, numbers) float64; examples, (clients,)) -> values to put in their place.

    Returns:
        The updates, and the share of numbers by client that the rule changed.
    """
    examples = np.array([u.num_examples for u in updates], np.float64)
    arrays: list[dict[str, np.ndarray]] = [{} for _ in updates]
    changed = np.zeros(len(updates))
    for name, first in updates[0].arrays.items():
        values = np.stack([u.arrays[name].reshape(-1) for u in updates])
        new = np.empty_like(values)
        for begin in range(0, values.shape[1], WIDTH):
            piece = values[:, begin : begin + WIDTH]
            new[:, begin : begin + WIDTH] = rule(piece.astype(np.float64), examples)
        changed += (new != values).sum(1)
        for i, row in enumerate(new):
            arrays[i][name] = row.reshape(first.shape)
    numbers = sum(a.size for a in updates[0].arrays.values())
    out: list[Arrays] = [dict(a) for a in arrays]
    shares = {u.client: float(n) / numbers for u, n in zip(updates, changed, strict=True) if n}
    return [replace(u, arrays=a) for u, a in zip(updates, out, strict=True)], shares


@dataclass(frozen=True, kw_only=True)
class Median(Filter):
    """Put the median over clients in the place of every trained number, in every update.

    All updates agree then, so that the mean, and every merge that leaves updates as they are where these agree, is the
    coordinate median; of an even number of clients the mean of the two in the middle. Statistics longer for each sample
    than the median length are scaled down to it.
    """

    def complaint(self, clients: int) -> str | None:
        """Two clients have no majority."""
        return None if clients >= 3 else "a median needs updates of 3 clients or more"

    def apply(self, updates: Sequence[ClientUpdate], starts: Starts, declared: Shapes) -> Filtered:
        """Replace every number by the median."""

        def rule(values: np.ndarray, examples: np.ndarray) -> np.ndarray:
            return np.broadcast_to(np.median(values, axis=0), values.shape)

        numbers, shares = replaced_numbers(updates, rule)
        lengths = norms("statistics", updates, starts, declared)
        numbers, factors = bounded_statistics(numbers, lengths, float(np.median(lengths)), declared)
        return Filtered(numbers, replaced=shares, scaled=factors)


@dataclass(frozen=True, kw_only=True)
class Trimmed(Filter):
    """Put the mean of the others in the place of each trained number's `share` lowest and `share` highest values.

    Of n clients k = floor(share n) values are cut at either end, and replaced by the mean of the n - 2 k that stay,
    weighted by examples. So the mean of the updates, weighted by examples, is the trimmed mean. Of equal values the one
    with fewer examples counts as the lower. Statistics longer for each sample than all but the k longest are scaled
    down to the next.
    """

    share: Annotated[float, Option("share of the clients cut at either end of every number", above=0, high=0.5)] = 0.2

    def cut(self, clients: int) -> int:
        """K, the number of values that are cut at either end; rounding errors of the product do not lower it."""
        return int(self.share * clients + 1e-9)

    def complaint(self, clients: int) -> str | None:
        """Something has to be cut, and something has to stay."""
        cut = self.cut(clients)
        if cut < 1:
            return f"share = {self.share:g} of {clients} updates is less than one, so that none would be cut"
        return (
            None if clients > 2 * cut else f"share = {self.share:g} of {clients} updates leaves none between the cuts"
        )

    def apply(self, updates: Sequence[ClientUpdate], starts: Starts, declared: Shapes) -> Filtered:
        """Replace what is cut by the mean of what stays."""
        cut = self.cut(len(updates))

        def rule(values: np.ndarray, examples: np.ndarray) -> np.ndarray:
            by_examples = np.argsort(examples, kind="stable")
            order = by_examples[np.argsort(values[by_examples], axis=0, kind="stable")]
            out, stay = values.copy(), order[cut : len(values) - cut]
            remaining_values, weights = np.take_along_axis(values, stay, axis=0), examples[stay]
            low = remaining_values[0]  # differences to one of them: what all agree on comes out bit for bit
            mean = low + (weights * (remaining_values - low)).sum(0) / weights.sum(0)
            for rows in (order[:cut], order[len(values) - cut :]):
                np.put_along_axis(out, rows, np.broadcast_to(mean, rows.shape), axis=0)
            return out

        numbers, shares = replaced_numbers(updates, rule)
        lengths = norms("statistics", updates, starts, declared)
        bound = float(np.sort(lengths)[len(lengths) - 1 - cut])
        numbers, factors = bounded_statistics(numbers, lengths, bound, declared)
        return Filtered(numbers, replaced=shares, scaled=factors)
