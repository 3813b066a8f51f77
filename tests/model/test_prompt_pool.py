"""L2P's pool: features and choices against the literal ones, and what has a gradient."""

import numpy as np
import pytest
import reference_pools
import torch
from small import BACKBONE, WIDTH, model, tiny_vit
from test_prompts import KINDS, close, images, vit_of

from fcil.errors import ConfigError
from fcil.method import Backbone
from fcil.method.local import pooled_features
from fcil.model.adapted import AdaptedModel
from fcil.model.prompt_pool import CHOSEN, COSINES, KEYS, PROMPTS, PromptPool
from fcil.seeding import generator

POOL = PromptPool(size=6, length=2, top=3)


def draw(purpose):
    return generator(0, purpose)


def test_features_and_cosines_are_the_literal_ones():
    network, arrays = tiny_vit().double().eval(), POOL.initial(BACKBONE, draw)
    for name, (slot, attribute) in POOL.install(network).items():
        setattr(slot, attribute, torch.tensor(arrays[name]).double())
    weights = {name: w.detach() for name, w in network.state_dict().items()}
    keys, prompts = (torch.tensor(arrays[name]).double() for name in (KEYS, PROMPTS))
    with torch.no_grad():
        ours, further = POOL.features(network, images().double())
        for i, image in enumerate(images().double()):
            feature, cosines = reference_pools.l2p(image, weights, keys, prompts, 3, 2, 2, 8)
            close(ours[i], feature, 1e-6)  # queries are float32
            close(further[COSINES][i].double(), torch.stack(cosines), 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_vit_can_have_a_pool_and_without_arrays_gives_its_own_features(kind):
    adapted = AdaptedModel(vit_of(kind), POOL)
    adapted.load(POOL.initial(BACKBONE, draw))
    with torch.no_grad():
        features, further = adapted.outputs(images())
        alone, own = adapted.outputs(images()[1:2])
        close(alone, features[1:2])
        assert torch.equal(own[CHOSEN], further[CHOSEN][1:2])
        adapted.load({})
        plain = pooled_features(vit_of(kind).eval(), images())
        close(adapted.features(images()), plain)
        assert (features - plain).abs().max() > 1e-3


def test_the_length_of_a_key_and_prompts_that_nobody_chose_do_not_matter():
    adapted, arrays = model(POOL), POOL.initial(BACKBONE, draw)
    leaves = adapted.load(arrays, list(arrays))
    features, further = adapted.outputs(images()[:1])
    (features.square().sum() + further[COSINES].sum()).backward()
    chosen = set(further[CHOSEN].flatten().tolist())
    assert 0 < len(chosen) < POOL.size
    for name in (KEYS, PROMPTS):
        assert {i for i, g in enumerate(leaves[name].grad) if g.any()} == chosen
    adapted.load({**arrays, KEYS: 7 * arrays[KEYS]})
    close(adapted.features(images()[:1]), features)


def test_sizes_are_those_of_the_paper():
    arrays = PromptPool(10, 5, 5).initial(Backbone(768, {}, 12, (16, 16)), draw)
    assert {name: a.size for name, a in arrays.items()} == {KEYS: 7680, PROMPTS: 38400}
    assert all(np.abs(a).max() <= 1 and a.dtype == np.float32 for a in arrays.values())
    with pytest.raises(ConfigError, match=r"method\.top = 5: the pool has 4 prompts"):
        PromptPool(4, 2, 5).check(BACKBONE)
    with pytest.raises(ConfigError, match="plain ViT"):
        POOL.check(Backbone(WIDTH, {}, 2, (8, 8), no_prompts="no"))
