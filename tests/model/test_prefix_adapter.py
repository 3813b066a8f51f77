"""DualPrompt's and CODA-Prompt's prefixes: features against the literal ones, slots, starts, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import reference_pools
import torch
from small import BACKBONE, WIDTH, model, tiny_vit
from test_prompts import close, images

from fcil.errors import ConfigError
from fcil.method import Backbone
from fcil.model.coda_prompts import ATTENTION, COMPONENTS, KEYS, CodaPrompts
from fcil.model.dual_prompts import EXPERT, GENERAL, KEY, DualPrompts
from fcil.model.prompt_pool import CHOSEN, COSINES
from fcil.seeding import generator

DUAL, CODA = DualPrompts(False, 2, 3), CodaPrompts(False, 6, 2)
VIT_B = Backbone(768, {}, 12, (16, 16))


def arrays_of(adapter, tasks=2, backbone=BACKBONE):
    """The arrays at the begin of the last of so many tasks."""
    arrays = adapter.initial(backbone, lambda purpose: generator(0, purpose))
    for task in range(tasks):
        arrays |= adapter.of_task(task, tasks, arrays, backbone, generator(0, f"task {task}"))
    return arrays


def features(adapter, arrays, training=()):
    """Features and further outputs in float64, and the weights for a literal pass."""
    network = tiny_vit().double().eval()
    ((source, attribute),) = adapter.install(network).values()
    tensors = {name: torch.tensor(a).double().requires_grad_(name in training) for name, a in arrays.items()}
    setattr(source, attribute, tensors)
    with torch.no_grad():
        out, further = adapter.features(network, images().double())
    literal = {name: a.detach() for name, a in tensors.items()}
    return out, further, literal, {name: w.detach() for name, w in network.state_dict().items()}


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("training", [None, 0])
def test_dual_prompts_are_the_literal_ones(training, projected):
    adapter = replace(DUAL, projected=projected, copies=False)
    trained = () if training is None else (f"{EXPERT}.{training}",)
    ours, further, arrays, weights = features(adapter, arrays_of(adapter), trained)
    general = {1: tuple(arrays[GENERAL][0])}
    slots = [[tuple(arrays[f"{EXPERT}.{t}"][0])] for t in range(2)]
    keys = [arrays[f"{KEY}.{t}"] for t in range(2)]
    for i, image in enumerate(images().double()):
        feature, cosine = reference_pools.dualprompt(
            image, weights, general, slots, keys, [2], training, 2, 2, 8, projected
        )
        close(ours[i], feature, 1e-6)
        close(further[COSINES][i].double(), cosine, 1e-5)
    if training is None:  # both slots are somebody's
        assert set(further[CHOSEN].tolist()) == {0, 1}


@pytest.mark.parametrize("projected", [False, True])
def test_coda_prompts_are_the_literal_ones(projected):
    adapter = replace(CODA, projected=projected)
    arrays = {name: 9 * a if COMPONENTS in name else a for name, a in arrays_of(adapter).items()}
    ours, _, arrays, weights = features(adapter, arrays)
    kinds = []
    for kind in (COMPONENTS, KEYS, ATTENTION):
        joined = torch.cat([arrays[f"{kind}.{t}"] for t in range(2)], 1)
        kinds.append({layer + 1: of_layer for layer, of_layer in enumerate(joined)})
    for i, image in enumerate(images().double()):
        close(ours[i], reference_pools.codaprompt(image, weights, *kinds, 2, 2, 8, projected), 1e-6)


def test_a_key_of_coda_prompts_counts_by_its_direction_alone_and_others_by_more():
    adapted, arrays = model(CODA), arrays_of(CODA)
    adapted.load(arrays)
    before = adapted.features(images())
    for kind, same in ((KEYS, True), (ATTENTION, True), (COMPONENTS, False)):
        adapted.load({name: 5 * a if name.startswith(kind) else a for name, a in arrays.items()})
        assert torch.allclose(adapted.features(images()), before, atol=1e-4) == same


def test_a_slot_begins_as_the_one_before_or_anew_and_its_key_always_anew():
    copied, fresh = arrays_of(DUAL, 3), arrays_of(replace(DUAL, copies=False), 3)
    np.testing.assert_array_equal(copied[f"{EXPERT}.2"], copied[f"{EXPERT}.0"])
    assert not np.array_equal(fresh[f"{EXPERT}.1"], fresh[f"{EXPERT}.0"])
    assert not np.array_equal(copied[f"{KEY}.1"], copied[f"{KEY}.0"])


@pytest.mark.parametrize("exact", [True, False])
def test_components_begin_orthonormal_and_orthogonal_to_old_ones_where_that_is_asked(exact):
    """After training, which the noise stands for, classical Gram-Schmidt leaves something; the paper's figure too."""
    adapter = replace(CODA, exact=exact)
    first = arrays_of(adapter, 1)
    rng = generator(1, "training")
    trained = {n: (a + 0.05 * rng.normal(size=a.shape)).astype("f4") for n, a in first.items()}
    second = adapter.of_task(1, 2, trained, BACKBONE, rng)
    for kind in (COMPONENTS, KEYS, ATTENTION):
        for old, start, new in zip(trained[f"{kind}.0"], first[f"{kind}.0"], second[f"{kind}.1"], strict=True):
            old, start, new = (a.reshape(len(a), -1) for a in (old, start, new))
            np.testing.assert_allclose(start @ start.T, np.eye(len(start)), atol=1e-5)
            np.testing.assert_allclose(np.diag(new @ new.T), 1, atol=1e-5)
            left = np.abs(np.concatenate([(new @ new.T - np.eye(len(new))).ravel(), (old @ new.T).ravel()])).max()
            assert left < 1e-5 if exact else left > 1e-4


def test_sizes_are_those_of_the_papers():
    dual = arrays_of(DualPrompts(False, 5, 20), 10, VIT_B)
    assert sum(a.size for a in dual.values()) == 15_360 + 7_680 + 921_600
    coda = CodaPrompts(False, 100, 4)
    task = coda.of_task(0, 10, {}, VIT_B, generator(0, "task"))
    assert sum(a.size for a in task.values()) == 384_000
    assert list(coda.layers(12)) == [1, 2, 3, 4, 5]
    assert list(DualPrompts(False, 5, 20).layers(12)) == [1, 2, 3, 4, 5]
    assert list(DualPrompts(False, 5, 20).layers(4)) == [1, 2, 3, 4]
    assert list(DualPrompts(False, 5, 20, (2,), (5, 7)).layers(12)) == [2, 5, 7]


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (DualPrompts(False, 1, 1, (1,), (3,)), "no layer 3: the backbone has layers 1 to 2"),
        (DualPrompts(False, 1, 1, (1, 2), (2,)), "2 is a layer of method.general_layers too"),
        (DualPrompts(False, 1, 1, (1, 2)), "no layer is left for the tasks' prefixes"),
        (CodaPrompts(False, 4, 1, (0,)), "no layer 0"),
        (CodaPrompts(False, WIDTH + 1, 1), f"method.size = {WIDTH + 1}: .* at most {WIDTH}"),
    ],
)
def test_what_a_backbone_has_no_room_for_is_refused(adapter, message):
    with pytest.raises(ConfigError, match=message):
        adapter.check(BACKBONE)
    with pytest.raises(ConfigError, match="vision transformer"):
        DUAL.check(Backbone(8, {}))


def test_fewer_components_than_tasks_are_refused():
    with pytest.raises(ConfigError, match=r"method.size = 6: fewer components than tasks \(7\)"):
        CODA.of_task(0, 7, {}, BACKBONE, generator(0, "task"))
