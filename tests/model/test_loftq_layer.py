"""The layer with a quantised weight against the plain expression, and what it and autograd keep."""

import gc
import itertools
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fcil.model.loftq_layer import LoftqLinear, restored
from fcil.model.lora_layer import LoraLinear
from fcil.model.quantization import BITS, KINDS, dequantized, quantized
from fcil.seeding import torch_generator

forms = pytest.mark.parametrize(("bits", "kind"), [(bits, kind) for bits in BITS for kind in KINDS])
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
OUT, WIDTH = 24, 20
"""Together 480: the last block of 64 is half full."""


def made(bits=4, kind="nf", bias=True, dtype=torch.float64, pair=True):
    """A layer with loaded codes, and its weight restored."""
    gen = torch_generator(0, "layer")
    linear = nn.Linear(WIDTH, OUT, bias, dtype=torch.float32).requires_grad_(False)
    for parameter in linear.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=gen))
    codes, scales = quantized(linear.weight.numpy(), bits, kind)
    layer = LoftqLinear(linear, bits, kind).to(dtype)
    layer.codes, layer.scales = torch.from_numpy(codes), torch.from_numpy(scales)
    if pair:
        a, b = (torch.randn(shape, generator=gen).to(dtype) for shape in ((3, WIDTH), (OUT, 3)))
        layer.lora_A, layer.lora_B = a, b
    return layer, torch.from_numpy(dequantized(codes, scales, (OUT, WIDTH), bits, kind)).to(dtype)


def inputs(shape=(5, WIDTH), dtype=torch.float64):
    return torch.randn(shape, generator=torch_generator(1, "x"), dtype=dtype)


def plain(layer, weight, x):
    y = F.linear(x, weight, layer.bias)
    return y if layer.lora_A is None else y + F.linear(F.linear(x, layer.lora_A), layer.lora_B)


@forms
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[gpu, pytest.mark.gpu])])
def test_torch_restores_the_same_bits_as_numpy(bits, kind, device):
    w = torch.randn(OUT, WIDTH, generator=torch_generator(2)).numpy()
    codes, scales = quantized(w, bits, kind)
    wanted = torch.from_numpy(dequantized(codes, scales, w.shape, bits, kind))
    held = torch.from_numpy(codes).to(device), torch.from_numpy(scales).to(device)
    ours = restored(*held, w.shape, bits, kind, torch.float32)
    assert torch.equal(ours.cpu(), wanted)
    assert torch.equal(restored(*held, w.shape, bits, kind, torch.bfloat16).cpu(), wanted.bfloat16())


@forms
@pytest.mark.parametrize("shape", [(5, WIDTH), (2, 3, WIDTH), (2, 3, 2, WIDTH)])
@pytest.mark.parametrize("trains", [t for t in itertools.product([False, True], repeat=3) if any(t)])
def test_values_and_gradients_are_those_of_the_plain_expression(bits, kind, shape, trains):
    layer, weight = made(bits, kind, bias=bits == 4)
    x = inputs(shape)
    leaves = [t for t, needs in zip((x, layer.lora_A, layer.lora_B), trains, strict=True) if needs]
    for tensor in leaves:
        tensor.requires_grad_()
    ours, wanted = layer(x), plain(layer, weight, x)
    torch.testing.assert_close(ours, wanted)
    weights = torch.randn(wanted.shape, generator=torch_generator(3), dtype=torch.float64)
    theirs = torch.autograd.grad((wanted * weights).sum(), leaves)
    for actual, expected in zip(torch.autograd.grad((ours * weights).sum(), leaves), theirs, strict=True):
        torch.testing.assert_close(actual, expected)


def test_gradients_by_finite_differences():
    layer, _ = made()
    tensors = [inputs().requires_grad_(), layer.lora_A.requires_grad_(), layer.lora_B.requires_grad_()]

    def apply(x, a, b):
        layer.lora_A, layer.lora_B = a, b
        return layer(x)

    assert torch.autograd.gradcheck(apply, tensors)


def test_without_a_pair_the_gradient_of_the_input_goes_through_the_weight():
    layer, weight = made(pair=False)
    x = inputs().requires_grad_()
    torch.testing.assert_close(layer(x), plain(layer, weight, x))
    (g,) = torch.autograd.grad(layer(x).sum(), x)
    torch.testing.assert_close(g, weight.sum(0).expand(5, WIDTH))


@pytest.mark.parametrize("pair", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_types_and_passes_without_gradients(dtype, pair):
    layer, _ = made(dtype=dtype, pair=pair)
    x = inputs().to(dtype)
    with torch.no_grad():
        y = layer(x)
    assert y.dtype == layer(x.clone().requires_grad_()).dtype == dtype
    full, weight = made(pair=pair)
    eps = torch.finfo(dtype).eps
    wanted = plain(full, weight, x.double())
    torch.testing.assert_close(y.double(), wanted, rtol=0, atol=4 * eps * float(wanted.abs().max()))


def test_it_computes_as_loras_layer_does_with_the_restored_weight():
    layer, weight = made(dtype=torch.float32)
    linear = nn.Linear(WIDTH, OUT).requires_grad_(False)
    linear.weight.copy_(weight)
    linear.bias.copy_(layer.bias)
    lora = LoraLinear(linear)
    lora.lora_A, lora.lora_B = layer.lora_A, layer.lora_B
    delta = torch.randn(OUT, WIDTH, generator=torch_generator(4))
    for change in (None, delta):
        layer.delta = lora.delta = change
        x = inputs(dtype=torch.float32)
        with torch.no_grad():
            assert torch.equal(layer(x), lora(x))
        assert torch.equal(layer(x.requires_grad_()), lora(x))


def test_the_gradient_is_of_the_arrays_of_the_forward_pass():
    """A teacher's arrays may be loaded before the backward pass."""
    layer, weight = made(pair=False)
    x = inputs().requires_grad_()
    y = layer(x)
    layer.codes, layer.scales = torch.zeros_like(layer.codes), torch.ones_like(layer.scales)
    (g,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(g, weight.sum(0).expand(5, WIDTH))


def saved(layer, x):
    """Shapes of the floating tensors that autograd keeps for the backward pass, which is then run."""
    shapes = []

    def note(tensor):
        shapes.extend([tuple(tensor.shape)] if tensor.is_floating_point() else [])
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y = layer(x)
    y.sum().backward()
    return shapes


def test_autograd_keeps_no_tensor_of_the_size_of_a_weight():
    layer, _ = made()
    for factor in (layer.lora_A, layer.lora_B):
        factor.requires_grad_()
    shapes = saved(layer, inputs().requires_grad_())
    assert (5, WIDTH) in shapes
    assert max(np.prod(shape) for shape in shapes) < OUT * WIDTH
    linear = nn.Linear(WIDTH, OUT, dtype=torch.float64).requires_grad_(False)
    assert (OUT, WIDTH) in [tuple(sorted(s, reverse=True)) for s in saved(linear, inputs().requires_grad_())]


def test_the_module_lets_the_weight_go():
    linear = nn.Linear(WIDTH, OUT)
    gone = weakref.ref(linear.weight)
    layer = LoftqLinear(linear, 4, "nf")
    del linear
    gc.collect()
    assert gone() is None
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
    assert not layer.state_dict().keys() - {"bias"}


def test_a_layer_without_codes_or_with_half_a_pair_refuses():
    layer, _ = made()
    layer.lora_A = None
    with pytest.raises(ValueError, match="one factor of a pair"):
        layer(inputs())
    layer.lora_B, layer.scales = None, None
    with pytest.raises(ValueError, match="load the codes and scales"):
        layer(inputs())
