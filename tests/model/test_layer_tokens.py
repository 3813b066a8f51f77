"""Tokens of layers against hooks on the blocks, for every kind of ViT that can be built without weights."""

from functools import cache, partial

import numpy as np
import pytest
import torch
from problems import close
from reference_features import features_of_tokens
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_relpos import VisionTransformerRelPos

from fcil.config import Config
from fcil.method import TOKENS, Tokens
from fcil.method.local import pooled_features
from fcil.model.adapted import AdaptedModel
from fcil.model.backbone import Model, describe_backbone, load_backbone
from fcil.model.layer_tokens import has_class_token, layer_tokens
from fcil.model.lora import Lora
from fcil.seeding import torch_generator

NEEDS_RESIZING = pytest.mark.skipif(
    not hasattr(VisionTransformerRelPos, "set_input_size"),
    reason="before timm 1.0.31 networks of relative positions have one size, and are refused",
)
SMALL = {"img_size": 24, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 0}
VITS = {
    "plain": partial(VisionTransformer, **SMALL),
    "registers": partial(VisionTransformer, **SMALL, reg_tokens=4),
    "registers, class token apart": partial(VisionTransformer, **SMALL, reg_tokens=4, no_embed_class=True),
    "pooled by the mean": partial(VisionTransformer, **SMALL, global_pool="avg"),
    "mean, norm before pooling": partial(VisionTransformer, **SMALL, global_pool="avg", fc_norm=False),
    "no class token": partial(VisionTransformer, **SMALL, global_pool="avg", class_token=False),
    "registers only": partial(VisionTransformer, **SMALL, global_pool="avg", class_token=False, reg_tokens=2),
    "norm before the blocks": partial(VisionTransformer, **SMALL, pre_norm=True, init_values=0.1),
    "distilled": partial(VisionTransformerDistilled, **SMALL),
    "beit": partial(Beit, **SMALL, use_shared_rel_pos_bias=True, use_abs_pos_emb=False, global_pool="token"),
    "beit, mean": partial(Beit, **SMALL, global_pool="avg", use_rel_pos_bias=True, init_values=0.1),
    "eva": partial(Eva, **SMALL, use_rot_pos_emb=True, global_pool="token"),
    "eva, mean": partial(Eva, **SMALL, use_rot_pos_emb=True, global_pool="avg", swiglu_mlp=True),
    "eva, registers": partial(Eva, **SMALL, global_pool="avg", class_token=False, num_reg_tokens=2),
    "eva, no prefix": partial(Eva, **SMALL, global_pool="avg", class_token=False),
    "relative positions": partial(VisionTransformerRelPos, **SMALL, class_token=True, global_pool="token"),
    "relative positions, no prefix": partial(VisionTransformerRelPos, **SMALL, fc_norm=True),
}
EMBEDDED = "embedded"
every_vit = pytest.mark.parametrize("name", [EMBEDDED, *VITS])


@cache
def network_of(name):
    if name == EMBEDDED:
        return load_backbone(Model())
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = VITS[name]()
        for parameter in network.parameters():  # norms too, so that one that is left out is noticed
            torch.nn.init.normal_(parameter, mean=1.0 if parameter.dim() == 1 else 0.0, std=0.2)
    return network.eval().requires_grad_(False)


def images_for(network, count=3):
    size = network.patch_embed.img_size
    return torch.randn(count, 3, *size, generator=torch_generator(0, "images", *size))


def outputs_of_blocks(network, images):
    """What every block puts out, after the network's last norm, (n, tokens, d)."""
    seen = []
    handles = [block.register_forward_hook(lambda module, given, out: seen.append(out)) for block in network.blocks]
    with torch.no_grad():
        network.forward_features(images)
        outputs = [network.norm(out).numpy() for out in seen]
    for handle in handles:
        handle.remove()
    return outputs


