"""Full tuning: changes of every parameter of any ViT, against plain training of the weights themselves."""

import copy

import numpy as np
import pytest
import timm
import torch
from small import BACKBONE, LINEARS, WIDTH, dataset, model, phase, tiny_vit
from torch import nn

from fcil.battery.tiny import client_data
from fcil.client.settings import Train
from fcil.client.training import run_client
from fcil.errors import ConfigError
from fcil.merging.lowrank import Dense
from fcil.method import Backbone, Broadcast, head
from fcil.model.adapted import AdaptedModel
from fcil.model.full import Full
from fcil.model.weight_adapter import DELTA, PARAMETER, sides_of
from fcil.registry import build_method

DRAW = np.random.default_rng(0)
VITS = [
    "vit_tiny_patch16_224",
    "vit_small_patch14_reg4_dinov2.lvd142m",  # registers, layer scale
    "vit_relpos_small_patch16_224",  # a network of relative positions in every block, of linear layers
    "beit_base_patch16_224",  # tables of relative positions, two-dimensional and no linear layer; biases apart
]


def described(network):
    linears = {
        n: (m.out_features, m.in_features)
        for n, m in network.named_modules()
        if isinstance(m, nn.Linear) and n.startswith("blocks.")
    }
    return Backbone(
        network.num_features, linears, parameters={n: tuple(p.shape) for n, p in network.named_parameters()}
    )


def small_vit(name):
    return timm.create_model(
        name, num_classes=0, depth=2, embed_dim=64, num_heads=4, img_size=28 if "14" in name else 32
    )


def moved(arrays, seed=0):
    rng = np.random.default_rng(seed)
    return {n: rng.normal(0, 0.05, a.shape).astype(np.float32) for n, a in arrays.items()}


@pytest.mark.parametrize("name", VITS)
def test_every_parameter_of_a_vit_has_a_change_that_acts_like_a_change_of_the_weight(name):
    network = small_vit(name).eval()
    backbone, changed = described(network), copy.deepcopy(network)
    start = Full().initial(backbone, None)
    changes = moved(start)
    with torch.no_grad():
        for parameter, p in changed.named_parameters():
            layer = parameter.removesuffix(".weight")
            key = (
                layer + DELTA if layer in backbone.linears and parameter.endswith(".weight") else PARAMETER + parameter
            )
            p += torch.from_numpy(changes.pop(key))
    assert not changes  # every change belongs to a parameter
    side = 28 if "14" in name else 32
    images = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 3, side, side)).astype(np.float32))
    with torch.no_grad():
        plain, wanted = network.forward_head(network.forward_features(images), pre_logits=True), None
        wanted = changed.forward_head(changed.forward_features(images), pre_logits=True)
        resident = AdaptedModel(network, Full())
        resident.load(start)
        torch.testing.assert_close(resident.features(images), plain, rtol=0, atol=0)
        resident.load(moved(start))
        torch.testing.assert_close(resident.features(images), wanted, rtol=0, atol=0)
    assert (wanted - plain).abs().max() > 0.01


def test_linear_layers_are_told_from_tables_of_two_dimensions():
    backbone = described(small_vit("beit_base_patch16_224"))
    arrays = Full().initial(backbone, None)
    assert any(a.ndim == 2 for n, a in arrays.items() if n.startswith(PARAMETER))
    assert sides_of(arrays) == dict(backbone.linears)
    assert list(Full().changes(arrays)) == list(backbone.linears)


def test_changes_go_into_arrays_and_back():
    arrays = moved(Full().initial(BACKBONE, None))
    changes = Full().changes(arrays, every_parameter=True)
    assert changes.keys() == LINEARS.keys() | {n for n in arrays if n.startswith(PARAMETER)}
    back = Full().module_with({n: np.zeros_like(a) for n, a in arrays.items()}, {}, changes.items(), None)
    assert back.keys() == arrays.keys()
    assert all(np.array_equal(back[n], arrays[n]) for n in arrays)
    kept = Full().module_with(arrays, {}, [(n, Dense(np.zeros(s))) for n, s in LINEARS.items()], None)
    assert all(np.array_equal(kept[n], a) for n, a in arrays.items() if n.startswith(PARAMETER))
    assert not any(kept[n].any() for n in arrays if n.endswith(DELTA))


