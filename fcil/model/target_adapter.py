"""Adapters that take the place of chosen linear layers: which layers those are, and how they are replaced."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fcil.arrays import names_matching
from fcil.errors import ConfigError
from fcil.method import Backbone
from fcil.model.weight_adapter import WeightAdapter

if TYPE_CHECKING:
    from torch import nn

__all__ = ["TargetAdapter"]


class TargetAdapter(WeightAdapter):
    """The base of the adapters that replace the linear layers which match `targets`; subclasses are dataclasses."""

    targets: tuple[str, ...]
    """Glob patterns of linear layers."""

    @property
    @abstractmethod
    def slots(self) -> Mapping[str, str]:
        """Ending of an array's name -> the attribute of a layer that holds the array."""

    @abstractmethod
    def layer(self, module: nn.Module) -> nn.Module:
        """Make the layer that takes the place of a linear one, or of one that another adapter has put there."""

    def layers(self, backbone: Backbone) -> dict[str, tuple[int, int]]:
        """Adapted layer -> (out, in), in the order of the forward pass."""
        return {
            name: (backbone.linears[name][0], backbone.linears[name][1])
            for name in names_matching(backbone.linears, self.targets)
        }

    def check(self, backbone: Backbone) -> None:
        """Raise ConfigError for targets that match nothing."""
        if not self.layers(backbone):
            raise ConfigError(f"method: no linear layer of the backbone matches {', '.join(self.targets)}")

    def install(self, network: nn.Module) -> Mapping[str, tuple[nn.Module, str]]:
        """Replace the target layers in the network; return the slots of their arrays."""
        from torch import nn

        from fcil.model.lora_layer import LoraLinear

        slots: dict[str, tuple[nn.Module, str]] = {}
        names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear | LoraLinear)]
        for name in names_matching(names, self.targets):
            parent, _, child = name.rpartition(".")
            layer = self.layer(network.get_submodule(name))
            setattr(network.get_submodule(parent), child, layer)
            slots |= {name + ending: (layer, attribute) for ending, attribute in self.slots.items()}
        return slots
