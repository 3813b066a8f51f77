"""FedAvg on LoRA: A and B train together and are averaged separately."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fcil.arrays import Arrays, State, weighted_total
from fcil.errors import MergeError
from fcil.method import Broadcast, ClientUpdate, Local, Phase
from fcil.model import head

from ._lora import LoraMethod

__all__ = ["FedAvg"]

EXAMPLES = "examples"


@dataclass(frozen=True, kw_only=True)
class FedAvg(LoraMethod):
    """The mean of A and of B, weighted by examples; one module goes on through all tasks.

    McMahan et al., AISTATS 2017, arXiv 1602.05629, on LoRA factors (FedIT, Zhang et al., arXiv 2305.05644). The product
    of the means is not the mean of the products; that error is part of the method.
    """

    def local(self, phase: Phase) -> Local:
        """Train the factors and the head's new rows."""
        return Local(trains=(*(f"*{factor}" for factor in self.factors(phase)), head.block(phase.task.index)))

    @property
    def additive(self) -> bool:
        """A mean weighted by examples needs two sums."""
        return True

    def sums(self, phase: Phase, broadcast: Broadcast, updates: Sequence[ClientUpdate]) -> Arrays:
        """sum_i n_i (theta_i - start) for every array that trained, and sum_i n_i."""
        counts = [u.num_examples for u in updates]
        return {
            **weighted_total([u.arrays for u in updates], counts, broadcast.arrays),
            EXAMPLES: np.array(sum(counts), np.float64),
        }

    def merge_sums(self, state: State, phase: Phase, sums: Arrays) -> State:
        """sum_i n_i theta_i / sum_i n_i.

        Raises:
            MergeError: nobody has any examples.
        """
        if not sums[EXAMPLES] > 0:
            raise MergeError(f"a mean weighted by examples needs some; the clients have {sums[EXAMPLES]:g}")
        trained = {
            group: {
                name: (a + sums[name] / sums[EXAMPLES]).astype(np.float32) if name in sums else a
                for name, a in state[group].items()
            }
            for group in ("module", "head")
        }
        return {**state, **trained}