def test_a_backbone_that_is_not_described_is_refused():
    with pytest.raises(ConfigError, match="parameters"):
        Full().check(Backbone(8, {}))


@pytest.mark.parametrize(("optimizer", "decay"), [("adamw", 0.0), ("sgd", 0.0)])
def test_training_is_that_of_the_weights_themselves(optimizer, decay):
    """The definition: AdamW or SGD on all weights of the network and the head's rows, on the same batches."""
    method = build_method("fedavg", {"adapter": "full"})
    train = Train(epochs=2, batch=8, lr=1e-2, optimizer=optimizer, weight_decay=decay)
    images = dataset()
    data, first = client_data(images, np.flatnonzero(images.train.labels < 2)), phase()
    sent = method.broadcast(method.begin(method.init(BACKBONE, 4, 0), first, BACKBONE), first)
    resident = model(Full())
    update = run_client(method, resident, data, train, first, sent, 0, {})

    network = tiny_vit().eval()
    weight, bias = (torch.tensor(sent.arrays[n], requires_grad=True) for n in (head.weight(0), head.bias(0)))
    every = [*network.parameters(), weight, bias]
    step = (
        torch.optim.AdamW(every, lr=1e-2, weight_decay=0) if optimizer == "adamw" else torch.optim.SGD(every, lr=1e-2)
    )
    order, views = first.generator("order", 0), first.generator("augmentation", 0)
    for _ in range(2):
        for batch, labels, _ in data.batches(8, order.permutation(len(data)), views):
            features = network.forward_head(network.forward_features(batch), pre_logits=True)
            loss = nn.functional.cross_entropy(features @ weight.T + bias, labels)
            step.zero_grad()
            loss.backward()
            step.step()
    start = dict(tiny_vit().named_parameters())
    for name, parameter in network.named_parameters():
        layer = name.removesuffix(".weight")
        key = layer + DELTA if layer in LINEARS and name.endswith("weight") else PARAMETER + name
        wanted, ours = (parameter - start[name]).detach().numpy(), update.arrays[key]
        if name.endswith("qkv.bias"):  # a key's bias has no gradient but rounding, which AdamW makes steps of
            wanted, ours = np.delete(wanted, np.s_[WIDTH : 2 * WIDTH]), np.delete(ours, np.s_[WIDTH : 2 * WIDTH])
        assert np.abs(wanted).max() > 0
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=2e-3 if optimizer == "adamw" else 2e-6)
    np.testing.assert_allclose(update.arrays[head.weight(0)], weight.detach().numpy(), atol=2e-3)


def test_in_half_precision_small_changes_are_summed_before_they_are_rounded():
    resident = model(Full(), "bf16")
    arrays = {n: np.full(a.shape, 1e-4, np.float32) for n, a in Full().initial(BACKBONE, None).items()}
    resident.load(arrays)
    layer = resident.network.get_submodule("blocks.0.attn.qkv")
    assert layer.weight.dtype == torch.float32
    resident.load({})
    assert layer.weight.dtype == torch.bfloat16


def test_a_broadcast_and_an_update_carry_the_whole_model():
    method = build_method("fedavg", {"adapter": "full"})
    sent = method.broadcast(method.begin(method.init(BACKBONE, 4, 0), phase(), BACKBONE), phase())
    floats = sum(a.size for n, a in sent.arrays.items() if not n.startswith("head."))
    assert floats == sum(p.numel() for p in tiny_vit().parameters())
    assert isinstance(sent, Broadcast)
