"""Prompts: the forward pass against a literal one, over kinds of ViTs; what trains, and what is refused."""

import itertools

import numpy as np
import pytest
import reference_prompts
import timm
import torch
from small import BACKBONE, SIZE, WIDTH, model, tiny_vit, weight_sized_tensors
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_relpos import VisionTransformerRelPos

from fcil.engine.simulation import prepare
from fcil.errors import ConfigError
from fcil.method import Backbone, Task, head
from fcil.method.local import pooled_features
from fcil.model.adapted import AdaptedModel
from fcil.model.backbone import Model, describe_backbone
from fcil.model.prompt_forward import embed, run_blocks
from fcil.model.prompts import Prompts, prompt_name
from fcil.seeding import generator, torch_generator

LENGTH = 3
DEPTHS = ("shallow", "deep")


def images(n=4, seed=0):
    return torch.randn(n, 3, SIZE, SIZE, generator=torch_generator(seed, "images"))


def arrays_of(depth, seed=0):
    """Prompts far from zero, those of a block the same for both depths, and a head of two classes."""
    names = [prompt_name(block) for block in Prompts(depth, LENGTH).blocks(2)]
    prompts = {name: generator(seed, name).normal(size=(LENGTH, WIDTH)).astype("f4") for name in names}
    return {**prompts, **head.new_rows(Task(0, 0, 2), WIDTH, generator(seed, "head"))}


def loaded(depth, network=None, precision="fp32", **changes):
    adapted = AdaptedModel(network or tiny_vit(), Prompts(depth, LENGTH), "cpu", precision)
    adapted.load({**arrays_of(depth), **changes})
    return adapted


def close(left, right, tolerance=1e-5):
    torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


# ---- against the definition ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", DEPTHS)
def test_features_are_those_of_the_literal_forward_pass(depth):
    network, arrays = tiny_vit().double(), arrays_of(depth)
    adapter = Prompts(depth, LENGTH)
    for name, (slot, attribute) in adapter.install(network).items():
        setattr(slot, attribute, torch.tensor(arrays[name]).double())
    weights = {name: w.detach() for name, w in network.state_dict().items()}
    prompts = [torch.tensor(arrays[prompt_name(block)]).double() for block in adapter.blocks(2)]
    with torch.no_grad():
        ours = adapter.features(network, images().double())
        for image, feature in zip(images().double(), ours, strict=True):
            literal = getattr(reference_prompts, depth)
            theirs = literal(image, weights, prompts if depth == "deep" else prompts[0], 2, 2, 8)
            close(feature, theirs, 1e-9)
    close(loaded(depth).features(images()).double(), ours, 1e-5)


@pytest.mark.parametrize("depth", DEPTHS)
def test_without_prompts_it_is_the_backbones_own_feature(depth):
    adapted = loaded(depth)
    with_prompts = adapted.features(images())
    adapted.load({})
    plain = pooled_features(tiny_vit().eval(), images())
    close(adapted.features(images()), plain)
    assert (with_prompts - plain).abs().max() > 0.1


def test_deep_prompts_before_the_first_block_alone_are_shallow_ones_and_a_later_one_matters():
    shallow, deep = arrays_of("shallow"), arrays_of("deep")
    only_first = {name: a for name, a in deep.items() if name != "prompts.1"}
    one, two = model(Prompts("shallow", LENGTH)), model(Prompts("deep", LENGTH))
    one.load(shallow)
    two.load(only_first)
    close(one.features(images()), two.features(images()))
    two.load(deep)
    assert (one.features(images()) - two.features(images())).abs().max() > 0.1


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_order_of_prompts_does_not_matter(depth):
    """They have no positions, and attention asks for none."""
    turned = {n: a[::-1].copy() for n, a in arrays_of(depth).items() if n.startswith("prompts.")}
    close(loaded(depth).features(images()), loaded(depth, **turned).features(images()))


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_prompt_twice_as_often_is_not_the_same_prompt(depth):
    """Softmax counts tokens: the length matters beyond which vectors there are."""
    twice = {n: np.concatenate([a, a]) for n, a in arrays_of(depth).items() if n.startswith("prompts.")}
    change = loaded(depth).features(images()) - loaded(depth, **twice).features(images())
    assert change.abs().max() > 0.01


@pytest.mark.parametrize("depth", DEPTHS)
def test_an_images_feature_does_not_depend_on_its_neighbours(depth):
    adapted = loaded(depth)
    close(adapted.features(images(8))[3:4], adapted.features(images(8)[3:4]))


def test_prompts_of_each_image_are_a_batch_of_prompts():
    """What methods need that choose prompts by image (L2P)."""
    network, many = tiny_vit().eval(), torch.randn(4, LENGTH, WIDTH, generator=torch_generator(1))
    tokens = embed(network, images())
    together = run_blocks(network, tokens, [many])
    assert together.shape == (4, 5, WIDTH)
    for i in range(4):
        close(together[i : i + 1], run_blocks(network, tokens[i : i + 1], [many[i]]))


