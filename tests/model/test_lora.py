"""The factor form and its hand-written gradients against the plain expression."""

import itertools

import numpy as np
import pytest
import torch
from small import BACKBONE, model
from torch import nn
from torch.nn import functional as F

from fcil.errors import ConfigError
from fcil.method import Backbone
from fcil.model.lora import Lora
from fcil.model.lora_layer import LoraLinear, _factor_form
from fcil.seeding import torch_generator


def tensors(shape, out, rank, bias=True):
    gen = torch_generator(0, "lora", *shape, out, rank)
    sizes = (shape, (out, shape[-1]), (out,), (rank, shape[-1]), (out, rank))
    x, weight, offset, a, b = (torch.randn(s, generator=gen, dtype=torch.float64) for s in sizes)
    return x, weight, offset if bias else None, a, b


@pytest.mark.parametrize("shape", [(5, 4), (2, 3, 4), (2, 3, 2, 4), (1, 4)])
@pytest.mark.parametrize("trains", [t for t in itertools.product([False, True], repeat=3) if any(t)])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_the_plain_expression(shape, trains, bias):
    x, weight, offset, a, b = tensors(shape, 6, 2, bias)
    for tensor, needs in zip((x, a, b), trains, strict=True):
        tensor.requires_grad_(needs)
    leaves = [t for t, needs in zip((x, a, b), trains, strict=True) if needs]
    plain = F.linear(x, weight, offset) + F.linear(F.linear(x, a), b)
    ours = _factor_form(x, weight, offset, a, b)
    weights = torch.randn(plain.shape, generator=torch_generator(1), dtype=torch.float64)
    torch.testing.assert_close(ours, plain)
    wanted = torch.autograd.grad((plain * weights).sum(), leaves)
    for actual, theirs in zip(torch.autograd.grad((ours * weights).sum(), leaves), wanted, strict=True):
        torch.testing.assert_close(actual, theirs)


def test_gradients_by_finite_differences():
    x, weight, offset, a, b = tensors((2, 3, 4), 5, 2)
    inputs = [t.requires_grad_() for t in (x, a, b)]
    assert torch.autograd.gradcheck(lambda x, a, b: _factor_form(x, weight, offset, a, b), inputs)


def test_a_non_contiguous_input_is_fine():
    x, weight, offset, a, b = tensors((3, 2, 4), 5, 2)
    turned = x.transpose(0, 1).requires_grad_()
    torch.testing.assert_close(
        _factor_form(turned, weight, offset, a, b), F.linear(turned, weight, offset) + F.linear(F.linear(turned, a), b)
    )


def test_half_a_pair_is_an_error():
    layer = LoraLinear(nn.Linear(4, 5))
    layer.lora_A = torch.zeros(2, 4)
    with pytest.raises(ValueError, match="one factor of a pair"):
        layer(torch.zeros(1, 4))


def test_rank_is_bounded_by_the_smallest_layer_and_targets_must_match():
    backbone = Backbone(8, {"blocks.0.attn.qkv": (24, 8), "blocks.0.mlp.fc1": (16, 8)})
    Lora(8).check(backbone)
    for rank in (0, 9):
        with pytest.raises(ConfigError, match="between 1 and 8"):
            Lora(rank).check(backbone)
    with pytest.raises(ConfigError, match="no linear layer"):
        Lora(1, ("blocks.*.conv",)).check(backbone)


def test_initial_factors_are_kaiming_uniform_and_zero():
    backbone = Backbone(64, {"blocks.0.attn.qkv": (192, 64)})
    arrays = Lora(32).initial(backbone, lambda _: np.random.default_rng(0))
    a, b = arrays["blocks.0.attn.qkv.lora_A"], arrays["blocks.0.attn.qkv.lora_B"]
    assert a.shape == (32, 64)
    assert not b.any()
    assert 0.95 / 8 < np.abs(a).max() <= 1 / 8
    assert abs(a.std() - 1 / 8 / np.sqrt(3)) < 0.003


def test_arrays_are_loaded_in_rows_whatever_their_strides():
    """An array that has not travelled may be transposed in memory; torch would keep that, and round otherwise."""
    arrays = Lora(2).initial(BACKBONE, lambda purpose: np.random.default_rng(0))
    resident = model(Lora(2))
    turned = {name: np.asfortranarray(a) for name, a in arrays.items()}
    for tensor in resident.load(turned, list(turned)).values():
        assert tensor.is_contiguous()
    resident.load({**turned, "head.0.bias": np.zeros(2, np.float32)})
    assert np.array_equal(
        resident.read(["blocks.0.attn.qkv.lora_A"])["blocks.0.attn.qkv.lora_A"], arrays["blocks.0.attn.qkv.lora_A"]
    )
