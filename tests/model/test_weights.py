"""Weights from a file: every format gives the network that it was written from, and nothing but arrays is read."""

import pickle
import zipfile

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from fcil.errors import ConfigError
from fcil.model import backbone
from fcil.model.backbone import Model, describe_backbone, load_backbone, weights_left_out, weights_sha256
from fcil.model.weights import load_weights

SIZE = 32
NAME = "test_vit"  # timm's own tiny one: 6 blocks of width 64, patch 16


def network(seed=0, classes=0, size=SIZE, depth=2, patch=8):
    """A random ViT, far enough from timm's near-zero start for every array to count."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        built = VisionTransformer(
            img_size=size, patch_size=patch, embed_dim=24, depth=depth, num_heads=2, num_classes=classes
        )
        for weight in built.parameters():
            torch.nn.init.normal_(weight, std=0.2)
    return built.eval()


def images(size=SIZE):
    return torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, size, size)).astype(np.float32))


@torch.no_grad()
def features(built, size=SIZE):
    return built.forward_head(built.forward_features(images(size)), pre_logits=True)


def to_jax(built, prefix=""):
    """The inverse of timm's reader, from the layout of google-research/vision_transformer."""
    state = {name: a.detach().numpy() for name, a in built.state_dict().items()}
    width, heads = built.embed_dim, built.blocks[0].attn.num_heads
    out = {
        "cls": state["cls_token"],
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": np.zeros((width, 5), np.float32),
        "head/bias": np.zeros(5, np.float32),
    }
    for i in range(len(built.blocks)):
        ours, theirs = f"blocks.{i}", f"Transformer/encoderblock_{i}"
        attention = f"{theirs}/MultiHeadDotProductAttention_1"
        for part, norm in (("LayerNorm_0", "norm1"), ("LayerNorm_2", "norm2")):
            out[f"{theirs}/{part}/scale"] = state[f"{ours}.{norm}.weight"]
            out[f"{theirs}/{part}/bias"] = state[f"{ours}.{norm}.bias"]
        weights, biases = np.split(state[f"{ours}.attn.qkv.weight"], 3), np.split(state[f"{ours}.attn.qkv.bias"], 3)
        for part, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            out[f"{attention}/{part}/kernel"] = weight.T.reshape(width, heads, -1)
            out[f"{attention}/{part}/bias"] = bias.reshape(heads, -1)
        out[f"{attention}/out/kernel"] = state[f"{ours}.attn.proj.weight"].T.reshape(heads, -1, width)
        out[f"{attention}/out/bias"] = state[f"{ours}.attn.proj.bias"]
        for layer in (1, 2):
            out[f"{theirs}/MlpBlock_3/Dense_{layer - 1}/kernel"] = state[f"{ours}.mlp.fc{layer}.weight"].T
            out[f"{theirs}/MlpBlock_3/Dense_{layer - 1}/bias"] = state[f"{ours}.mlp.fc{layer}.bias"]
    return {prefix + name: np.ascontiguousarray(a) for name, a in out.items()}


def numpied(state):
    return {name: a.numpy() for name, a in state.items()}


def zipless(obj, path):
    torch.save(obj, path, _use_new_zipfile_serialization=False)


WRITE = {
    "safetensors": lambda s, folder: save_file(s, folder / "w.safetensors"),
    "float16": lambda s, folder: save_file({n: a.half() for n, a in s.items()}, folder / "w.safetensors"),
    "pth": lambda s, folder: torch.save(s, folder / "w.pth"),
    "old pth": lambda s, folder: zipless(s, folder / "w.pth"),
    "pt, nested": lambda s, folder: torch.save({"model": {"state_dict": s}, "epoch": 3}, folder / "w.pt"),
    "wrapped": lambda s, folder: torch.save({"state_dict": {f"module.{n}": a for n, a in s.items()}}, folder / "w.pt"),
    "teacher": lambda s, folder: torch.save(
        {"student": {}, "teacher": {f"module.backbone.{n}": a for n, a in s.items()}
         | {"module.head.mlp.0.weight": torch.zeros(3)}}, folder / "w.pth",
    ),
    "npz": lambda s, folder: np.savez(folder / "w.npz", **numpied(s)),
}  # fmt: skip


def written(kind, built, folder):
    WRITE[kind](built.state_dict(), folder)
    return next(folder.iterdir())


@pytest.mark.parametrize("kind", WRITE)
def test_every_format_gives_the_network_that_it_was_written_from(kind, tmp_path):
    source, read = network(0), network(1)
    path = written(kind, source, tmp_path)
    assert not torch.equal(features(read), features(source))
    left_out = load_weights(read, path, NAME)
    if kind == "float16":
        torch.testing.assert_close(features(read), features(source), rtol=0.02, atol=0.02)
    else:
        assert torch.equal(features(read), features(source))
    assert left_out == (["module.head.mlp.0.weight"] if kind == "teacher" else [])


