"""EMR against its equations entry by entry, and its router against the tasks' own models."""

import numpy as np
import pytest
import reference_spectral as reference
import torch
from changes import low_rank
from hypothesis import given
from hypothesis import strategies as st
from problems import close
from small import BACKBONE, SIZE, dataset, model, phase
from test_sparse import opposed

from fcil.data.dataset import model_inputs
from fcil.errors import ConfigError
from fcil.merging.emr import elect, rescalers, restored
from fcil.merging.lowrank import LowRank, dense
from fcil.method import Task, head
from fcil.registry import build_method


def merged(layers):
    """Elected layers and the rescalers over all of them."""
    elected = [elect(changes) for changes in layers]
    return elected, rescalers(sum(e.task_l1 for e in elected), sum(e.masked_l1 for e in elected))


def restored_all(elected, factors):
    """[task][layer] -> lambda_t M_t tau."""
    return [[restored(e.change, e.masks[t], factor) for e in elected] for t, factor in enumerate(factors)]


@given(opposed(), st.integers(0, 99))
def test_it_is_the_equations_entry_by_entry_over_layers_of_different_size(changes, seed):
    """With exact zeros, ties and cancellation, where no sign is elected."""
    rng = np.random.default_rng(seed)
    second = [LowRank(rng.integers(-2, 3, (3, 1)).astype(float), rng.standard_normal((1, 9))) for _ in changes]
    elected, factors = merged([changes, second])
    taus, masks, expected = reference.emr([reference.dense(changes), reference.dense(second)])
    for actual, tau in zip(elected, taus, strict=True):
        np.testing.assert_allclose(actual.change, tau, rtol=1e-12, atol=0)
    np.testing.assert_allclose(factors, expected, rtol=1e-12)
    for t, task in enumerate(restored_all(elected, factors)):
        for actual, mask, tau in zip(task, masks, taus, strict=True):
            np.testing.assert_allclose(actual, expected[t] * mask[t] * tau, rtol=1e-12, atol=0)


@given(low_rank())
def test_a_restored_task_has_its_own_l1_norm_and_the_elected_change_bounds_all_that_agree(changes):
    elected, factors = merged([changes])
    for delta, (actual,) in zip(reference.dense(changes), restored_all(elected, factors), strict=True):
        agrees = delta * elected[0].change > 0
        # a task that nowhere has the elected sign keeps no entry, and nothing can be rescaled to its norm
        norm = np.abs(delta).sum() if agrees.any() else 0.0
        np.testing.assert_allclose(np.abs(actual).sum(), norm, rtol=1e-9)
        assert np.all(np.abs(elected[0].change)[agrees] >= np.abs(delta)[agrees] * (1 - 1e-12))


@given(low_rank(many=1), st.integers(1, 3))
def test_one_task_and_copies_of_it_are_restored_exactly(one, copies):
    elected, factors = merged([one * copies])
    np.testing.assert_allclose(factors, 1, rtol=1e-12)
    for (actual,) in restored_all(elected, factors):
        close(actual, dense(one[0]))


def test_a_vote_counts_by_its_weight_and_the_magnitude_does_not():
    plus, minus = LowRank(np.ones((1, 1)), np.full((1, 1), 3.0)), LowRank(np.ones((1, 1)), np.full((1, 1), -2.0))
    assert elect([plus, minus]).change.item() == 3
    assert elect([plus, minus], [0.3, 0.7]).change.item() == -2


def test_a_task_of_zeros_has_an_empty_mask_and_a_finite_rescaler():
    one, zero = LowRank(np.ones((3, 1)), np.ones((1, 5))), LowRank(np.zeros((3, 1)), np.ones((1, 5)))
    elected, factors = merged([[one, zero]])
    np.testing.assert_array_equal(factors, [1, 0])
    assert not restored_all(elected, factors)[1][0].any()


def test_masks_take_a_bit_an_entry():
    (elected,), _ = merged([[LowRank(np.ones((40, 1)), np.ones((1, 9)))] * 3])
    assert elected.masks.dtype == np.uint8
    assert elected.masks.shape == (3, 45)


# ---- the router ------------------------------------------------------------------------------------------------------

TASKS = (Task(0, 0, 2), Task(1, 2, 2), Task(2, 4, 2))
IMAGES = model_inputs(dataset().test.images[:6], dataset(), SIZE)


