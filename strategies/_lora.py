"""The base of methods that average LoRA pairs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from fcil.method import Averaging
from fcil.model.lora import A, B, Lora
from fcil.options import Option

__all__ = ["FACTORS", "LoraMethod", "Rank"]

FACTORS = {"A": A, "B": B}
"""Name of a factor in settings -> ending of its arrays' names."""
Rank = Annotated[int, Option("rank of every layer's LoRA pair", low=1)]


@dataclass(frozen=True, kw_only=True)
class LoraMethod(Averaging):
    """Federated averaging of LoRA pairs on qkv, proj, fc1 and fc2 of every block, and of the head's new rows."""

    refused: ClassVar[Mapping[str, str]] = {
        "adapter": "this method is one of LoRA's factors A and B, which no other adapter has; fedavg, and the methods "
        "that merge changes of weights (fcil methods), take other adapters. LoRA pairs it trains anyway: leave it out"
    }

    rank: Rank = 16

    @property
    def adapter(self) -> Lora:
        """A pair on every target layer, B zero at the start."""
        return Lora(self.rank)