@pytest.mark.parametrize("prefix", ["", "opt/target/"])
def test_the_jax_layout_gives_the_network_that_it_was_written_from(prefix, tmp_path):
    source, read = network(0), network(1)
    np.savez(tmp_path / "w.npz", **to_jax(source, prefix))
    left_out = load_weights(read, tmp_path / "w.npz", NAME)
    torch.testing.assert_close(features(read), features(source), rtol=0, atol=0)
    assert left_out == [f"{prefix}head/kernel", f"{prefix}head/bias"]


def test_position_embeddings_of_another_grid_are_resampled_once_and_alike_from_all_formats(tmp_path):
    """As timm itself resamples a network that is given another input size."""
    source, read = network(0), [network(seed, size=48) for seed in (1, 2)]
    np.savez(tmp_path / "w.npz", **to_jax(source))
    torch.save(source.state_dict(), tmp_path / "w.pth")
    for built, suffix in zip(read, (".npz", ".pth"), strict=True):
        load_weights(built, tmp_path / f"w{suffix}", NAME)
    source.set_input_size(48)
    for built in read:
        torch.testing.assert_close(features(built, 48), features(source, 48), rtol=1e-5, atol=1e-5)


def test_a_classifier_is_passed_over_and_said_so(tmp_path):
    source, read = network(0, classes=7), network(1)
    path = written("pth", source, tmp_path)
    assert sorted(load_weights(read, path, NAME)) == ["head.bias", "head.weight"]
    assert torch.equal(features(read), features(source))


# ---- what does not fit -----------------------------------------------------------------------------------------------


def without(name):
    return lambda s: {n: a for n, a in s.items() if n != name}


MISFITS = {
    "missing": (without("blocks.1.norm1.bias"), ["1 missing", "blocks.1.norm1.bias"]),
    "extra": (lambda s: {**s, "blocks.9.odd": torch.zeros(2), "odd": torch.zeros(1)}, ["2 not expected", "odd"]),
    "shape": (lambda s: {**s, "norm.bias": torch.zeros(23)}, ["1 of another shape", "norm.bias (23,) for (24,)"]),
    "patch": (lambda s: {**s, "patch_embed.proj.weight": torch.zeros(24, 3, 16, 16)}, ["(24, 3, 16, 16)"]),
    "two": (lambda s: {f"{p}.{n}": a for p in ("left", "right") for n, a in s.items()}, ["left., right."]),
    "nothing": (lambda s: {"epoch": torch.zeros(1)}, ["missing", "not expected (epoch)"]),
}


@pytest.mark.parametrize("kind", MISFITS)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_misfits_name_arrays_and_counts_and_leave_the_network_alone(kind, device, tmp_path):
    change, words = MISFITS[kind]
    torch.save(change(network().state_dict()), tmp_path / "w.pth")
    with torch.device(device):
        read = VisionTransformer(img_size=SIZE, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=0)
    before = {name: a.clone() for name, a in read.state_dict().items()}
    with pytest.raises(ConfigError, match="does not fit test_vit") as caught:
        load_weights(read, tmp_path / "w.pth", NAME)
    assert all(word in str(caught.value) for word in words)
    assert device == "meta" or all(torch.equal(a, before[name]) for name, a in read.state_dict().items())


@pytest.mark.parametrize("change", [{"depth": 3}, {"patch": 4}])
def test_a_jax_file_of_another_network_is_refused(change, tmp_path):
    np.savez(tmp_path / "w.npz", **to_jax(network(**change)))
    with pytest.raises(ConfigError, match="does not fit"):
        load_weights(network(), tmp_path / "w.npz", NAME)


def test_a_jax_file_that_lacks_an_array_names_it(tmp_path):
    arrays = to_jax(network())
    del arrays["Transformer/encoderblock_1/MlpBlock_3/Dense_0/bias"]
    np.savez(tmp_path / "w.npz", **arrays)
    with pytest.raises(ConfigError, match="encoderblock_1/MlpBlock_3/Dense_0/bias"):
        load_weights(network(), tmp_path / "w.npz", NAME)