def learned(method, disjoint, tasks=TASKS):
    """[(phase, state)] after each of the tasks, whose pairs are random; on columns of their own where `disjoint`."""
    rng, state, result = np.random.default_rng(0), method.init(BACKBONE, 6, 0), []
    for task in tasks:
        at = phase(task=task, index=task.index)
        state = method.begin(state, at, BACKBONE)
        pairs = {name: 0.3 * rng.standard_normal(a.shape) for name, a in state["module"].items()}
        for name in (name for name in pairs if disjoint and name.endswith("lora_A")):
            pairs[name] *= np.arange(pairs[name].shape[1]) % len(TASKS) == task.index
        heads = {name: rng.standard_normal(a.shape).astype(np.float32) for name, a in state["head"].items()}
        state = {**state, "module": {n: a.astype(np.float32) for n, a in pairs.items()}, "head": heads}
        result.append((at, state))
    return result


def probabilities(method, arrays, task):
    """(n, classes of the task) under a model that every sample goes through."""
    adapted = model(method.adapter)
    adapted.load(arrays)
    with torch.no_grad():
        return adapted.logits(adapted.features(IMAGES), [task]).softmax(1).numpy()


def scores(method, arrays):
    adapted = model(method.adapter)
    adapted.load(arrays)
    with torch.no_grad():
        result = method.scores(adapted, IMAGES).numpy()
    assert adapted.arrays.keys() == arrays.keys()  # what was loaded is back in its place
    return result


@pytest.mark.parametrize("name", ["emr", "compose"])
def test_a_routed_sample_goes_to_the_task_whose_own_model_is_surest(name):
    """Changes that touch different columns are restored exactly, so each task's model is its own."""
    router = {"router": True} if name == "emr" else {"round": "fedavg", "task": "emr(router = true)"}
    method, plain = build_method(name, {"rank": 2, **router}), build_method("fedavg", {"rank": 2})
    steps = learned(method, disjoint=True)
    at, last = steps[-1]
    own = [probabilities(plain, {**state["module"], **last["head"]}, t) for t, (_, state) in enumerate(steps)]
    result = scores(method, method.deploy(last, at))
    np.testing.assert_allclose(result, np.concatenate(own, 1), atol=1e-5)
    surest = np.argmax([task.max(1) for task in own], 0)
    chosen = [TASKS[t].first + own[t][i].argmax() for i, t in enumerate(surest)]
    np.testing.assert_array_equal(result.argmax(1), chosen)


def test_without_the_router_the_elected_change_is_deployed_and_every_class_is_scored_by_it():
    method = build_method("emr", {"rank": 2})
    at, state = learned(method, disjoint=False)[-1]
    arrays = method.deploy(state, at)
    assert not any("mask" in name or "rescaler" in name for name in arrays)
    changes = [
        LowRank(module["blocks.0.attn.qkv.lora_B"], module["blocks.0.attn.qkv.lora_A"])
        for module in [s["module"] for _, s in learned(method, disjoint=False)]
    ]
    (tau,), _, _ = reference.emr([[dense(c) for c in changes]])
    np.testing.assert_allclose(arrays["blocks.0.attn.qkv.delta"], tau, rtol=1e-5, atol=1e-7)
    assert scores(method, arrays).shape == (6, 6)


def test_classes_of_a_task_that_was_not_merged_are_scored_under_the_elected_change():
    """As the merging benchmark asks for them, whose draws of experts may lack a task in the middle."""
    method, plain = build_method("emr", {"rank": 2, "router": True}), build_method("emr", {"rank": 2})
    at, state = learned(method, False, (TASKS[0], TASKS[2]))[-1]
    rows = head.new_rows(TASKS[1], BACKBONE.width, np.random.default_rng(1))
    result = scores(method, {**method.deploy(state, at), **rows})
    elected = probabilities(plain, {**plain.deploy(state, at), **rows}, 1)
    np.testing.assert_allclose(result[:, 2:4], elected, atol=1e-6)
    np.testing.assert_array_equal(result[:, [0, 1, 4, 5]], scores(method, method.deploy(state, at)))


def test_one_task_alone_needs_no_router():
    method = build_method("emr", {"rank": 2, "router": True})
    at, state = learned(method, disjoint=False)[0]
    arrays = method.deploy(state, at)
    assert arrays.keys() == {**state["module"], **state["head"]}.keys()
    assert scores(method, arrays).shape == (6, 2)


def test_a_router_between_clients_is_refused():
    with pytest.raises(ConfigError, match="router = true"):
        build_method("emr", {"router": True, "at": "round"})
