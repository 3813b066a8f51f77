"""Helpers for clients with LoRA pairs of different ranks: each holds the leading components of the server's pair."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from fcil.arrays import Arrays, weighted_mean
from fcil.errors import ConfigError
from fcil.merging.lowrank import LowRank
from fcil.method import ClientUpdate
from fcil.model.lora import A, B, changes_of
from fcil.options import Option

from ._lora import Rank

__all__ = ["RankSettings", "leading", "mean_of_the_rest", "products"]


@dataclass(frozen=True, kw_only=True)
class RankSettings:
    """Stands before a family of LoRA methods among a method's bases: its clients may hold pairs of smaller ranks."""

    rank: Rank = 16
    ranks: Annotated[
        tuple[int, ...],
        Option("ranks of clients 0, 1, 2, ..., dealt in turn, none above `rank`; empty: all have `rank`", low=1),
    ] = ()

    def __post_init__(self) -> None:
        if max(self.ranks, default=0) > self.rank:
            raise ConfigError(
                f"method.ranks = {list(self.ranks)}: no client's rank may exceed method.rank = {self.rank}"
            )

    def rank_of(self, client: int) -> int:
        """Return the rank that a client trains and sends."""
        return self.ranks[client % len(self.ranks)] if self.ranks else self.rank


def leading(arrays: Arrays, rank: int) -> dict[str, np.ndarray]:
    """Pairs cut to their first `rank` components; everything else as it is."""

    def cut(name: str, a: np.ndarray) -> np.ndarray:
        return a[:rank] if name.endswith(A) else a[:, :rank] if name.endswith(B) else a

    return {name: cut(name, a) for name, a in arrays.items()}


def products(updates: Sequence[ClientUpdate]) -> tuple[dict[str, list[LowRank]], list[float]]:
    """Layer -> B_i A_i of every client that has examples, and the clients' shares of these, summing to one."""
    present = [u for u in updates if u.num_examples]
    counts = np.array([u.num_examples for u in present], np.float64)
    changes = [changes_of(u.arrays) for u in present]
    return {layer: [client[layer] for client in changes] for layer in changes[0]}, list(counts / counts.sum())


def mean_of_the_rest(updates: Sequence[ClientUpdate]) -> dict[str, np.ndarray]:
    """The mean, weighted by examples, of what trained beside the pairs: the head's rows.

    Raises:
        MergeError: nobody has any examples.
    """
    rest = [{n: a for n, a in u.arrays.items() if not n.endswith((A, B))} for u in updates]
    return weighted_mean(rest, [u.num_examples for u in updates])
