"""SNELL and SNELLA as adapters: settings, starts, slots, counts, and the changes that a server makes again."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reference_kernels as reference
import torch
from small import BACKBONE, LINEARS, SIZE, tiny_vit
from small import model as tiny_model

from fcil.arrays import names_matching, shapes
from fcil.errors import ConfigError
from fcil.method import Backbone
from fcil.model.kernel_form import Form
from fcil.model.kernel_layer import KernelLinear
from fcil.model.kernelised import parts_of
from fcil.model.lora import Lora
from fcil.model.snell import Snell, Snella
from fcil.model.weight_adapter import sides_of
from fcil.options import describe, parse
from fcil.seeding import generator, torch_generator

ROOT = Path(__file__).resolve().parent.parent.parent
ADAPTERS = [Snell(4, 0.5), Snell(4, 0.0), Snell(6, 0.5, "paper"), Snella(4, 0.8), Snella(2, 0.5, 0.5, "paper"),
            Snella(4, competition="none")]  # fmt: skip
WIDE = Backbone(96, {"blocks.0.attn.qkv": (288, 96), "blocks.0.mlp.fc1": (192, 96)})


def start(adapter, backbone=BACKBONE):
    return adapter.initial(backbone, lambda purpose: generator(3, purpose))


def matrices(adapter, arrays):
    return {layer: change.a for layer, change in adapter.changes(arrays).items()}


@pytest.mark.parametrize("adapter", ADAPTERS, ids=str)
def test_a_part_costs_the_numbers_of_a_lora_pair_and_a_few(adapter):
    """q (in + out) + 4 of SNELLA, + 1 of SNELL."""
    arrays = start(adapter)
    for layer, (out, inputs) in LINEARS.items():
        own = sum(a.size for name, a in arrays.items() if name.startswith(layer + "."))
        parts = 3 if layer.endswith("qkv") else 1
        assert own == parts * (adapter.rank * (inputs + out // parts) + (4 if isinstance(adapter, Snella) else 1))
    assert all(a.dtype == np.float32 for a in arrays.values())
    trained = names_matching(arrays, adapter.trains)
    assert set(arrays) - set(trained) == {f"{layer}.sparsity" for layer in LINEARS}


@pytest.mark.parametrize("adapter", [Snell(32), Snella(32)], ids=str)
def test_the_start_is_kaiming_uniform_and_the_changes_are_as_large_as_published(adapter):
    arrays = start(adapter, WIDE)
    for layer, out, inputs in (("blocks.0.attn.qkv", 96, 96), ("blocks.0.mlp.fc1", 192, 96)):
        for name, n in (("kernel_in", inputs), ("kernel_out", out)):
            points, bound = arrays[f"{layer}.{name}"], 1 / np.sqrt(n * 16)
            theirs = torch.nn.init.kaiming_uniform_(torch.empty(2, n, 16), 5**0.5, generator=torch_generator(0))
            assert 0.99 * bound < np.abs(points).max() <= bound
            assert np.isclose(points.std(), theirs.std(), rtol=0.03)
        if isinstance(adapter, Snella):
            assert (arrays[f"{layer}.kernel_mix"] == [1, 1, 0]).all()
        assert (arrays[f"{layer}.sparsity"] == np.float32(adapter.first_sparsity)).all()


def test_mean_changes_at_the_start_are_those_of_the_genuine_modules():
    """9e-4 (kernel alone), 5e-3 (mix-K), 3e-5 (mix-K squared) at q = 32 with 256 inputs and 192 outputs."""
    backbone = Backbone(256, {"blocks.0.mlp.fc1": (192, 256)})
    for adapter, wanted in ((Snell(32, 0.0), 9e-4), (Snella(32, competition="none"), 5e-3), (Snella(32), 3e-5)):
        (change,) = matrices(adapter, start(adapter, backbone)).values()
        assert 0.75 * wanted < np.abs(change).mean() < 1.25 * wanted


@pytest.mark.parametrize("adapter", ADAPTERS, ids=str)
def test_slots_are_those_of_the_arrays_and_of_merged_models(adapter):
    network = tiny_vit()
    slots = adapter.install(network)
    assert start(adapter).keys() <= slots.keys()
    assert Lora(2).initial(BACKBONE, lambda _: generator(0)).keys() <= slots.keys()
    assert {f"{layer}.delta" for layer in LINEARS} <= slots.keys()
    for layer in LINEARS:
        module = network.get_submodule(layer)
        assert isinstance(module, KernelLinear)
        assert module.form == adapter.form
    Lora(2).install(network)
    assert adapter.install(network).keys() == slots.keys()  # whatever was installed before


@pytest.mark.parametrize("adapter", ADAPTERS, ids=str)
def test_the_model_is_the_backbone_with_the_changes_in_its_weights(adapter):
    arrays = start(adapter)
    changes = matrices(adapter, arrays)
    assert len(changes) == len(LINEARS)
    network = tiny_vit().eval()
    for layer, (out, inputs) in LINEARS.items():
        assert changes[layer].shape == (out, inputs)
        assert changes[layer].dtype == np.float32
        assert changes[layer].any()
        network.get_submodule(layer).weight.data += torch.tensor(changes[layer])
    adapted = tiny_model(adapter)
    images = torch.randn(3, 3, SIZE, SIZE, generator=torch_generator(0))
    with torch.no_grad():
        frozen = adapted.features(images)
        adapted.load(arrays)
        result = adapted.features(images)
        wanted = network.forward_head(network.forward_features(images), pre_logits=True)
    torch.testing.assert_close(result, wanted, rtol=1e-4, atol=1e-5)
    assert not torch.equal(result, frozen)


@pytest.mark.parametrize("adapter", ADAPTERS, ids=str)
def test_changes_are_the_literal_ones_part_by_part(adapter):
    arrays = start(adapter)
    rng = generator(4, "sparsity")
    arrays = {
        n: rng.uniform(0.1, 0.9, a.shape).astype("f4") if n.endswith(".sparsity") else a for n, a in arrays.items()
    }
    for layer, change in matrices(adapter, arrays).items():
        p, q, s = (arrays[f"{layer}.{name}"].astype(float) for name in ("kernel_in", "kernel_out", "sparsity"))
        mix = arrays.get(f"{layer}.kernel_mix")
        wanted = reference.weight_change(adapter.form.kernel, adapter.form.competition, p, q, mix, s.tolist())
        np.testing.assert_allclose(change, wanted, rtol=1e-4, atol=2e-5 * np.abs(wanted).max())


def test_q_k_and_v_compete_each_for_itself():
    """Three parts of different sizes of entries: each keeps its own share."""
    arrays = dict(start(Snell(8, 0.75), WIDE))
    scale = np.array([1, 10, 100], np.float32)[:, None, None, None]
    for name in ("kernel_in", "kernel_out"):
        arrays[f"blocks.0.attn.qkv.{name}"] = arrays[f"blocks.0.attn.qkv.{name}"] * scale
    change = Snell(8, 0.75).changes(arrays)["blocks.0.attn.qkv"].a
    kept = [np.count_nonzero(part) for part in change.reshape(3, 96, 96)]
    assert kept == [96 * 96 // 4] * 3
    assert (parts_of("blocks.0.attn.qkv"), parts_of("blocks.0.attn.proj"), parts_of("attn.qkv")) == (3, 1, 3)


def test_snell_without_sparsity_has_no_competition_and_snella_has():
    assert Snell(sparsity=0.0).form == Form("piecewise", "none")
    assert Snell(sparsity=0.1).form == Form("piecewise", "code")
    assert Snella(sparsity=0.0).form == Form("mix", "code")


@pytest.mark.parametrize("adapter", ADAPTERS, ids=str)
def test_sides_are_read_from_arrays_and_from_shapes(adapter):
    arrays = start(adapter)
    assert sides_of(arrays) == sides_of(shapes(arrays)) == LINEARS
    assert adapter.layers(BACKBONE) == LINEARS


def test_changes_need_all_of_a_layers_arrays():
    arrays = start(Snella(2))
    with pytest.raises(KeyError, match=r"attn\.proj\.sparsity"):
        Snella(2).changes({n: a for n, a in arrays.items() if n != "blocks.0.attn.proj.sparsity"})["blocks.0.attn.proj"]
    with pytest.raises(KeyError):
        Snella(2).changes(arrays)["blocks.9.attn.proj"]


@pytest.mark.parametrize("adapter", ADAPTERS, ids=str)
def test_what_fits_passes(adapter):
    adapter.check(BACKBONE)


@pytest.mark.parametrize(
    ("adapter", "told"),
    [
        (Snell(3), "multiple of 2"), (Snella(0), "multiple of 2"), (Snell(sparsity=1.0), "below 1"),
        (Snella(sparsity=1.0), "below 1"), (Snella(sparsity=0.2, sparsity_start=0.3), "not below the first"),
        (Snella(warmup=0.5, settled=0.5), "warmup"), (Snella(beta1=1.0), "beta1"),
        (Snell(targets=("blocks.*.conv",)), "no linear layer"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(adapter, told):
    with pytest.raises(ConfigError, match=told):
        adapter.check(BACKBONE)


def test_a_qkv_that_is_not_three_equal_parts_is_refused():
    with pytest.raises(ConfigError, match="q, k and v"):
        Snell(2).check(Backbone(8, {"blocks.0.attn.qkv": (20, 8)}))


def test_settings_are_parsed_from_text_and_described():
    assert parse(Snella, {"rank": 8, "sparsity": 0.3}, "adapter.{}".format) == Snella(8, 0.3)
    assert parse(Snell, {"competition": "paper"}, "adapter.{}".format) == Snell(competition="paper")
    with pytest.raises(ConfigError, match="competition"):
        parse(Snell, {"competition": "none"}, "adapter.{}".format)
    with pytest.raises(ConfigError, match="at most 1"):
        parse(Snella, {"sparsity": 1.5}, "adapter.{}".format)
    for adapter in (Snell, Snella):
        assert all(setting.option.help for setting in describe(adapter))


def test_declaring_an_adapter_imports_no_torch():
    code = "import sys, fcil.model.snell as s; s.Snella(8).trains; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
