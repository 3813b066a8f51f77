"""RoLoRA: train and average A and B in turn, so averages are exact."""

from dataclasses import dataclass
from typing import Annotated, Literal

from fcil.method import Phase
from fcil.model.lora import Lora
from fcil.options import Option

from ._lora import FACTORS, LoraMethod

__all__ = ["RoLoRA"]


@dataclass(frozen=True, kw_only=True)
class RoLoRA(LoraMethod):
    """Train and average A and B in turn, so averages are exact.

    The mean of the one factor that trains, weighted by examples; the other one is the same for all clients.
    Chen et al., "Robust Federated Finetuning of LLMs via Alternating Optimization of LoRA", NeurIPS 2025, arXiv
    2502.01755. With one factor shared, the product of the means is the mean of the products. Half the upload of FedAvg
    on both factors; LoRM without its Grams and without its merge over tasks: one module goes on through all of them.
    Literal transcription: `tests/reference.py`, `fedavg`.
    """

    train_order: Annotated[
        Literal["BA", "AB"], Option("factors that train in rounds 1, 2, 3, ... of a task; the first starts at zero")
    ] = "BA"

    @property
    def adapter(self) -> Lora:
        """The factor that trains in the first round starts at zero."""
        return Lora(self.rank, zero=FACTORS[self.train_order[0]])

    def trains(self, phase: Phase) -> tuple[str, ...]:
        """One factor a round; every task begins with the first of `train_order`."""
        return (f"*{FACTORS[self.train_order[(phase.round - 1) % 2]]}",)
