"""LoRA in factor form (Hu et al., arXiv 2106.09685): y = W0 x + b + B A x, without alpha scaling.

The dense product B A is never formed while gradients are on: training costs r (in + out) a token beside the frozen
layer, no gradient is as large as a weight, and a factor that does not train needs no gradient and no saved input.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from fcil.arrays import Arrays, matching
from fcil.errors import ConfigError
from fcil.merging.lowrank import LowRank
from fcil.method import Backbone

__all__ = ["A", "B", "DELTA", "Lora", "LoraLinear", "TARGETS", "changes_of", "layers_of", "uniform"]

A, B = ".lora_A", ".lora_B"
DELTA = ".delta"
"""A dense change of the layer's weight, (out, in), for what a merge leaves that no factors hold. It never trains."""
TARGETS = ("blocks.*.attn.qkv", "blocks.*.attn.proj", "blocks.*.mlp.fc1", "blocks.*.mlp.fc2")


class _FactorForm(torch.autograd.Function):
    """y = W0 x + b + B (A x) with both sums accumulated in place, and only the gradients that are asked for.

    Written out, the plain expression makes two extra tensors as large as y in the forward pass and two as large as x in
    the backward pass, only to add them. Saved are A x where B trains and x where A trains; never a tensor of W0's size.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
        """(tokens, in) -> (tokens, out), in the type of `weight`."""
        y = x @ weight.T if bias is None else torch.addmm(bias, x, weight.T)
        z = x @ a.T  # (tokens, r)
        y.addmm_(z, b.T)
        _, _, _, a_trains, b_trains = ctx.needs_input_grad
        ctx.save_for_backward(x if a_trains else None, z if b_trains else None, weight, a, b)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, A and B from that of y, (tokens, out)."""
        x, z, weight, a, b = ctx.saved_tensors
        g_x = g_a = g_b = None
        if ctx.needs_input_grad[0] or x is not None:
            g_z = g @ b  # (tokens, r)
            if x is not None:
                g_a = g_z.T @ x
            if ctx.needs_input_grad[0]:
                g_x = (g @ weight).addmm_(g_z, a)
        if z is not None:
            g_b = g.T @ z
        return g_x, None, None, g_a, g_b


def _factor_form(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """Any leading shape, and everything in the type of the frozen weight (bfloat16 under autocast)."""
    kind = weight.dtype
    y: Tensor = _FactorForm.apply(x.flatten(0, -2).to(kind), weight, bias, a.to(kind), b.to(kind))
    return y.view(*x.shape[:-1], -1)


class LoraLinear(nn.Module):
    """A frozen linear layer with a factor pair of any rank beside it."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.lora_A: Tensor | None = None  # (r, in)
        self.lora_B: Tensor | None = None  # (out, r)
        self.delta: Tensor | None = None  # (out, in)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        # beside the weight, not in it: in bf16 a small change added to a large weight would round away
        return self._adapted(x) if self.delta is None else self._adapted(x) + F.linear(x, self.delta.to(x.dtype))

    def _adapted(self, x: Tensor) -> Tensor:
        a, b = self.lora_A, self.lora_B
        if a is None and b is None:
            return F.linear(x, self.weight, self.bias)
        if a is None or b is None:
            raise ValueError("a LoRA layer was given one factor of a pair; load both A and B, or neither")
        if not torch.is_grad_enabled() and self.weight.dtype == torch.float32:
            # Without gradients one product W0 + B A per batch is cheaper than two thin ones per token. Not in bf16,
            # where adding a small change to a large weight would round it away.
            return F.linear(x, torch.addmm(self.weight, b, a), self.bias)
        return _factor_form(x, self.weight, self.bias, a, b)


@dataclass(frozen=True)
class Lora:
    """A pair (A, B) of rank `rank` on every linear layer that matches `targets`."""

    rank: int
    targets: tuple[str, ...] = TARGETS

    def layers(self, backbone: Backbone) -> dict[str, tuple[int, int]]:
        """Adapted layer -> (out, in), in the order of the forward pass."""
        return {
            name: (backbone.linears[name][0], backbone.linears[name][1])
            for name in matching(backbone.linears, self.targets)
        }

    def check(self, backbone: Backbone) -> None:
        """Raise ConfigError for a rank that a layer cannot have, or targets that match nothing."""
        layers = self.layers(backbone)
        if not layers:
            raise ConfigError(f"method: no linear layer of the backbone matches {', '.join(self.targets)}")
        name, shape = min(layers.items(), key=lambda item: min(item[1]))
        if not 1 <= self.rank <= min(shape):
            raise ConfigError(
                f"method.rank = {self.rank}: must be between 1 and {min(shape)}, the smaller side of {name} {shape}"
            )

    def initial(self, backbone: Backbone, rng: np.random.Generator, zero: str = B) -> dict[str, np.ndarray]:
        """A ~ U(-1/sqrt(in), 1/sqrt(in)) (Kaiming uniform with a = sqrt 5), B = 0; with `zero` = A the other way round.

        The factor that trains first has to be the zero one: the gradient of a factor beside a zero one is zero.
        """
        arrays = {}
        for name, (out, width) in self.layers(backbone).items():
            for factor, shape in ((A, (self.rank, width)), (B, (out, self.rank))):
                arrays[name + factor] = uniform(rng, shape, 0.0 if factor == zero else 1.0)
        return arrays

    def install(self, network: nn.Module) -> Mapping[str, tuple[nn.Module, str]]:
        """Wrap the target layers where they are."""
        slots: dict[str, tuple[nn.Module, str]] = {}
        names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear | LoraLinear)]
        for name in matching(names, self.targets):
            parent, _, child = name.rpartition(".")
            module = network.get_submodule(name)
            layer = module if isinstance(module, LoraLinear) else LoraLinear(module)  # type: ignore[arg-type]
            setattr(network.get_submodule(parent), child, layer)
            slots |= {name + A: (layer, "lora_A"), name + B: (layer, "lora_B"), name + DELTA: (layer, "delta")}
        return slots

    def features(self, network: nn.Module, images: Tensor) -> Tensor:
        """The backbone's own pooled feature."""
        return network.forward_head(network.forward_features(images), pre_logits=True)  # type: ignore[operator, no-any-return]


def uniform(rng: np.random.Generator, shape: tuple[int, int], scale: float = 1.0) -> np.ndarray:
    """(rows, n) ~ U(-1/sqrt(n), 1/sqrt(n)) times `scale`, float32."""
    bound = scale / np.sqrt(shape[1])
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def layers_of(arrays: Mapping[str, object]) -> list[str]:
    """The layers that have a pair in `arrays`, in the order of the arrays."""
    return [name.removesuffix(A) for name in arrays if name.endswith(A)]


def changes_of(arrays: Arrays) -> dict[str, LowRank]:
    """Layer -> B A, of every layer that has a pair in `arrays`."""
    return {layer: LowRank(arrays[layer + B], arrays[layer + A]) for layer in layers_of(arrays)}
