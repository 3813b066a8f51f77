"""The linear layer with a kernelised weight change dW beside its frozen weight: y = (W0 + delta + dW) x + b.

dW (`fcil.model.kernels`) is made in the forward pass, again in the backward pass, and kept in neither: saved are the
points, the parts' thresholds and, where something trains, x. A LoRA pair may stand beside it, as in `LoraLinear`.

The public scripts of SNELL and SNELLA train with dropout 0.1 on the inputs of the changes and with stochastic depth.
Both are left out here, as for LoRA: clients and server then mean the same function by the same arrays.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from fcil.model.kernel_form import Form
from fcil.model.kernels import change_and_thresholds
from fcil.model.lora_layer import LoraLinear

__all__ = ["KernelLinear"]

_SLOTS = {"kernel_in", "kernel_out", "kernel_mix", "sparsity", "delta"}


def _total(change: Tensor, weight: Tensor | None, delta: Tensor | None, kind: torch.dtype) -> Tensor:
    """Sum what x is multiplied with, (out, in): the change, and the frozen weight and the delta where there are."""
    total = change
    for other in (weight, delta):
        total = total if other is None else total + other
    return total.to(kind)


class _Changed(torch.autograd.Function):
    """y = (W + delta + dW) x + b for 2-D x, of which no sum as large as the weight survives the pass that makes it."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, delta: Tensor | None, p: Tensor, q: Tensor,
        mix: Tensor | None, sparsity: Sequence[float], form: Form,
    ) -> Tensor:  # fmt: skip
        """Map (tokens, in) to (tokens, out), in the type of x."""
        change, thresholds = change_and_thresholds(form, p, q, mix, sparsity)
        ctx.form, ctx.sparsity = form, sparsity
        ctx.save_for_backward(x if any(ctx.needs_input_grad[3:7]) else None, weight, delta, p, q, mix, thresholds)
        return F.linear(x, _total(change, weight, delta, x.dtype), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, delta, P, Q and mix from that of y, (tokens, out)."""
        x, weight, delta, *points, thresholds = ctx.saved_tensors
        needs = ctx.needs_input_grad
        sources: list[Any] = [None if t is None else t.detach() for t in points]
        p, q, mix = sources
        trained = [t.requires_grad_() for t, need in zip(sources, needs[4:7], strict=True) if need]
        g_x = g_change = change = None
        if needs[0] or trained:
            with torch.enable_grad():
                change, _ = change_and_thresholds(ctx.form, p, q, mix, ctx.sparsity, thresholds)
        if needs[0] and change is not None:
            g_x = g @ _total(change.detach(), weight, delta, g.dtype)
        if x is not None:
            g_change = (x.T @ g).to(points[0].dtype).T  # laid out in memory as dW is
        gradients = iter(torch.autograd.grad(change, trained, g_change) if trained and change is not None else ())
        g_sources = [next(gradients) if need else None for need in needs[4:7]]
        return g_x, None, None, g_change if needs[3] else None, *g_sources, None, None


class KernelLinear(LoraLinear):
    """A frozen linear layer with slots for a kernelised change, a LoRA pair of any rank, and a dense change."""

    _kept: tuple[object, Tensor] | None = None
    """Cache: the key of the inputs, and their sum."""
    _shares: tuple[int, list[float]] | None = None
    """The sparsities as numbers, and the version of the tensor that they were read from."""

    def __init__(self, linear: nn.Linear | LoraLinear, form: Form) -> None:
        super().__init__(linear)  # type: ignore[arg-type]
        self.form = form
        self.kernel_in: Tensor | None = None  # (parts, HEADS, in, q / HEADS)
        self.kernel_out: Tensor | None = None  # (parts, HEADS, out / parts, q / HEADS)
        self.kernel_mix: Tensor | None = None  # (parts, 3)
        self.sparsity: Tensor | None = None  # (parts,)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, and clear the caches if it is an array."""
        super().__setattr__(name, value)
        if name in _SLOTS:
            self._kept = self._shares = None

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        if self.kernel_in is None and self.kernel_out is None:
            return super().forward(x)
        kind = self.weight.dtype
        y = self._changed(x.flatten(0, -2).to(kind)).view(*x.shape[:-1], -1)
        a, b = self.lora_A, self.lora_B
        if a is None and b is None:
            return y
        if a is None or b is None:
            raise ValueError("a kernel layer was given one factor of a LoRA pair; load both A and B, or neither")
        return y + F.linear(F.linear(x.to(kind), a.to(kind)), b.to(kind))

    def _changed(self, x: Tensor) -> Tensor:
        """Map (tokens, in) to (tokens, out) by everything but the LoRA pair."""
        # beside the weight, not in it, unless in fp32: a small change added to a large weight would round away
        beside = self.weight.dtype in (torch.bfloat16, torch.float16)
        weight, bias = (None, None) if beside else (self.weight, self.bias)
        if torch.is_grad_enabled():
            self._kept = None
            y: Tensor = _Changed.apply(x, weight, bias, self.delta, *self._sources(), self.form)
        else:
            y = F.linear(x, self._sum(weight), bias)
        return y + F.linear(x, self.weight, self.bias) if beside else y

    def _sources(self) -> tuple[Tensor, Tensor, Tensor | None, list[float]]:
        """P, Q, mix and the parts' sparsities, which are read off the device once for the arrays that are loaded."""
        p, q, s = self.kernel_in, self.kernel_out, self.sparsity
        if p is None or q is None or s is None:
            raise ValueError("a kernel layer was given some of kernel_in, kernel_out and sparsity; load all or none")
        if self._shares is None or self._shares[0] != s._version:
            self._shares = s._version, s.tolist()
        return p, q, self.kernel_mix, self._shares[1]

    def _sum(self, weight: Tensor | None) -> Tensor:
        """Make W0 + delta + dW, without W0 where that stands beside it, once for arrays that do not train.

        The sum is as large as the weight. It goes when other arrays are loaded, and before a pass with gradients. With
        leaves that train none is kept: an optimiser moves them in place, and torch's fused ones do not count that as a
        new version of the tensor.
        """
        p, q, mix, sparsity = self._sources()
        tensors = [t for t in (p, q, mix, self.sparsity, self.delta, self.weight) if t is not None]
        key = [(id(t), t.data_ptr(), t._version) for t in tensors]
        if self._kept is not None and self._kept[0] == key:
            return self._kept[1]
        change, _ = change_and_thresholds(self.form, p, q, mix, sparsity)
        total = _total(change, weight, self.delta, self.weight.dtype)
        self._kept = None if any(t.requires_grad for t in tensors) else (key, total)
        return total
