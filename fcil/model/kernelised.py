"""The base of the adapters whose layers change by kernels: arrays and their starts, slots in the network, changes.

Every adapted layer changes by dW, which two sets of points make by a kernel and a competition among its entries
(`fcil.model.kernels`). The fused attn.qkv counts as three parts, q, k and v, each with points of its own, as in the
papers; their changes are stacked. A part costs q (in + out) numbers and its sparsity, with the mix kernel three more.

dW is not zero at the start, unlike that of LoRA: a method that merges changes subtracts that of the start.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from fcil.arrays import Arrays, names_matching
from fcil.errors import ConfigError
from fcil.merging.lowrank import Change, Dense, dense
from fcil.method import Backbone, Draw
from fcil.model.kernel_form import HEADS, IN, MIX, OUT, SPARSITY, Form
from fcil.model.lora import A, B
from fcil.model.target_adapter import TargetAdapter
from fcil.model.weight_adapter import DELTA, LayerChanges, sides_of
from fcil.model.weight_adapter import Draw as AnyDraw

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Kernelised", "kernel_change", "kernel_layers", "parts_of"]

FUSED = "*attn.qkv"
_SLOTS = {A: "lora_A", B: "lora_B", DELTA: "delta", IN: "kernel_in", OUT: "kernel_out", MIX: "kernel_mix",
          SPARSITY: "sparsity"}  # fmt: skip


def parts_of(layer: str) -> int:
    """Number of sub-layers along the output of a layer, which the adapters take one by one: 3 for a fused qkv."""
    return 3 if names_matching((layer,), (FUSED,)) else 1


def kernel_layers(names: Mapping[str, object]) -> list[str]:
    """The layers that have points in `names`, in the order of the names."""
    return [name.removesuffix(IN) for name in names if name.endswith(IN)]


def kernel_change(form: Form, arrays: Arrays, layer: str) -> np.ndarray:
    """Make the weight change of a layer from its points, (out, in) float32, on the CPU and by the layer's own function.

    Raises:
        KeyError: the layer has no points, or lacks its sparsity.
    """
    import torch

    from fcil.model.kernels import weight_change

    # in float32, as a layer has them
    p, q, s = (np.array(arrays[layer + name], np.float32) for name in (IN, OUT, SPARSITY))
    mix = torch.tensor(arrays[layer + MIX], dtype=torch.float32) if layer + MIX in arrays else None
    with torch.no_grad():
        return weight_change(form, torch.from_numpy(p), torch.from_numpy(q), mix, s.tolist()).numpy()


class Kernelised(TargetAdapter):
    """An adapter whose layers change by kernels; a subclass is a frozen dataclass with these two settings."""

    rank: int

    @property
    @abstractmethod
    def form(self) -> Form:
        """The kernel and the competition."""

    @property
    @abstractmethod
    def first_sparsity(self) -> float:
        """The sparsity of every part at the start."""

    def check(self, backbone: Backbone) -> None:
        """Raise ConfigError for an odd rank, targets that match nothing, or a qkv whose outputs are not three parts."""
        super().check(backbone)
        if self.rank < HEADS or self.rank % HEADS:
            raise ConfigError(
                f"method.rank = {self.rank}: the points of {type(self).__name__.lower()} have {HEADS} heads; set "
                f"a multiple of {HEADS}"
            )
        for name, (out, _) in self.layers(backbone).items():
            if out % parts_of(name):
                raise ConfigError(
                    f"{name}: its {out} outputs are not q, k and v of one width; leave it out of `targets`"
                )

    def initial(self, backbone: Backbone, draw: Draw) -> dict[str, np.ndarray]:
        """Points of every part ~ U(-v, v), v = 1 / sqrt(n q / 2) for n points (Kaiming uniform at a = sqrt 5).

        n is the inputs for P, and the outputs of the part for Q. alpha, gamma, beta = 1, 1, 0.
        """
        rng, arrays = draw("kernels"), {}
        width = self.rank // HEADS
        for name, (out, inputs) in self.layers(backbone).items():
            parts = parts_of(name)
            for kind, n in ((IN, inputs), (OUT, out // parts)):
                bound = 1 / np.sqrt(n * width)
                arrays[name + kind] = rng.uniform(-bound, bound, (parts, HEADS, n, width)).astype(np.float32)
            if self.form.kernel == "mix":
                arrays[name + MIX] = np.tile(np.array([1, 1, 0], np.float32), (parts, 1))
            arrays[name + SPARSITY] = np.full(parts, self.first_sparsity, np.float32)
        return arrays

    @property
    def slots(self) -> Mapping[str, str]:
        """The arrays of a layer, and LoRA pairs and dense changes beside them."""
        return _SLOTS

    def layer(self, module: nn.Module) -> nn.Module:
        """Make the layer that takes the place of a linear one."""
        from fcil.model.kernel_layer import KernelLinear

        return KernelLinear(module, self.form)  # type: ignore[arg-type]

    @property
    def trains(self) -> tuple[str, ...]:
        """Glob patterns of the points, and of alpha, gamma and beta where there are; sparsities never train."""
        return (f"*{IN}", f"*{OUT}", f"*{MIX}") if self.form.kernel == "mix" else (f"*{IN}", f"*{OUT}")

    @property
    def starts_at_zero(self) -> bool:
        """It does not: the first points have distances that differ."""
        return False

    def changes(self, arrays: Arrays, every_parameter: bool = False) -> LayerChanges:
        """Layer -> its weight change by its points, and the dense change beside it where there is one.

        Made when asked for, one layer at a time.
        """

        def change(layer: str) -> Dense:
            if layer + IN not in arrays:
                return Dense(arrays[layer + DELTA])
            kernel_part = kernel_change(self.form, arrays, layer)
            return Dense(kernel_part + arrays[layer + DELTA] if layer + DELTA in arrays else kernel_part)

        return LayerChanges(sides_of(arrays), change)

    def with_room(self, module: Arrays) -> Arrays:
        """The module with a dense change, zero, beside the points of every layer."""
        return {**module, **{layer + DELTA: np.zeros(side, np.float32) for layer, side in sides_of(module).items()}}

    def module_with(
        self, module: Arrays, start: Arrays, changes: Iterable[tuple[str, Change]], draw: AnyDraw
    ) -> dict[str, np.ndarray]:
        """The points of the start, and dense changes beside them that make up the difference, exactly.

        So the next round begins with the weights that the merge has made: points have no sum, and those that make a
        given change do in general not exist.
        """
        again = {**module, **{name: a for name, a in start.items() if not name.endswith(SPARSITY)}}
        deltas = {
            layer + DELTA: (dense(change) - kernel_change(self.form, again, layer)).astype(np.float32)
            for layer, change in changes
        }
        return {**again, **deltas}