# ---- kinds of networks -----------------------------------------------------------------------------------------------

KINDS = {
    "registers": {"reg_tokens": 2},
    "registers, positions of patches only": {"reg_tokens": 2, "no_embed_class": True},
    "no class token": {"class_token": False, "global_pool": "avg"},
    "mean over patches": {"global_pool": "avg"},
    "mean over prefix and patches": {"global_pool": "avg", "pool_include_prefix": True},
    "attention pooling": {"class_token": False, "global_pool": "map"},
    "norm before the blocks": {"pre_norm": True},
    "norm after pooling": {"fc_norm": True},
    "no last norm": {"final_norm": False},
    "layer scale": {"init_values": 0.3},
    "no positions": {"pos_embed": "none"},
    "no positions, no class token": {"pos_embed": "none", "class_token": False, "global_pool": "avg"},
    "any size of image": {"dynamic_img_size": True},
    "normed queries": {"qk_norm": True},
}


def vit_of(kind, **more):
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(1)
        network = VisionTransformer(
            img_size=SIZE, patch_size=8, embed_dim=WIDTH, depth=2, num_heads=2, num_classes=0, **KINDS[kind], **more
        )
        for weight in network.parameters():  # positions, registers and class token too: timm's start is hardly there
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=0.2)
    return network


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_prompts_enter_behind_the_prefix_and_leave_before_pooling(kind, depth):
    adapted, arrays = loaded(depth, vit_of(kind)), arrays_of(depth)
    network = vit_of(kind).eval()
    prefix = network.num_prefix_tokens
    with torch.no_grad():
        plain = network._pos_embed(network.patch_embed(images()))
        tokens = network.norm_pre(plain)
        for block, inner in enumerate(network.blocks):
            name = prompt_name(block)
            if name in arrays:
                prompts = torch.tensor(arrays[name]).expand(4, -1, -1)
                middle = LENGTH if block else 0
                tokens = torch.cat([tokens[:, :prefix], prompts, tokens[:, prefix + middle :]], 1)
            tokens = inner(tokens)
        own = torch.cat([tokens[:, :prefix], tokens[:, prefix + LENGTH :]], 1)
        assert own.shape == plain.shape
        features = network.forward_head(network.norm(own), pre_logits=True)
        close(adapted.features(images()), features)
        adapted.load({})
        close(adapted.features(images()), pooled_features(network, images()))


@pytest.mark.parametrize("kind", ["no class token", "mean over patches"])
def test_a_mean_over_patches_is_not_one_over_prompts(kind):
    """The paper's public code takes the prompts into a MAE's mean; here they act on it by attention alone."""
    network = vit_of(kind)
    with torch.no_grad():
        for block in network.blocks:  # values of zero: nothing passes from token to token
            block.attn.proj.weight.zero_()
            block.attn.proj.bias.zero_()
    adapted = loaded("deep", network)
    with_prompts = adapted.features(images())
    adapted.load({})
    close(with_prompts, adapted.features(images()))


@pytest.mark.parametrize(
    "name", [n for n in timm.list_models(["test_vit*", "deit_tiny_distilled*"]) if n != "test_vit_relpos"]
)
def test_timms_own_vits_can_be_prompted(name):
    network = timm.create_model(name, pretrained=False, num_classes=0).eval()
    network.set_input_size((64, 64))
    adapter = Prompts("deep", 2)
    adapted = AdaptedModel(network, adapter)
    picture = torch.randn(2, 3, 64, 64, generator=torch_generator(0))
    with torch.no_grad():
        plain = adapted.features(picture)
        prompts = generator(0, "prompts").normal(size=(2, plain.shape[1])).astype("f4")
        adapted.load({prompt_name(b): prompts for b in range(len(network.blocks))})
        assert adapted.features(picture).shape == plain.shape
        assert not torch.equal(adapted.features(picture), plain)
    close(plain, pooled_features(network, picture))


# ---- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_only_prompts_and_head_get_gradients_and_no_tensor_is_as_large_as_a_weight(depth, precision):
    adapted, arrays = model(Prompts(depth, LENGTH), precision), arrays_of(depth)
    leaves = adapted.load(arrays, list(arrays))
    with weight_sized_tensors(adapted.network) as weight_sized:
        loss = adapted.logits(adapted.features(images(3))).square().sum()
    loss.backward()
    assert not weight_sized
    assert all(leaf.grad is not None and leaf.grad.abs().max() > 0 for leaf in leaves.values())
    assert all(w.grad is None and not w.requires_grad for w in adapted.network.parameters())


