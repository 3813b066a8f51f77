"""The kernelised layer against the plain expression, what it saves for backward, and what it keeps between batches."""

import itertools

import numpy as np
import pytest
import torch
from small import BACKBONE, LINEARS, SIZE, WIDTH, weight_sized_tensors
from small import model as tiny_model
from torch import nn
from torch.nn import functional as F

from fcil.method import Task, head
from fcil.model import kernel_layer
from fcil.model.kernel_form import Form
from fcil.model.kernel_layer import KernelLinear
from fcil.model.kernels import weight_change
from fcil.model.snell import Snell, Snella
from fcil.seeding import generator, torch_generator

FORMS = [Form("mix", "code"), Form("mix", "paper"), Form("piecewise", "code"), Form("linear", "none")]
SHARES = [0.3, 0.5, 0.7]


def layer_of(form, dtype=torch.float64, delta=False, pair=False, bias=True):
    """A layer of 3 parts, 6 inputs and 12 outputs, and everything in it that may train."""
    gen = torch_generator(0, "layer")
    linear = nn.Linear(6, 12, bias=bias).to(dtype).requires_grad_(False)
    layer = KernelLinear(linear, form)

    def drawn(*shape):
        return torch.randn(shape, generator=gen, dtype=torch.float64).to(dtype)

    layer.weight.copy_(drawn(12, 6))
    if bias:
        layer.bias.copy_(drawn(12))
    layer.kernel_in, layer.kernel_out = drawn(3, 2, 6, 2), drawn(3, 2, 4, 2)
    layer.kernel_mix = drawn(3, 3).abs() + 0.5
    layer.sparsity = torch.tensor(SHARES, dtype=torch.float32)
    layer.delta = drawn(12, 6) if delta else None
    if pair:
        layer.lora_A, layer.lora_B = drawn(2, 6), drawn(12, 2)
    return layer


def plain(layer, x):
    """The layer's output by autograd's own hands."""
    shares = [float(s) for s in layer.sparsity]
    weight = layer.weight + weight_change(layer.form, layer.kernel_in, layer.kernel_out, layer.kernel_mix, shares)
    if layer.delta is not None:
        weight = weight + layer.delta
    if layer.lora_A is not None:
        weight = weight + layer.lora_B @ layer.lora_A
    return F.linear(x, weight, layer.bias)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize(("delta", "pair", "bias"), [(False, False, True), (True, False, False), (True, True, True)])
def test_values_and_gradients_are_those_of_the_plain_expression(form, delta, pair, bias):
    x = torch.randn(2, 5, 6, generator=torch_generator(1), dtype=torch.float64)
    weights = torch.randn(2, 5, 12, generator=torch_generator(2), dtype=torch.float64)
    names = ["kernel_in", "kernel_out", "kernel_mix"] if form.kernel == "mix" else ["kernel_in", "kernel_out"]
    names += ["delta"] if delta else []
    names += ["lora_A", "lora_B"] if pair else []
    for chosen in [c for n in (1, 2, len(names)) for c in itertools.combinations(["x", *names], n)]:
        layer = layer_of(form, delta=delta, pair=pair, bias=bias)
        leaf = x.clone().requires_grad_("x" in chosen)
        leaves = [leaf if name == "x" else getattr(layer, name).requires_grad_() for name in chosen]
        ours, theirs = layer(leaf), plain(layer, leaf)
        torch.testing.assert_close(ours, theirs)
        given = torch.autograd.grad((ours * weights).sum(), leaves)
        for actual, wanted in zip(given, torch.autograd.grad((theirs * weights).sum(), leaves), strict=True):
            torch.testing.assert_close(actual, wanted)


def test_gradients_by_finite_differences():
    layer = layer_of(Form("mix", "none"))
    names = ("kernel_in", "kernel_out", "kernel_mix")
    x = torch.randn(3, 6, generator=torch_generator(3), dtype=torch.float64)

    def output(x, *arrays):
        for name, array in zip(names, arrays, strict=True):
            setattr(layer, name, array)
        return layer(x)

    assert torch.autograd.gradcheck(output, [t.requires_grad_() for t in (x, *(getattr(layer, n) for n in names))])


