"""The linear layer with a LoRA pair: y = W0 x + b + B A x in factor form, forward and backward.

The dense product B A is never formed while gradients are on: training costs r (in + out) a token beside the frozen
layer, no gradient is as large as a weight, and a factor that does not train needs no gradient and no saved input.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = ["LoraLinear"]


class _FactorForm(torch.autograd.Function):
    """y = W0 x + b + B (A x) with both sums accumulated in place, and only the gradients that are asked for.

    Written out, the plain expression makes two extra tensors as large as y in the forward pass and two as large as x in
    the backward pass, only to add them. Saved are A x where B trains and x where A trains; never a tensor of W0's size.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
        """Map (tokens, in) to (tokens, out), in the type of `weight`."""
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
    """Apply `_FactorForm` to any leading shape, in the type of the frozen weight (bfloat16 under autocast)."""
    kind = weight.dtype
    y: Tensor = _FactorForm.apply(x.flatten(0, -2).to(kind), weight, bias, a.to(kind), b.to(kind))
    return y.view(*x.shape[:-1], -1)


class LoraLinear(nn.Module):
    """A frozen linear layer with a LoRA pair of any rank, or a dense change, beside its weight."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.lora_A: Tensor | None = None  # (r, in)
        self.lora_B: Tensor | None = None  # (out, r)
        self.delta: Tensor | None = None  # (out, in)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
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
