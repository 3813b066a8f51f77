"""Peak memory of a step through kernelised layers: what it grows by with each layer is no weight."""

import itertools

import pytest
import torch
from torch import nn

from fcil.model.kernel_form import Form
from fcil.model.kernel_layer import KernelLinear
from fcil.model.kernels import weight_change
from fcil.seeding import torch_generator

SIDE, TOKENS = 128, 3
WEIGHT = SIDE * SIDE * 4
"""Bytes of a weight."""


def stack(layers, form):
    """Frozen layers of SIDE x SIDE, and the points that train in them."""
    gen = torch_generator(0, "stack")
    made = []
    for _ in range(layers):
        layer = KernelLinear(nn.Linear(SIDE, SIDE).requires_grad_(False), form)
        layer.kernel_in, layer.kernel_out = (torch.randn(1, 2, SIDE, 1, generator=gen).requires_grad_() for _ in "PQ")
        layer.kernel_mix, layer.sparsity = torch.tensor([[1.0, 1.0, 0.0]], requires_grad=True), torch.tensor([0.5])
        made.append(layer)
    return made, [t for layer in made for t in (layer.kernel_in, layer.kernel_out, layer.kernel_mix)]


def dense(layer, x):
    """The same output by autograd's own expression, which saves what is as large as the weight."""
    change = weight_change(layer.form, layer.kernel_in, layer.kernel_out, layer.kernel_mix, [0.5])
    return nn.functional.linear(x, layer.weight + change, layer.bias)


def peak(layers, form, through):
    """Most bytes that are allocated at once in a forward and backward pass, beyond those before it."""
    made, leaves = stack(layers, form)
    x = torch.randn(TOKENS, SIDE, generator=torch_generator(1), requires_grad=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        y = x
        for layer in made:
            y = through(layer, y)
        torch.autograd.grad(y.square().sum(), [x, *leaves])
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))


@pytest.mark.parametrize("form", [Form("mix", "code"), Form("mix", "paper")], ids=str)
def test_a_layer_more_costs_a_small_part_of_a_weight_more(form):
    peaks = [peak(n, form, lambda layer, x: layer(x)) for n in (2, 6)]
    assert peaks[1] - peaks[0] < 4 * 0.25 * WEIGHT
    assert peaks[0] < 12 * WEIGHT  # one layer's change is made at a time
    plain = [peak(n, form, dense) for n in (2, 6)]
    assert plain[1] - plain[0] > 4 * 2 * WEIGHT
