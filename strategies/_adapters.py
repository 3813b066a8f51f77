"""The choice of what clients train: the setting `adapter`, a name or a name with settings."""

from dataclasses import dataclass
from typing import Annotated

from fcil.model.adapters import parse_adapter
from fcil.model.weight_adapter import WeightAdapter
from fcil.options import Option

__all__ = ["AdapterSettings"]


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """Stands before a family of methods among a method's bases: clients train the adapter that the settings name."""

    rank: Annotated[
        int, Option("rank of every layer's LoRA pair, or numbers of a kernel's point; full and head have none", low=1)
    ] = 16
    adapter_text: Annotated[
        str,
        Option("what clients train: lora, snell, snella, loftq, full or head (fcil adapters)", key="adapter"),
    ] = "lora"

    def __post_init__(self) -> None:
        parse_adapter(self.adapter_text, self.rank)

    @property
    def adapter(self) -> WeightAdapter | None:
        """The adapter that `adapter` names; None trains the head's rows alone."""
        return parse_adapter(self.adapter_text, self.rank)
