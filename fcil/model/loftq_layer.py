"""The LoRA layer whose frozen weight rests in 4 or 2 bits: it is restored for one product at a time, and then let go.

y = Q x + b + B A x. Q exists as packed codes and scales; neither the module nor autograd keeps it in full precision.
The backward pass restores it once more, which costs time instead of memory.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from fcil.model.lora_layer import LoraLinear
from fcil.model.quantization import Kind, byte_levels

__all__ = ["LoftqLinear", "restored"]


@cache
def _byte_levels(bits: int, kind: Kind, device: torch.device) -> Tensor:
    """Copy the table of a byte's levels to the device, (256, 8 / bits) float32: a few kB for each of four forms."""
    with torch.inference_mode(False):  # it outlives the pass that asks first
        return torch.tensor(byte_levels(bits, kind), device=device)


def restored(
    codes: Tensor, scales: Tensor, shape: tuple[int, int], bits: int, kind: Kind, dtype: torch.dtype
) -> Tensor:
    """Restore a quantised weight, (out, in): in float32 the same bits as `fcil.model.quantization.dequantized`.

    Args:
        codes: packed codes, (n,) uint8, on any device; `scales`, (blocks,) float32, on the same.
        dtype: the type of the result, rounded to from float32.
    """
    values = _byte_levels(bits, kind, codes.device).index_select(0, codes.int())  # (n, 8 / bits)
    values = values.view(len(scales), -1).mul_(scales[:, None])
    return values.view(-1)[: shape[0] * shape[1]].view(shape).to(dtype)


class _QuantisedFactorForm(torch.autograd.Function):
    """y = Q x + b + B (A x) as in LoRA's layer, but with Q restored in the forward and again in the backward pass.

    Saved are the codes and scales, which exist anyway, A x where B trains and x where A trains.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, layer: "LoftqLinear", codes: Tensor, scales: Tensor, a: Tensor | None, b: Tensor | None
    ) -> Tensor:
        """Map (tokens, in) to (tokens, out), in the type of x."""
        weight, bias = layer.restore(codes, scales, x.dtype), layer.bias
        y = x @ weight.T if bias is None else torch.addmm(bias, x, weight.T)
        z = None
        if a is not None and b is not None:
            z = x @ a.T  # (tokens, r)
            y.addmm_(z, b.T)
        a_trains, b_trains = ctx.needs_input_grad[4:]
        ctx.layer = layer
        ctx.save_for_backward(x if a_trains else None, z if b_trains else None, codes, scales, a, b)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, A and B from that of y, (tokens, out)."""
        x, z, codes, scales, a, b = ctx.saved_tensors
        g_x = g_a = g_z = None
        if a is not None and (ctx.needs_input_grad[0] or x is not None):
            g_z = g @ b  # (tokens, r)
            g_a = g_z.T @ x if x is not None else None
        if ctx.needs_input_grad[0]:
            g_x = g @ ctx.layer.restore(codes, scales, g.dtype)
            g_x = g_x if g_z is None else g_x.addmm_(g_z, a)
        return g_x, None, None, None, g_a, g.T @ z if z is not None else None


class LoftqLinear(LoraLinear):
    """A linear layer with quantised frozen weight, and a LoRA pair of any rank or a dense change beside it."""

    def __init__(self, linear: nn.Linear | LoraLinear, bits: int, kind: Kind) -> None:
        super().__init__(linear)  # type: ignore[arg-type]
        del self.weight
        self.bits, self.kind = bits, kind
        self.codes: Tensor | None = None  # (n,) uint8
        self.scales: Tensor | None = None  # (blocks,) float32
        # empty; it has the type that the weight would have, and follows the module to others
        self.register_buffer("like", torch.empty(0, dtype=linear.weight.dtype), persistent=False)
        self.like: Tensor

    def restore(self, codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
        """Restore the frozen weight from its codes and scales, (out, in)."""
        return restored(codes, scales, (self.out_features, self.in_features), self.bits, self.kind, dtype)

    def _adapted(self, x: Tensor) -> Tensor:
        codes, scales, a, b = self.codes, self.scales, self.lora_A, self.lora_B
        if codes is None or scales is None:
            raise ValueError("a LoftQ layer has no weight of its own; load the codes and scales that the server sends")
        if (a is None) != (b is None):
            raise ValueError("a LoRA layer was given one factor of a pair; load both A and B, or neither")
        kind = self.like.dtype
        if not torch.is_grad_enabled() and kind == torch.float32:
            weight = self.restore(codes, scales, kind)
            return F.linear(x, weight if a is None or b is None else weight.addmm_(b, a), self.bias)
        a, b = (None if factor is None else factor.to(kind) for factor in (a, b))
        y: Tensor = _QuantisedFactorForm.apply(x.flatten(0, -2).to(kind), self, codes, scales, a, b)
        return y.view(*x.shape[:-1], -1)