class Bomb:
    """Pickled, it writes a file where it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("write", [torch.save, zipless])
def test_code_in_a_file_is_not_run_and_is_one_clear_message(write, tmp_path):
    mark, path = tmp_path / "mark", tmp_path / "w.pth"
    write({"state_dict": network().state_dict(), "args": Bomb(mark)}, path)
    with pytest.raises(ConfigError, match="other objects than arrays") as caught:
        load_weights(network(), path, NAME)
    assert "\n" not in str(caught.value)
    assert not mark.exists()


def test_pickled_arrays_of_numpy_are_not_read(tmp_path):
    mark, path = tmp_path / "mark", tmp_path / "w.npz"
    np.savez(path, a=np.array([Bomb(mark)], object))
    with pytest.raises(ConfigError, match="other objects than arrays"):
        load_weights(network(), path, NAME)
    assert not mark.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".npz"])
@pytest.mark.parametrize("content", [b"", b"not a file of weights", pickle.dumps([1, 2])])
def test_damaged_files_are_one_clear_message(suffix, content, tmp_path):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=str(path)) as caught:
        load_weights(network(), path, NAME)
    assert "\n" not in str(caught.value)


def test_a_torn_archive_is_damaged(tmp_path):
    path = written("pth", network(), tmp_path)
    assert zipfile.is_zipfile(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ConfigError, match="damaged"):
        load_weights(network(), path, NAME)


# ---- by name ---------------------------------------------------------------------------------------------------------


def test_a_local_file_serves_a_timm_name_at_another_image_size_and_is_hashed(tmp_path):
    source = timm.create_model(NAME, pretrained=False)
    torch.save({"model": source.state_dict()}, tmp_path / "w.pth")
    settings = Model(backbone=NAME, weights=str(tmp_path / "w.pth"), image_size=64)
    read = load_backbone(settings)
    source.set_input_size(64)
    torch.testing.assert_close(features(read, 64), features(source.eval(), 64), rtol=1e-5, atol=1e-5)
    assert describe_backbone(settings).width == source.num_features
    assert sorted(weights_left_out(settings)) == ["head.bias", "head.weight"]
    first = weights_sha256(settings)
    torch.save({"model": {n: a + 1 for n, a in source.state_dict().items()}}, tmp_path / "w.pth")
    assert weights_sha256(settings) != first


def test_the_papers_backbone_is_known_by_name_without_a_download():
    settings = Model(backbone="vit_base_patch16_224.augreg_in21k", weights="random", image_size=224)
    described = describe_backbone(settings)
    assert described.width == 768
    assert described.linears["blocks.11.attn.qkv"] == (2304, 768)
    assert len(described.linears) == 48


@pytest.mark.parametrize("weights", ["none.pth", "folder", "file.txt"])
def test_a_path_that_is_no_file_of_weights(weights, tmp_path):
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(ConfigError, match=r"no such file, or none of \.safetensors"):
        load_backbone(Model(backbone=NAME, weights=str(tmp_path / weights), image_size=64))


@pytest.mark.parametrize(
    ("settings", "offered"),
    [({}, 'or "embedded"'), ({"backbone": NAME}, f'or "timm" to download those of {NAME}')],
)
def test_a_missing_file_is_answered_by_what_there_is_for_this_backbone(settings, offered):
    with pytest.raises(ConfigError) as refused:
        load_backbone(Model(weights="nowhere.safetensors", **settings))
    assert str(refused.value).endswith(offered)


def test_the_embedded_backbone_at_half_the_size_is_resampled_as_timm_does():
    half, whole = load_backbone(Model(image_size=16)), load_backbone(Model())
    whole.set_input_size(16)
    assert torch.equal(half.pos_embed, whole.pos_embed)


# ---- the weights of single layers ------------------------------------------------------------------------------------


@pytest.fixture
def loads(monkeypatch):
    """The networks that are loaded, as a list that grows."""
    done = []
    monkeypatch.setattr(backbone, "load_backbone", lambda settings: done.append(settings) or load_backbone(settings))
    return done


@pytest.mark.parametrize("settings", [Model(), Model(backbone=NAME, weights="random", image_size=64)], ids=repr)
def test_weights_of_layers_are_read_when_first_asked_for_and_let_go(settings, loads):
    described, network = describe_backbone(settings), load_backbone(settings)
    assert loads == []
    for name, shape in described.linears.items():
        weight = described.weight(name)
        assert (weight.shape, weight.dtype) == (shape, np.float32)
        np.testing.assert_array_equal(weight, network.get_submodule(name).weight.numpy())
    assert len(loads) == 1
    assert described.weight.ahead == {}
    first = next(iter(described.linears))
    np.testing.assert_array_equal(described.weight(first), network.get_submodule(first).weight.numpy())
    assert len(loads) == 2


def test_layers_that_were_passed_over_are_let_go_and_unknown_ones_are_an_error(loads):
    described = describe_backbone(Model())
    described.weight("blocks.3.attn.proj")
    assert list(described.weight.ahead) == ["blocks.3.mlp.fc1", "blocks.3.mlp.fc2"]
    with pytest.raises(KeyError, match=r"blocks\.9"):
        described.weight("blocks.9.mlp.fc1")


def test_weights_are_no_part_of_what_a_backbone_is():
    described = describe_backbone(Model())
    assert described == describe_backbone(Model())
    assert "weight" not in repr(described)
