"""Slots beside a network's parameters: what is put in one is added to the frozen parameter wherever it is used."""

from typing import cast

from torch import Tensor, nn
from torch.nn.utils import parametrize

__all__ = ["add_slot"]


class _Changed(nn.Module):
    """Adds a change to a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.change: Tensor | None = None

    def forward(self, parameter: Tensor) -> Tensor:
        """Return the parameter, with the change if there is one; a sum with a float32 change is in float32."""
        return parameter if self.change is None else parameter + self.change


def add_slot(network: nn.Module, name: str) -> _Changed:
    """Put a slot beside the parameter `name` of a network and return it; a second call returns the same slot."""
    owner, _, attribute = name.rpartition(".")
    module = network.get_submodule(owner)
    if not parametrize.is_parametrized(module, attribute):
        # unsafe only leaves out a trial run, which would fail for a parameter that is shared or on the meta device
        parametrize.register_parametrization(module, attribute, _Changed(), unsafe=True)
    slots = cast(nn.ModuleDict, module.parametrizations)[attribute]
    return cast(_Changed, cast(nn.ModuleList, slots)[0])
