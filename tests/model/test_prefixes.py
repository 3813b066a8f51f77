"""Prefixes beside keys and values: in all kinds of plain ViTs what an attention written out by hand gives."""

import numpy as np
import pytest
import torch
from small import BACKBONE, SIZE, WIDTH, tiny_vit
from test_prompts import KINDS, close, images, vit_of
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer

from fcil.errors import ConfigError
from fcil.method.local import pooled_features
from fcil.model.adapted import AdaptedModel
from fcil.model.coda_prompts import CodaPrompts
from fcil.model.lora import Lora
from fcil.model.prefixes import add_prefix_slots, prefixed
from fcil.seeding import generator, torch_generator

LENGTH = 3


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch_generator(seed, "prefixes"))


def by_hand(block, x, keys, values, projected):
    """One attention with prefixes of each image, from the module's own pieces."""
    attn = block.attn
    n, tokens, width = x.shape
    q, k, v = attn.qkv(x).chunk(3, -1)
    if projected:
        keys, values = attn.qkv(keys)[..., width : 2 * width], attn.qkv(values)[..., 2 * width :]
    heads = [t.view(n, -1, attn.num_heads, width // attn.num_heads) for t in (q, torch.cat([keys, k], 1), v)]
    q, k = attn.q_norm(heads[0]), attn.k_norm(heads[1])
    v = torch.cat([values, v], 1).view_as(k)
    weights = (torch.einsum("nihw,njhw->nhij", q, k) / np.sqrt(width // attn.num_heads)).softmax(-1)
    return attn.proj(torch.einsum("nhij,njhw->nihw", weights, v).reshape(n, tokens, width))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_vit_attends_to_prefixes_as_by_hand(kind):
    network = vit_of(kind).eval()
    add_prefix_slots(network)
    keys, values = drawn(4, LENGTH, WIDTH), drawn(4, LENGTH, WIDTH, seed=1)
    for fused in (True, False):
        bare = vit_of(kind).eval()
        for block in [*network.blocks, *bare.blocks]:
            block.attn.fused_attn = fused
        with torch.no_grad():
            plain = pooled_features(bare, images())
        for projected in (False, True):
            with torch.no_grad():
                with prefixed(network, {2: (keys, values)}, projected):
                    ours = pooled_features(network, images())
                tokens = network.norm_pre(network._pos_embed(network.patch_embed(images())))
                tokens, block = network.blocks[0](tokens), network.blocks[1]
                tokens = tokens + block.ls1(by_hand(block, block.norm1(tokens), keys, values, projected))
                tokens = tokens + block.ls2(block.mlp(block.norm2(tokens)))
                close(ours, network.forward_head(network.norm(tokens), pre_logits=True))
                assert (ours - plain).abs().max() > 1e-3
                assert torch.equal(pooled_features(network, images()), plain), "something stays behind"


def test_a_prefix_for_all_images_is_the_same_one_for_each_and_one_of_no_rows_is_none():
    network = tiny_vit().eval()
    add_prefix_slots(network)
    keys, values = drawn(LENGTH, WIDTH), drawn(LENGTH, WIDTH, seed=1)
    with torch.no_grad(), prefixed(network, {1: (keys, values)}, False):
        for_all = pooled_features(network, images())
    each = (keys.expand(4, -1, -1), values.expand(4, -1, -1))
    with torch.no_grad(), prefixed(network, {1: each}, False):
        assert torch.equal(for_all, pooled_features(network, images()))
    with torch.no_grad(), prefixed(network, {1: (keys[:0], values[:0])}, True):
        assert torch.equal(pooled_features(network, images()), pooled_features(tiny_vit().eval(), images()))


def test_prefixes_are_gone_after_an_error_and_slots_are_added_once():
    network = tiny_vit().eval()
    for _ in range(2):  # hooks are put in place once
        add_prefix_slots(network)
    keys, values = drawn(LENGTH, WIDTH), drawn(LENGTH, WIDTH, seed=1)
    with pytest.raises(RuntimeError), prefixed(network, {1: (keys, values)}, False):
        pooled_features(network, images()[:, :2])
    assert torch.equal(pooled_features(network, images()), pooled_features(tiny_vit().eval(), images()))


def test_another_adapter_may_put_its_own_layer_in_the_place_of_keys_and_values():
    network, keys, values = tiny_vit().eval(), drawn(LENGTH, WIDTH), drawn(LENGTH, WIDTH, seed=1)

    def features():
        with torch.no_grad(), prefixed(network, {1: (keys, values)}, False):
            return pooled_features(network, images())

    add_prefix_slots(network)
    before = features()
    Lora(2).install(network)
    with pytest.raises(RuntimeError, match="not the one that prefixes were put beside"):
        features()
    add_prefix_slots(network)
    close(features(), before)


def test_features_with_prompts_are_never_those_that_were_kept_of_the_frozen_network():
    adapted, asked = AdaptedModel(tiny_vit(), CodaPrompts(False, 4, 1)), []

    class Kept:
        def features(self, part, samples, tokens, images, compute):
            asked.append(part)
            return compute(images)

    adapted.cache, picture = Kept(), images()
    arrays = CodaPrompts(False, 4, 1).of_task(0, 1, {}, BACKBONE, generator(0, "task"))
    with torch.no_grad(), adapted.showing(picture, "test", np.arange(4)):
        adapted.load(arrays)
        adapted.features(picture)
        assert asked == []
        adapted.load({})
        adapted.features(picture)
        assert asked == ["test"]


def test_a_network_without_plain_keys_and_values_is_refused():
    network = VisionTransformer(
        img_size=SIZE, patch_size=8, embed_dim=WIDTH, depth=1, num_heads=2, num_classes=0, block_fn=ParallelScalingBlock
    )
    with pytest.raises(ConfigError, match="ParallelScalingBlock has no plain keys and values for prefixes"):
        add_prefix_slots(network)


def test_a_slot_may_take_all_arrays_of_a_pattern():
    """As many as tasks have added; those that are not loaded are gone, and others are refused."""
    adapted = AdaptedModel(tiny_vit(), CodaPrompts(False, 4, 1))
    ones = np.ones((2, 2, WIDTH), np.float32)
    pool = adapted.network.prefix_source
    adapted.load({"coda.keys.0": ones, "coda.keys.1": ones}, ["coda.keys.1"])
    assert {name: a.requires_grad for name, a in pool.arrays.items()} == {"coda.keys.0": False, "coda.keys.1": True}
    assert pool.arrays["coda.keys.1"] is adapted.arrays["coda.keys.1"]
    with adapted.using({}):
        assert pool.arrays == {}
    assert list(pool.arrays) == ["coda.keys.0", "coda.keys.1"]
    with pytest.raises(KeyError, match=r"codas\.keys\.0"):
        adapted.load({"codas.keys.0": ones})
