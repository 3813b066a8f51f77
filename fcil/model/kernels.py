"""Weight changes from two sets of points, by kernels and competition (SNELL, arXiv 2411.01800; SNELLA, 2510.24037).

A part of a layer has points P, (HEADS, in, d), and Q, (HEADS, out, d). With D_jk = |P_j - Q_k| per head, kernels give

    linear      K = sum_h P_h Q_h^T                 a LoRA pair: with the heads beside each other, A = P^T and B = Q
    piecewise   K = 0.1 (D_1 - D_2)                 SNELL; the coefficients are fixed
    mix         K = D + alpha softmax_out(D / gamma) + beta,   D that of piecewise     SNELLA

and the change is K^T after competition among its n entries with sparsity s:

    code        K |K| where |K| > t, else 0; t the s-quantile of |K|, and |K| a constant when differentiating
    paper       K max(|K| - t, 0); t the ceil(s n)-th smallest |K|, 0 at s = 0, and a constant when differentiating
    none        K

So entries compete within a part: t is a part's own. On a CPU the result is the same bits whatever the number of
threads: every distance is summed by itself, rows of the softmax too, and t is an order statistic. Another kind of
device or vector unit may round otherwise, and then keep another entry where two are as good as tied. `weight_change` is
what clients and server both call. Literal transcription: `tests/reference_kernels.py`.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fcil.model.kernel_form import Competition, Form, Kernel

__all__ = ["change_and_thresholds", "distances", "weight_change"]

_SCALE = 0.1


def _measure(p: Tensor, q: Tensor, expand: bool) -> Tensor:
    """Measure the distances of points (n, d) and (m, d), (n, m).

    Args:
        expand: by |p|^2 + |q|^2 - 2 p q, one matmul, which loses digits where points are close; else by differences.
    """
    if not expand:
        return torch.cdist(p, q, compute_mode="donot_use_mm_for_euclid_dist")
    centre = q.mean(0)  # the smaller the norms, the fewer digits are lost
    p, q = p - centre, q - centre
    squares = torch.addmm(q.square().sum(1), p, q.T, alpha=-2).add_(p.square().sum(1, keepdim=True))
    return squares.clamp_min_(0.0).sqrt_()


class _Distances(torch.autograd.Function):
    """D_jk = |p_j - q_k|, which is measured again in the backward pass instead of being kept."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, q: Tensor, expand: bool) -> Tensor:
        """Map (n, d) and (m, d) to (n, m)."""
        ctx.save_for_backward(p, q)
        ctx.expand = expand
        return _measure(p, q, expand)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """With W = G / D:  G_p = diag(W 1) P - W Q,  G_q = diag(W^T 1) Q - W^T P."""
        p, q = ctx.saved_tensors
        d = _measure(p, q, ctx.expand)
        centre = q.mean(0)
        p, q = p - centre, q - centre
        # At D = 0 the subgradient 0 is taken, and also below the rounding of the coordinates: the differences above
        # would cancel to noise there, which 1 / D would blow up.
        least = torch.finfo(p.dtype).eps * torch.maximum(p.abs().max(), q.abs().max())
        coincident = d <= least
        w = torch.div(g, d, out=d).masked_fill_(coincident, 0.0)
        g_p = w.sum(1, keepdim=True) * p - w @ q if ctx.needs_input_grad[0] else None
        g_q = w.sum(0)[:, None] * q - w.T @ p if ctx.needs_input_grad[1] else None
        return g_p, g_q, None


def distances(p: Tensor, q: Tensor) -> Tensor:
    """Euclidean distances of points, (n, d) and (m, d) -> (n, m); the gradient is 0 where two points coincide.

    On a CPU by differences; elsewhere by one matmul, whose direct form would be many times slower there.
    """
    result: Tensor = _Distances.apply(p, q, p.device.type != "cpu")
    return result