def expected(network, images, blocks):
    outputs, grid = outputs_of_blocks(network, images), network.patch_embed.grid_size
    features = features_of_tokens(outputs, blocks, grid, network.num_prefix_tokens)
    tokens = torch.tensor(features).view(len(images), -1, outputs[0].shape[2])
    after_pooling = getattr(network, "fc_norm", torch.nn.Identity())
    return after_pooling(tokens.float()).flatten(1).numpy()


def computed(network, images, blocks):
    with torch.no_grad():
        return layer_tokens(network, images, Tokens(tuple(blocks)))


def kinds(network):
    """Class token where there is one, the mean, grids that divide the patches and one that does not, all patches."""
    side = network.patch_embed.grid_size[0]
    return ([0] if has_class_token(network) else []) + [1, 2, 3, side]


@every_vit
def test_they_are_the_blocks_outputs_behind_the_last_norm_pooled_over_cells(name):
    network = network_of(name)
    images = images_for(network)
    depth = len(network.blocks)
    blocks = [(layer, side) for layer in (1, depth, 2) for side in kinds(network)]  # not in the order of the layers
    got = computed(network, images, blocks)
    want = expected(network, images, blocks)
    assert got.shape == want.shape
    close(got.numpy(), want, 2e-5)
    widths = [network.embed_dim * (side * side or 1) for _, side in blocks]
    assert Tokens(tuple(blocks)).sizes == tuple(width // network.embed_dim for width in widths)
    assert got.shape[1] == sum(widths)


@every_vit
def test_only_a_class_token_counts_as_one(name):
    without = ("no class token", "registers only", "eva, registers", "eva, no prefix", "relative positions, no prefix")
    assert has_class_token(network_of(name)) == (name not in without)


@pytest.mark.parametrize(
    "name",
    [EMBEDDED, "plain", "registers", "registers, class token apart", "norm before the blocks", "beit", "eva",
     "relative positions"],
)  # fmt: skip
def test_the_class_token_of_the_last_layer_is_the_networks_own_feature_bit_for_bit(name):
    network = network_of(name)
    images = images_for(network)
    with torch.no_grad():
        own = pooled_features(network, images)
    np.testing.assert_array_equal(computed(network, images, [(len(network.blocks), 0)]).numpy(), own.numpy())


@pytest.mark.parametrize(
    "name", ["pooled by the mean", "mean, norm before pooling", "no class token", "registers only", "eva, no prefix"]
)
def test_the_mean_of_the_last_layer_is_the_own_feature_of_a_network_that_pools_by_the_mean(name):
    network = network_of(name)
    images = images_for(network)
    with torch.no_grad():
        own = pooled_features(network, images)
    close(computed(network, images, [(len(network.blocks), 1)]).numpy(), own.numpy(), 1e-5)


@pytest.mark.parametrize("layers", [(1,), (2,), (2, 1), (1, 3)])
def test_every_block_up_to_the_last_named_layer_runs_once_and_those_behind_it_do_not(layers):
    network, calls = network_of("plain"), []
    handles = [
        block.register_forward_hook(lambda *given, layer=layer: calls.append(layer))
        for layer, block in enumerate(network.blocks, 1)
    ]
    computed(network, images_for(network), [(layer, side) for layer in layers for side in (0, 2)])
    for handle in handles:
        handle.remove()
    assert calls == list(range(1, max(layers) + 1))


def test_a_batch_does_not_matter():
    network = network_of("plain")
    images, blocks = images_for(network, 5), [(1, 2), (3, 0)]
    alone = torch.cat([computed(network, image[None], blocks) for image in images])
    close(computed(network, images, blocks).numpy(), alone.numpy(), 1e-5)


# ---- in the resident model -------------------------------------------------------------------------------------------


def fresh(name, adapter=None, precision="fp32"):
    network_of.cache_clear()
    network = network_of(name)
    network_of.cache_clear()  # the resident model changes its network
    return AdaptedModel(network, adapter, "cpu", precision)


def features(model, images):
    with torch.no_grad():
        return model.features(images)


def test_the_array_chooses_the_features_and_its_absence_the_networks_own():
    model = fresh("plain")
    images, tokens = images_for(model.network), Tokens(((1, 2), (3, 0)))
    own = features(model, images)
    model.load({TOKENS: tokens.array()})
    named = features(model, images)
    np.testing.assert_array_equal(named.numpy(), computed(model.network, images, tokens.blocks).numpy())
    with model.using({}):
        np.testing.assert_array_equal(features(model, images).numpy(), own.numpy())
    np.testing.assert_array_equal(features(model, images).numpy(), named.numpy())
    with model.using({TOKENS: Tokens(((2, 1),)).array()}):
        assert features(model, images).shape == (3, 32)
    np.testing.assert_array_equal(features(model, images).numpy(), named.numpy())
    model.load({})
    np.testing.assert_array_equal(features(model, images).numpy(), own.numpy())


def test_under_lora_the_tokens_are_those_of_the_adapted_blocks():
    adapter = Lora(rank=2)
    model = fresh("plain", adapter)
    gen = torch_generator(0, "pairs")
    shapes = {f"{n}.lora_{f}": s for n, m in model.network.named_modules() if hasattr(m, "lora_A")
              for f, s in (("A", (2, m.weight.shape[1])), ("B", (m.weight.shape[0], 2)))}  # fmt: skip
    assert shapes
    pairs = {name: 0.3 * torch.randn(shape, generator=gen).numpy() for name, shape in shapes.items()}
    images, tokens = images_for(model.network), Tokens(((1, 2), (3, 0), (2, 1)))
    model.load({TOKENS: tokens.array()})
    frozen = features(model, images)
    model.load({**pairs, TOKENS: tokens.array()})
    adapted = features(model, images)
    assert (adapted - frozen).abs().max() > 0.1
    close(adapted.numpy(), expected(model.network, images, tokens.blocks), 2e-5)  # hooks see the loaded pairs
    model.load({**{n: a for n, a in pairs.items() if n.startswith("blocks.2.")}, TOKENS: tokens.array()})
    only_last = features(model, images)
    np.testing.assert_array_equal(only_last[:, :128].numpy(), frozen[:, :128].numpy())
    np.testing.assert_array_equal(only_last[:, 160:].numpy(), frozen[:, 160:].numpy())
    assert (only_last[:, 128:160] - frozen[:, 128:160]).abs().max() > 0.01


@pytest.mark.parametrize("name", ["plain", "no class token"])
def test_in_half_precision_they_are_float32_numbers_near_those_of_full_precision(name):
    blocks = tuple((layer, side) for layer in (1, 3) for side in (1, 2, 3))
    model, half = fresh(name), fresh(name, precision="bf16")
    images = images_for(model.network)
    for each in (model, half):
        each.load({TOKENS: Tokens(blocks).array()})
    full, low = features(model, images), features(half, images)
    assert low.dtype == torch.float32
    distance = (low - full).norm() / full.norm()
    assert 0 < distance < 0.03


@pytest.mark.parametrize(
    "backbone",
    [
        "vit_tiny_patch16_224",
        "vit_small_patch16_dinov3",
        pytest.param("vit_relpos_small_patch16_224", marks=NEEDS_RESIZING),
    ],
)
def test_the_description_of_a_timm_backbone_says_what_layers_it_has(backbone):
    described = describe_backbone(Model(backbone=backbone, weights="random", image_size=32))
    assert described.layer_tokens
    assert described.grid == (2, 2)
    assert described.blocks == 12
    assert described.class_token == ("relpos" not in backbone)


def test_the_embedded_backbone_has_four_layers_of_eight_by_eight_patches():
    described = describe_backbone(Config().model)
    assert (described.blocks, described.class_token, described.layer_tokens) == (4, True, True)
    assert described.grid == tuple(network_of(EMBEDDED).patch_embed.grid_size)
