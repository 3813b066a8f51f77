"""Full tuning: every parameter of the backbone trains, as its change from the pre-trained value.

theta = theta_0 + change, so that all clients share one frozen backbone, a start is zero and a merge sees changes. With
weight decay a change is drawn to zero, a weight to its pre-trained value and not to the origin.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fcil.arrays import Arrays
from fcil.errors import ConfigError
from fcil.merging.lowrank import Change, Dense, dense
from fcil.method import Backbone, Draw
from fcil.model.weight_adapter import DELTA, PARAMETER, LayerChanges, WeightAdapter, sides_of
from fcil.model.weight_adapter import Draw as AnyDraw

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Full"]


@dataclass(frozen=True)
class Full(WeightAdapter):
    """Train all parameters of any vision transformer.

    Names are `<layer>.delta` for the weights of linear layers, (out, in), and `parameter.<name>` for all others. As
    many floats travel as the backbone has parameters, in each direction and round.
    """

    trains: tuple[str, ...] = field(default=(f"{PARAMETER}*", f"*{DELTA}"), compare=False)

    def check(self, backbone: Backbone) -> None:
        """Raise ConfigError for a backbone whose parameters are not described."""
        if not backbone.parameters:
            raise ConfigError("method.adapter: full tuning needs a backbone whose parameters are known")

    def initial(self, backbone: Backbone, draw: Draw) -> dict[str, np.ndarray]:
        """Zero for every parameter: training begins with the pre-trained weights."""
        return {
            _array_of(name, backbone.linears): np.zeros(shape, np.float32)
            for name, shape in backbone.parameters.items()
        }

    def install(self, network: nn.Module) -> Mapping[str, tuple[nn.Module, str]]:
        """Put a slot for its change beside every parameter of the network."""
        from torch import nn

        from fcil.model.full_slots import add_slot

        linears = {
            name for name, m in network.named_modules() if isinstance(m, nn.Linear) and name.startswith("blocks.")
        }
        names = [name for name, _ in network.named_parameters()]
        return {_array_of(name, linears): (add_slot(network, name), "change") for name in names}

    def changes(self, arrays: Arrays, every_parameter: bool = False) -> LayerChanges:
        """Layer -> the change of its weight; with `every_parameter` also of all others, each as one row."""
        sides = sides_of(arrays)
        if every_parameter:
            sides |= {name: (1, a.size) for name, a in arrays.items() if name.startswith(PARAMETER)}

        def change(name: str) -> Dense:
            return Dense(arrays[name].reshape(1, -1) if name.startswith(PARAMETER) else arrays[name + DELTA])

        return LayerChanges(sides, change)

    def module_with(
        self, module: Arrays, start: Arrays, changes: Iterable[tuple[str, Change]], draw: AnyDraw
    ) -> dict[str, np.ndarray]:
        """The module with those changes, exactly."""
        changed = dict(module)
        for name, change in changes:
            changed |= self.deployed(name, change, module)
        return changed

    def deployed(self, layer: str, change: Change, module: Arrays) -> dict[str, np.ndarray]:
        """The change of a layer's weight, or of another parameter in its own shape."""
        if not layer.startswith(PARAMETER):
            return super().deployed(layer, change, module)
        return {layer: dense(change).reshape(module[layer].shape).astype(np.float32)}


def _array_of(parameter: str, linears: Iterable[str]) -> str:
    """The name under which a parameter's change travels."""
    layer, _, kind = parameter.rpartition(".")
    return layer + DELTA if kind == "weight" and layer in linears else PARAMETER + parameter