def _kernel(kernel: Kernel, p: Tensor, q: Tensor, mix: Tensor | None) -> Tensor:
    """K of a part, (in, out), from P, (HEADS, in, d), Q, (HEADS, out, d), and alpha, gamma, beta, (3,)."""
    if kernel == "linear":
        return p.transpose(0, 1).flatten(1) @ q.transpose(0, 1).flatten(1).T
    # in place where autograd does not need what is there: a new tensor of the weight's size costs more than the sum
    d = distances(p[0], q[0]).sub_(distances(p[1], q[1])).mul_(_SCALE)
    if kernel == "piecewise":
        return d
    if mix is None:
        raise ValueError("the mix kernel needs alpha, gamma and beta (kernel_mix)")
    alpha, gamma, beta = mix.unbind()
    return (alpha * torch.softmax(d / gamma, 1)).add_(d).add_(beta)


def _smallest(values: Tensor, place: int) -> Tensor:
    """The entry at `place`, from 0, of the sorted values, (); no sort is done, and any number of values is admitted."""
    if values.device.type == "cpu":  # a third of the time and of the memory of torch.kthvalue, which keeps positions
        return torch.tensor(np.partition(values.numpy(), place)[place], dtype=values.dtype)
    return values.kthvalue(place + 1).values


def _threshold(change: Tensor, sparsity: float, competition: Competition) -> Tensor:
    """Find t of a part, (): an entry is kept if its magnitude is greater.

    For "code" it stands in for the quantile t* that is interpolated linearly: with the magnitudes sorted, v_0 <= ... <=
    v_(n-1), h = s (n - 1), k = floor(h) and f = h - k < 1, it is t* = v_k + f (v_(k+1) - v_k). Either v_k = v_(k+1) =
    t*; or v_k <= t* < v_(k+1), and no magnitude lies between v_k and v_(k+1). So |K| > t* means |K| > v_k.

    s is a float32 number of 24 bits and n < 2^29, hence s (n - 1) and s n are exact in float64, and so are floor, ceil.
    """
    if not 0 <= sparsity <= 1:
        raise ValueError(f"a sparsity must be between 0 and 1; got {sparsity}")
    n = change.numel()
    place = math.floor(sparsity * (n - 1)) if competition == "code" else math.ceil(sparsity * n) - 1
    return change.new_zeros(()) if place < 0 else _smallest(change.detach().abs().flatten(), place)


def _compete(change: Tensor, threshold: Tensor, competition: Competition) -> Tensor:
    if competition == "code":
        magnitude = change.detach().abs()
        return change * magnitude.masked_fill_(magnitude <= threshold, 0.0)
    return change * torch.relu(change.abs() - threshold)


def change_and_thresholds(
    form: Form, kernel_in: Tensor, kernel_out: Tensor, mix: Tensor | None, sparsity: Sequence[float],
    thresholds: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Make a layer's weight change, (out, in), and the thresholds of its parts, (parts,), or (0,) without competition.

    Args:
        kernel_in: P, (parts, HEADS, in, d).
        kernel_out: Q, (parts, HEADS, out / parts, d).
        mix: alpha, gamma and beta, (parts, 3), for the mix kernel.
        sparsity: s of each part, between 0 and 1, as float64 of the float32 numbers in the arrays.
        thresholds: those that the same arguments gave before, which are then not searched for again.

    Raises:
        ValueError: the mix kernel without `mix`, or a sparsity that is none.
    """
    with torch.autocast(kernel_in.device.type, enabled=False):
        changes, new_thresholds = [], []
        for part, (p, q) in enumerate(zip(kernel_in, kernel_out, strict=True)):
            change = _kernel(form.kernel, p, q, None if mix is None else mix[part])
            if form.competition != "none":
                threshold = None if thresholds is None else thresholds[part]
                t = _threshold(change, sparsity[part], form.competition) if threshold is None else threshold
                change = _compete(change, t, form.competition)
                new_thresholds.append(t)
            changes.append(change)
        whole = changes[0] if len(changes) == 1 else torch.cat(changes, 1)
        return whole.T, torch.stack(new_thresholds) if new_thresholds else whole.new_zeros(0)


def weight_change(
    form: Form, kernel_in: Tensor, kernel_out: Tensor, mix: Tensor | None, sparsity: Sequence[float]
) -> Tensor:
    """Make a layer's weight change, (out, in), in the type of the points, which is float32 also under autocast.

    The arguments are those of `change_and_thresholds`.
    """
    return change_and_thresholds(form, kernel_in, kernel_out, mix, sparsity)[0]
