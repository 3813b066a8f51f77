"""The base of methods that average LoRA pairs, and pairs that can learn again after a merge."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from fcil.merging.lowrank import LowRank
from fcil.method import Averaging, Phase
from fcil.model.lora import Lora, uniform
from fcil.options import Option

__all__ = ["LoraMethod", "Rank", "revive_dead_components"]

Rank = Annotated[int, Option("rank of every layer's LoRA pair", low=1)]


def revive_dead_components(pair: LowRank, layer: str, phase: Phase) -> LowRank:
    """The pair with a random row of A beside every zero column of B: both zero, they could never learn again."""
    dead = np.abs(pair.a).max(1) == 0
    return LowRank(pair.b, np.where(dead[:, None], uniform(phase.generator("unused", layer), pair.a.shape), pair.a))


@dataclass(frozen=True, kw_only=True)
class LoraMethod(Averaging):
    """Federated averaging of LoRA pairs on qkv, proj, fc1 and fc2 of every block, and of the head's new rows."""

    rank: Rank = 16

    @property
    def adapter(self) -> Lora:
        """A pair on every target layer, B zero at the start."""
        return Lora(self.rank)