def test_without_points_it_is_the_lora_layer():
    layer = layer_of(FORMS[0], torch.float32, delta=True, pair=True)
    layer.kernel_in = layer.kernel_out = layer.kernel_mix = layer.sparsity = None
    x = torch.randn(4, 6, generator=torch_generator(4))
    wanted = F.linear(x, layer.weight + layer.delta + layer.lora_B @ layer.lora_A, layer.bias)
    torch.testing.assert_close(layer(x), wanted)


@pytest.mark.parametrize("missing", ["kernel_in", "kernel_out", "sparsity", "lora_A", "lora_B", "kernel_mix"])
def test_half_of_the_arrays_is_an_error(missing):
    layer = layer_of(FORMS[0], pair=True)
    setattr(layer, missing, None)
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled), pytest.raises(ValueError, match=r"load|needs alpha"):
            layer(torch.zeros(1, 6, dtype=torch.float64))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_beside_a_large_weight_of_low_precision_a_small_change_survives(kind):
    layer = layer_of(Form("piecewise", "none"), torch.float32)
    layer.weight.fill_(256.0)  # in bfloat16, 256 + 1 = 256
    layer.to(kind)
    layer.sparsity, layer.bias.data = torch.zeros(3), torch.zeros(12, dtype=kind)
    for name in ("kernel_in", "kernel_out"):
        setattr(layer, name, getattr(layer, name) * 0.1)
    x = torch.tensor([[1.0, -1.0, 0, 0, 0, 0]], requires_grad=True)
    change = weight_change(layer.form, layer.kernel_in, layer.kernel_out, None, [0, 0, 0])
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            torch.testing.assert_close(layer(x).float()[0], change[:, 0] - change[:, 1], rtol=2e-2, atol=1e-4)
    (g,) = torch.autograd.grad(layer(x).sum(), x)
    assert g.dtype == torch.float32


def trained_model(adapter, precision="fp32"):
    """A tiny ViT under the adapter: everything that trains has a gradient."""
    rng = generator(5, "model")
    arrays = {**adapter.initial(BACKBONE, lambda _: rng), **head.new_rows(Task(0, 0, 2), WIDTH, rng)}
    adapted = tiny_model(adapter, precision)
    trains = [n for n in arrays if not n.endswith(".sparsity")]
    return adapted, adapted.load(arrays, trains), arrays


ADAPTERS = [Snell(4, 0.5), Snella(4), Snella(4, 0.5, 0.5, "paper")]


@pytest.mark.parametrize("adapter", ADAPTERS, ids=str)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nothing_as_large_as_a_weight_is_saved_or_in_the_optimisers_state(adapter, precision):
    adapted, leaves, _ = trained_model(adapter, precision)
    optimizer = torch.optim.AdamW(leaves.values(), lr=1e-3)
    images = torch.randn(3, 3, SIZE, SIZE, generator=torch_generator(6))
    with weight_sized_tensors(adapted.network) as shapes:
        loss = adapted.logits(adapted.features(images), (0,)).logsumexp(1).sum()
    assert shapes == []
    loss.backward()
    assert all(leaf.grad is not None and leaf.grad.any() for leaf in leaves.values())
    optimizer.step()
    smallest = min(out * inputs for out, inputs in LINEARS.values())
    states = [t for state in optimizer.state.values() for t in state.values()]
    assert states
    assert max(t.numel() for t in states) < smallest
    assert not [p for p in adapted.network.parameters() if p.grad is not None]


def test_the_probe_of_saved_tensors_sees_a_dense_change():
    """Autograd's own expression does save sums of the weight's size: the test above can fail."""
    adapted, _, _ = trained_model(ADAPTERS[0])
    layer = adapted.network.blocks[0].attn.proj
    with weight_sized_tensors(adapted.network) as shapes:
        plain(layer, torch.randn(3, WIDTH, generator=torch_generator(7), requires_grad=True))
    assert shapes


@pytest.mark.parametrize("adapter", ADAPTERS, ids=str)
def test_the_server_makes_the_change_that_the_layer_used_bit_for_bit(adapter, monkeypatch):
    used = {}
    real = kernel_layer.change_and_thresholds

    def noted(form, p, q, *rest):
        change, thresholds = real(form, p, q, *rest)
        used.setdefault(p.data_ptr(), []).append(change.detach().clone())
        return change, thresholds

    monkeypatch.setattr(kernel_layer, "change_and_thresholds", noted)
    adapted, leaves, arrays = trained_model(adapter)
    images = torch.randn(3, 3, SIZE, SIZE, generator=torch_generator(8))
    adapted.logits(adapted.features(images), (0,)).logsumexp(1).sum().backward()  # forward, and again in backward
    with torch.no_grad():
        adapted.features(images)
    changes = {layer: change.a for layer, change in adapter.changes(arrays).items()}
    assert list(changes) == list(LINEARS)
    for layer, change in changes.items():
        seen = used[leaves[f"{layer}.kernel_in"].data_ptr()]
        assert len(seen) == 3
        for ours in seen:
            np.testing.assert_array_equal(ours.numpy(), change)


