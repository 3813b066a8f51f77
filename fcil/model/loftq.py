"""LoftQ (Li et al., arXiv 2310.08659): LoRA beside frozen weights that rest in 4 or 2 bits, begun where both fit W0.

y = Q x + b + B A x. The server splits each weight once, W0 = Q + B A nearly (`fcil.model.quantization.loftq`), and
sends Q's codes and scales with the pairs; clients hold Q only (`fcil.model.loftq_layer`). As B A does not start at
zero, a merge that is not linear has to be given B A - B_0 A_0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np

from fcil.arrays import Arrays
from fcil.errors import ConfigError
from fcil.method import Backbone, Draw
from fcil.model.lora import A, B, Lora
from fcil.model.quantization import BITS, KINDS, Kind, LoftqSplit, dequantized, loftq
from fcil.options import Option
from fcil.threads import map_in_threads

if TYPE_CHECKING:
    from torch import nn

    from fcil.model.lora_layer import LoraLinear

__all__ = ["CODES", "SCALES", "Loftq"]

CODES = ".codes"
"""Ending of a quantised weight's packed codes, (n,) uint8. They never train."""
SCALES = ".scales"
"""Ending of the scales of its blocks, (blocks,) float32. They never train."""
FULL = 16
"""The number of bits that stands for weights as they are: LoRA."""


@dataclass(frozen=True)
class Loftq(Lora):
    """Train LoRA pairs beside frozen weights that rest in 4 or 2 bits, and begin where both fit the weights.

    Li et al., "LoftQ: LoRA-fine-tuning-aware quantization for large language models", ICLR 2024, arXiv 2310.08659. The
    server quantises once, and needs the backbone's weights for it; clients get codes and scales. Uniform levels reach
    to the block's largest weight, where the public code's reach to the mean and 2.5 standard deviations.
    """

    bits: Annotated[Literal[2, 4, 16], Option("of a frozen weight; with 16 nothing is quantised, and this is LoRA")] = 4
    kind: Annotated[Kind, Option("levels: quantiles of the normal distribution, or evenly spaced")] = "nf"
    iterations: Annotated[
        int, Option("how often a weight is quantised and the rest decomposed; the public code recommends 5", low=1)
    ] = 5
    block: Annotated[int, Option("weights that share a scale; a multiple of 4", low=4)] = 64

    def check(self, backbone: Backbone) -> None:
        """Raise ConfigError for settings that are not offered, a rank that does not fit, or targets without layers."""
        super().check(backbone)
        if self.bits not in (*BITS, FULL):
            raise ConfigError(f"loftq: bits = {self.bits}: must be 2, 4, or 16 for weights as they are")
        if self.kind not in KINDS:
            raise ConfigError(f"loftq: kind = {self.kind!r}: must be one of {', '.join(KINDS)}")
        if self.iterations < 1:
            raise ConfigError(f"loftq: iterations = {self.iterations}: must be at least 1")
        if self.block < 4 or self.block % 4:
            raise ConfigError(f"loftq: block = {self.block}: must be a multiple of 4, so that blocks fill whole bytes")

    @property
    def starts_at_zero(self) -> bool:
        """Tell whether nothing is quantised: else the first pairs make up for what quantisation loses."""
        return self.bits == FULL

    def initial_and_fixed(self, backbone: Backbone, draw: Draw) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Split the weight of every layer once: into A and B, and codes and scales, which never train.

        One decomposition in float64 per layer and iteration; the bits do not depend on the number of threads. Only with
        16 bits is anything drawn.

        Raises:
            ConfigError: the backbone's weights are not known, or not finite.
        """
        if self.bits == FULL:
            return super().initial(backbone, draw), {}
        arrays: dict[str, np.ndarray] = {}
        fixed: dict[str, np.ndarray] = {}
        for name, split in self._splits(backbone).items():
            arrays |= {name + A: split.a, name + B: split.b}
            fixed |= {name + CODES: split.codes, name + SCALES: split.scales}
        return arrays, fixed

    def _splits(self, backbone: Backbone) -> dict[str, LoftqSplit]:
        """Every layer with its split weight, in the order of the forward pass, computed in parallel."""
        if backbone.weight is None:
            raise ConfigError(
                f"loftq: bits = {self.bits}: LoftQ needs the backbone's weights to quantise them, and this description "
                "of a backbone has none. Take it from `describe_backbone`, give it `weight`, or set bits = 16"
            )

        def split(weight: np.ndarray) -> LoftqSplit:
            return loftq(weight, self.rank, self.bits, self.kind, self.iterations, self.block)

        names = list(self.layers(backbone))
        return dict(zip(names, map_in_threads(split, map(backbone.weight, names)), strict=True))

    def initial(self, backbone: Backbone, draw: Draw) -> dict[str, np.ndarray]:
        """A and B of every layer, which make up for what quantisation loses; as costly as `initial_and_fixed`."""
        return self.initial_and_fixed(backbone, draw)[0]

    def frozen(self, layer: str, weight: np.ndarray, arrays: Arrays) -> np.ndarray:
        """The quantised weight of a layer, where there is one."""
        if layer + CODES not in arrays:
            return weight
        out, width = weight.shape
        return dequantized(arrays[layer + CODES], arrays[layer + SCALES], (out, width), self.bits, self.kind)

    @property
    def slots(self) -> Mapping[str, str]:
        """Name LoRA's arrays, and codes and scales where the weights are quantised."""
        quantised = {} if self.bits == FULL else {CODES: "codes", SCALES: "scales"}
        return {**super().slots, **quantised}

    def layer(self, module: nn.Module) -> LoraLinear:
        """Make the layer that takes the place of a linear one.

        Raises:
            ValueError: its weight has been quantised to other levels before, and is gone.
        """
        from fcil.model.loftq_layer import LoftqLinear

        if self.bits == FULL:
            return super().layer(module)
        if not isinstance(module, LoftqLinear):
            return LoftqLinear(module, self.bits, self.kind)  # type: ignore[arg-type]
        if (module.bits, module.kind) != (self.bits, self.kind):
            raise ValueError(f"a layer made for {module.bits} bits ({module.kind}) is asked for {self.bits}")
        return module