@pytest.mark.parametrize("depth", DEPTHS)
def test_gradients_are_differences(depth):
    adapter, network = Prompts(depth, LENGTH), tiny_vit().double().eval().requires_grad_(False)
    slots = adapter.install(network)
    picture = images(2).double()

    def features(*prompts):
        for (slot, attribute), prompt in zip(slots.values(), prompts, strict=True):
            setattr(slot, attribute, prompt)
        return adapter.features(network, picture)

    prompts = [torch.tensor(arrays_of(depth)[name]).double().requires_grad_() for name in slots]
    assert torch.autograd.gradcheck(features, prompts)


@pytest.mark.parametrize("depth", DEPTHS)
def test_half_precision_is_near_and_gives_float32(depth):
    exact, half = loaded(depth), loaded(depth, precision="bf16")
    assert half.features(images()).dtype == torch.float32
    close(half.features(images()), exact.features(images()), 0.1)


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_teacher_without_prompts_and_observers_see_their_tokens(depth):
    adapted, seen = loaded(depth), []
    with adapted.using({}), torch.no_grad():
        close(adapted.features(images()), pooled_features(tiny_vit().eval(), images()))
    with adapted.observed({"blocks.1.mlp.fc1": lambda x: seen.append(x.shape)}):
        adapted.features(images())
    assert seen == [(4, 5 + LENGTH, WIDTH)]


# ---- starts, and what is refused -------------------------------------------------------------------------------------


def test_the_start_is_uniform_as_in_the_papers_code_and_drawn_for_its_purpose():
    backbone, asked = Backbone(64, {}, 5, (16, 8)), []

    def draw(purpose):
        asked.append(purpose)
        return generator(0, purpose)

    arrays = Prompts("deep", 200).initial(backbone, draw)
    assert asked == ["prompts"]
    assert list(arrays) == [f"prompts.{block}" for block in range(5)]
    bound = np.sqrt(6 / (3 * 16 * 8 + 64))
    for a in arrays.values():
        assert (a.shape, a.dtype) == ((200, 64), np.float32)
        assert 0.98 * bound < np.abs(a).max() <= bound
        assert abs(a.std() - bound / np.sqrt(3)) < 0.02 * bound
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(arrays.values(), 2))
    assert list(Prompts("shallow", 2).initial(backbone, draw)) == ["prompts.0"]


def test_the_description_of_a_backbone_has_what_the_start_needs():
    described = describe_backbone(Model())
    assert (described.blocks, described.patch, described.width) == (4, (4, 4), 128)
    Prompts("deep", 1).check(described)


@pytest.mark.parametrize("backbone", [Backbone(8, {}), Backbone(8, {}, 2), Backbone(8, {}, 0, (8, 8))], ids=repr)
def test_a_backbone_without_blocks_or_patches_and_a_length_of_zero_are_refused(backbone):
    with pytest.raises(ConfigError, match="vision transformer"):
        Prompts("deep", 1).check(backbone)
    with pytest.raises(ConfigError, match=r"method\.length = 0"):
        Prompts("deep", 0).check(BACKBONE)


@pytest.mark.parametrize(
    ("kind", "more", "why"),
    [
        (Eva, {"use_rot_pos_emb": True}, "its blocks take more than the tokens"),
        (Eva, {}, "its blocks take more than the tokens"),
        (Beit, {}, "it has no _pos_embed, norm_pre"),
        (VisionTransformerRelPos, {}, "it has no _pos_embed, norm_pre"),
    ],
)
def test_a_network_whose_blocks_need_positions_is_refused(kind, more, why):
    network = kind(img_size=SIZE, patch_size=8, embed_dim=WIDTH, depth=1, num_heads=2, num_classes=0, **more).eval()
    with pytest.raises(ConfigError, match=f"{kind.__name__} cannot be prompted: {why}"):
        Prompts("deep", 2).install(network)


@pytest.mark.skipif(not timm.is_model("test_vit_relpos"), reason="comes with a later timm than the lowest")
def test_such_a_network_is_refused_before_a_run_begins(digits_config):
    config = digits_config({
        "model": {"backbone": "test_vit_relpos", "weights": "random", "image_size": 160}, "method": {"name": "vpt"}
    })  # fmt: skip
    with pytest.raises(ConfigError, match="backbone: VisionTransformerRelPos cannot be prompted: it has no"):
        prepare(config)


def test_a_network_whose_own_pass_does_more_than_its_pieces_is_refused():
    class Scaled(VisionTransformer):
        def forward_features(self, x):
            return 2 * super().forward_features(x)

    network = Scaled(img_size=SIZE, patch_size=8, embed_dim=WIDTH, depth=1, num_heads=2, num_classes=0).eval()
    with pytest.raises(ConfigError, match="Scaled cannot be prompted: its own forward pass is another"):
        Prompts("shallow", 2).install(network)


def test_prompts_of_a_block_that_has_none_are_unknown_arrays():
    adapted = model(Prompts("shallow", LENGTH))
    with pytest.raises(KeyError, match=r"prompts\.1"):
        adapted.load(arrays_of("deep"))