def counted(monkeypatch):
    """A list that grows by one whenever a change is made."""
    made, real = [], kernel_layer.change_and_thresholds
    monkeypatch.setattr(kernel_layer, "change_and_thresholds", lambda *a: made.append(1) or real(*a))
    return made


def test_evaluation_makes_the_change_once_and_sees_every_new_array(monkeypatch):
    made, layer = counted(monkeypatch), layer_of(FORMS[0], torch.float32)
    x = torch.randn(4, 6, generator=torch_generator(9))
    with torch.no_grad():
        for _ in range(3):
            torch.testing.assert_close(layer(x), plain(layer, x))
        assert len(made) == 1
        for name in ("kernel_in", "kernel_out", "kernel_mix"):
            setattr(layer, name, getattr(layer, name) * 1.5)
            torch.testing.assert_close(layer(x), plain(layer, x))
            getattr(layer, name).mul_(0.5)  # in place, as an optimiser does
            torch.testing.assert_close(layer(x), plain(layer, x))
        layer.sparsity = torch.tensor([0.9, 0.1, 0.5])
        torch.testing.assert_close(layer(x), plain(layer, x))
        layer.sparsity.fill_(0.25)
        torch.testing.assert_close(layer(x), plain(layer, x))
        layer.delta = torch.ones(12, 6)
        torch.testing.assert_close(layer(x), plain(layer, x))
        layer.weight.data = layer.weight.data * 2
        torch.testing.assert_close(layer(x), plain(layer, x))
        assert len(made) == 11
    assert layer._kept is not None
    layer(x)
    assert layer._kept is None  # a pass with gradients frees it


@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": True}, {"foreach": False}])
def test_evaluation_after_a_step_sees_the_moved_points(options):
    adapted, leaves, _ = trained_model(Snella(4))
    images = torch.randn(3, 3, SIZE, SIZE, generator=torch_generator(10))
    optimizer = torch.optim.AdamW(leaves.values(), lr=0.1, **options)
    with torch.no_grad():
        before = adapted.features(images)
    adapted.logits(adapted.features(images), (0,)).logsumexp(1).sum().backward()
    with torch.no_grad():
        assert torch.equal(adapted.features(images), before)
    optimizer.step()
    with torch.no_grad():
        after = adapted.features(images)
        fresh = tiny_model(Snella(4))
        fresh.load(adapted.read(list(adapted.arrays)))
        assert torch.equal(after, fresh.features(images))
    assert not torch.allclose(after, before)


def test_loading_other_arrays_frees_what_was_kept():
    adapted, _, arrays = trained_model(Snella(4))
    adapted.load(arrays)
    layer = adapted.network.blocks[0].attn.qkv
    with torch.no_grad():
        adapted.features(torch.zeros(1, 3, SIZE, SIZE))
    assert layer._kept is not None
    adapted.load({})
    assert layer._kept is None
    assert adapted.features(torch.zeros(1, 3, SIZE, SIZE)).shape == (1, WIDTH)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_on_a_gpu_values_and_gradients_are_those_of_a_processor(form):
    """Distances are taken by a matmul there, and order statistics by another routine."""
    results = []
    for device in ("cpu", "cuda"):
        layer = layer_of(form).to(device)
        names = ["kernel_in", "kernel_out", "kernel_mix"] if form.kernel == "mix" else ["kernel_in", "kernel_out"]
        for name in ("kernel_in", "kernel_out", "kernel_mix", "sparsity"):
            setattr(layer, name, getattr(layer, name).to(device).requires_grad_(name in names))
        x = torch.randn(5, 6, generator=torch_generator(11), dtype=torch.float64).to(device).requires_grad_()
        y = layer(x)
        grads = torch.autograd.grad(y.square().sum(), [x, *(getattr(layer, name) for name in names)])
        results.append([t.detach().cpu() for t in (y, *grads)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
