"""LoftQ as an adapter: its start, its slots, what a resident model takes, and that 16 bits are LoRA."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small import BACKBONE, LINEARS, SIZE, model, tiny_vit

from fcil.errors import ConfigError
from fcil.method import Backbone
from fcil.model.adapted import AdaptedModel
from fcil.model.backbone import Model, describe_backbone, load_backbone
from fcil.model.loftq import CODES, SCALES, Loftq
from fcil.model.loftq_layer import LoftqLinear
from fcil.model.lora import DELTA, A, B, Lora
from fcil.model.lora_layer import LoraLinear
from fcil.model.quantization import dequantized, loftq, quantized
from fcil.seeding import generator, torch_generator
from fcil.threads import threads

ADAPTERS = [Loftq(2), Loftq(2, bits=2), Loftq(2, kind="uniform", iterations=1), Loftq(3, bits=2, kind="uniform")]
SOME = ("blocks.*.attn.qkv", "blocks.1.mlp.fc2")
IMAGES = torch.rand(3, 3, SIZE, SIZE, generator=torch_generator(0, "images"))


def draw(purpose):
    return generator(0, purpose)


# ---- the start -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", [*ADAPTERS, Loftq(2, SOME)], ids=repr)
def test_the_start_is_loftqs_split_of_every_target(adapter):
    arrays, fixed = adapter.initial_and_fixed(BACKBONE, draw)
    layers = adapter.layers(BACKBONE)
    assert list(arrays) == [name + factor for name in layers for factor in (A, B)]
    assert list(fixed) == [name + part for name in layers for part in (CODES, SCALES)]
    network = tiny_vit()
    for name in layers:
        w = network.get_submodule(name).weight.detach().numpy()
        split = loftq(w, adapter.rank, adapter.bits, adapter.kind, adapter.iterations)
        ours = (fixed[name + CODES], fixed[name + SCALES], arrays[name + A], arrays[name + B])
        for actual, wanted in zip(ours, split, strict=True):
            np.testing.assert_array_equal(actual, wanted)
            assert actual.dtype == wanted.dtype


def test_a_later_start_is_the_first_one():
    adapter = Loftq(2, SOME)
    wanted, ours = adapter.initial_and_fixed(BACKBONE, draw)[0], adapter.initial(BACKBONE, draw)
    assert ours.keys() == wanted.keys()
    assert all(np.array_equal(ours[name], wanted[name]) for name in wanted)


def test_the_start_does_not_depend_on_the_number_of_threads():
    starts = []
    for count in (1, 3):
        with threads(count):
            arrays, fixed = Loftq(4).initial_and_fixed(BACKBONE, draw)
            starts.append({**arrays, **fixed})
    assert all(np.array_equal(a, starts[1][name]) for name, a in starts[0].items())


def test_each_weight_is_asked_for_once_and_in_order():
    asked = []

    def weight(layer):
        asked.append(layer)
        return BACKBONE.weight(layer)

    Loftq(1, iterations=2).initial_and_fixed(replace(BACKBONE, weight=weight), draw)
    assert asked == list(LINEARS)


def test_the_pair_brings_features_nearer_to_those_of_the_full_weights():
    adapter = Loftq(8, bits=2)
    arrays, fixed = adapter.initial_and_fixed(BACKBONE, draw)
    loftq_model, whole = model(adapter), model(None).features(IMAGES)
    errors = []
    for loaded in ({**fixed, **arrays}, fixed):
        loftq_model.load(loaded)
        errors.append(float((loftq_model.features(IMAGES) - whole).norm()))
    assert errors[0] < errors[1]  # by how much depends on the random weights, which differ between versions of timm


def test_a_backbone_without_weights_is_refused_with_advice():
    with pytest.raises(ConfigError, match=r"needs the backbone's weights.*describe_backbone.*bits = 16"):
        Loftq(2).initial_and_fixed(replace(BACKBONE, weight=None), draw)


@pytest.mark.parametrize(
    ("adapter", "wrong"),
    [
        (Loftq(2, bits=3), "loftq: bits = 3"), (Loftq(2, bits=8), "must be 2, 4, or 16"),
        (Loftq(2, kind="normal"), "loftq: kind = 'normal': must be one of nf, uniform"),
        (Loftq(2, iterations=0), "loftq: iterations = 0"), (Loftq(2, block=0), "loftq: block = 0"),
        (Loftq(2, block=6), "multiple of 4"), (Loftq(0), "method.rank = 0"), (Loftq(33), "between 1 and 32"),
        (Loftq(1, ("blocks.*.conv",)), "no linear layer"),
    ],
    ids=repr,
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(adapter, wrong):
    with pytest.raises(ConfigError, match=wrong):
        adapter.check(BACKBONE)


@pytest.mark.parametrize("adapter", [*ADAPTERS, Loftq(2, bits=16)], ids=repr)
def test_settings_that_fit_are_taken(adapter):
    adapter.check(BACKBONE)


# ---- 16 bits ---------------------------------------------------------------------------------------------------------


def test_16_bits_are_lora_to_the_bit():
    ours, lora = Loftq(2, bits=16), Lora(2)
    unknown = Backbone(BACKBONE.width, LINEARS)  # no weights are asked for
    arrays, fixed = ours.initial_and_fixed(unknown, draw)
    wanted = lora.initial(unknown, draw)
    assert (fixed, list(arrays)) == ({}, list(wanted))
    for name, a in wanted.items():
        np.testing.assert_array_equal(arrays[name], a)
        np.testing.assert_array_equal(ours.initial(unknown, draw)[name], a)
    slots = [adapter.install(tiny_vit()) for adapter in (ours, lora)]
    assert list(slots[0]) == list(slots[1])
    assert {type(module) for module, _ in slots[0].values()} == {LoraLinear}
    moved = {name: a + 0.1 for name, a in arrays.items()}
    results = []
    for adapter in (ours, lora):
        adapted = model(adapter)
        leaves = adapted.load(moved, list(moved))
        features = adapted.features(IMAGES)
        results.append([features, *torch.autograd.grad(features.square().sum(), list(leaves.values()))])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


# ---- the resident model ----------------------------------------------------------------------------------------------


def restored_vit(adapter, fixed):
    """The tiny ViT with the weights that the quantised ones stand for."""
    network = tiny_vit()
    for name, shape in adapter.layers(BACKBONE).items():
        q = dequantized(fixed[name + CODES], fixed[name + SCALES], shape, adapter.bits, adapter.kind)
        network.get_submodule(name).weight.data.copy_(torch.from_numpy(q))
    return network


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("adapter", [*ADAPTERS, Loftq(2, SOME)], ids=repr)
def test_features_and_gradients_are_loras_on_the_restored_weights(adapter, precision):
    arrays, fixed = adapter.initial_and_fixed(BACKBONE, draw)
    models = [AdaptedModel(restored_vit(adapter, fixed), Lora(adapter.rank, adapter.targets), precision=precision)]
    models.append(model(adapter, precision))
    results = []
    for adapted, loaded in zip(models, (arrays, {**arrays, **fixed}), strict=True):
        leaves = adapted.load(loaded, list(arrays))
        with torch.no_grad():
            quiet = adapted.features(IMAGES)
        features = adapted.features(IMAGES)
        results.append([quiet, features, *torch.autograd.grad(features.square().sum(), list(leaves.values()))])
    for ours, wanted in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, wanted)


def test_install_gives_slots_for_pair_change_codes_and_scales():
    adapter, network = Loftq(2, SOME), tiny_vit()
    slots = adapter.install(network)
    layers = adapter.layers(BACKBONE)
    assert set(slots) == {name + ending for name in layers for ending in (A, B, DELTA, CODES, SCALES)}
    for name in layers:
        assert isinstance(network.get_submodule(name), LoftqLinear)
        assert slots[name + CODES] == (network.get_submodule(name), "codes")
    assert adapter.install(network) == slots
    with pytest.raises(ValueError, match=r"made for 4 bits \(nf\) is asked for 2"):
        Loftq(2, SOME, bits=2).install(network)


def test_codes_stay_bytes_and_an_empty_model_refuses():
    adapter = Loftq(2)
    arrays, fixed = adapter.initial_and_fixed(BACKBONE, draw)
    adapted = model(adapter, "bf16")
    tensors = adapted.load({**arrays, **fixed}) or adapted.arrays
    assert tensors["blocks.0.mlp.fc1" + CODES].dtype == torch.uint8
    assert tensors["blocks.0.mlp.fc1" + SCALES].dtype == torch.float32
    assert adapted.network.blocks[0].mlp.fc1.bias.dtype == torch.bfloat16
    with adapted.using({**fixed}):
        assert adapted.features(IMAGES).isfinite().all()
    adapted.load(arrays)
    with pytest.raises(ValueError, match="load the codes and scales"):
        adapted.features(IMAGES)


def test_no_full_weight_is_kept_and_none_is_saved_for_backward():
    adapter = Loftq(2)
    arrays, fixed = adapter.initial_and_fixed(BACKBONE, draw)
    sizes = {tuple(sorted(shape)) for shape in LINEARS.values()}
    kept = {}
    for name, chosen, loaded in (("loftq", adapter, {**arrays, **fixed}), ("lora", Lora(2), arrays)):
        adapted, shapes = model(chosen), []
        leaves = adapted.load(loaded, list(arrays))
        with torch.autograd.graph.saved_tensors_hooks(lambda t, to=shapes: to.append(t.shape) or t, lambda t: t):
            features = adapted.features(IMAGES)
        torch.autograd.grad(features.sum(), list(leaves.values()))
        shapes += [p.shape for p in adapted.network.parameters()]
        kept[name] = [s for s in shapes if tuple(sorted(s)) in sizes]
    assert kept["loftq"] == []
    assert len(kept["lora"]) > len(LINEARS)


def resident(adapted):
    """Bytes of a model's parameters, buffers and loaded arrays, each storage once."""
    tensors = [*adapted.network.parameters(), *adapted.network.buffers(), *adapted.arrays.values()]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


@pytest.mark.parametrize(
    ("settings", "rank", "most"),
    [(Model(), 4, 0.3), (Model(backbone="vit_small_patch16_224", weights="random", image_size=224), 16, 0.25)],
)
@pytest.mark.parametrize(("bits", "size"), [(4, 4.5), (2, 2.5)])
def test_a_resident_model_is_smaller_by_the_bits_that_its_weights_lose(settings, rank, most, bits, size):
    """Beside LoRA of the same rank: 4 bytes of a weight become `size` bits."""
    backbone = describe_backbone(settings)
    pair = Lora(rank).initial(backbone, draw)
    lora = AdaptedModel(load_backbone(settings), Lora(rank))
    lora.load(pair)
    parts = {name: quantized(backbone.weight(name), bits) for name in backbone.linears}
    codes = {name + ending: a for name, both in parts.items() for ending, a in zip((CODES, SCALES), both, strict=True)}
    ours = AdaptedModel(load_backbone(settings), Loftq(rank, bits=bits))
    ours.load({**pair, **codes})
    weights = sum(out * width for out, width in backbone.linears.values())
    assert resident(lora) - resident(ours) == weights * (32 - size) / 8
    assert resident(ours) < most * resident(lora)
