"""Merges of entries and of coordinates where a run uses them: over a round's clients, and over tasks."""

from dataclasses import replace

import numpy as np
import pytest
import reference_ties
from small import BACKBONE, LINEARS, dense, phase

from fcil.errors import MergeError
from fcil.method import ClientUpdate, Task
from fcil.model.lora import DELTA, B
from fcil.registry import build_method

RANK = 2
COUNTS = [5, 2, 9]
TASKS = [Task(0, 0, 2), Task(1, 2, 2), Task(2, 4, 2)]
KINDS = {
    "ties": {"top": 0.3, "scale": 0.8},
    "dare": {"drop": 0.4},
    "knots": {"top": 0.3, "scale": 0.8},
    "core_space": {"host": "ties(top = 0.3, scale = 0.8)"},
}
every_kind = pytest.mark.parametrize("name", KINDS)


def of(name, **settings):
    return build_method(name, {"rank": RANK, **KINDS[name], **settings})


def started(method):
    """Round 2 of a task: B is no longer zero, so that it matters what the changes are counted from."""
    rng = np.random.default_rng(0)
    state = method.begin(method.init(BACKBONE, 6, 0), phase(), BACKBONE)
    module = {
        n: a + rng.normal(0, 0.5, a.shape).astype(np.float32) if n.endswith(B) else a
        for n, a in state["module"].items()
    }
    return {**state, "module": module}


def updates_of(method, state, at, counts=COUNTS):
    rng = np.random.default_rng(1)
    sent = method.acting(at).broadcast(state, at).arrays
    return [
        ClientUpdate(i, at.index, n, {k: (a + rng.normal(0, 0.3, a.shape)).astype(np.float32) for k, a in sent.items()})
        for i, n in enumerate(counts)
    ]


def nearest(matrix, rank):
    u, s, vt = np.linalg.svd(matrix)
    return u[:, :rank] * s[:rank] @ vt[:rank]


def literal(name, experts, weights):
    """The merged change of every layer from dense changes, DARE excepted."""
    if name == "ties":
        return reference_ties.ties(experts, weights, 0.3, 0.8)
    return reference_ties.knots(experts, weights, lambda e, w: reference_ties.ties(e, w, 0.3, 0.8))


@pytest.mark.parametrize("name", ["ties", "knots"])
def test_a_round_merges_the_changes_since_its_start_and_adds_them_to_it(name):
    method, at = of(name, at="round"), phase(2)
    state = started(method)
    updates = updates_of(method, state, at)
    after = method.acting(at).merge(state, at, updates)
    start = {layer: dense(state["module"], layer) for layer in LINEARS}
    changes = [{layer: dense(u.arrays, layer) - start[layer] for layer in LINEARS} for u in updates]
    for layer, change in literal(name, changes, COUNTS).items():
        np.testing.assert_allclose(
            dense(after["module"], layer), nearest(start[layer] + change, RANK), rtol=1e-3, atol=1e-5
        )


@pytest.mark.parametrize("name", ["ties", "knots"])
def test_tasks_are_merged_unweighted_and_deployed_at_full_rank(name):
    method, rng = of(name), np.random.default_rng(2)
    state, modules = started(method), []
    for task in TASKS:
        at = phase(task=task)
        state = method.begin(state, at, BACKBONE) if task.index else state
        module = {n: rng.normal(0, 0.3, a.shape).astype(np.float32) for n, a in state["module"].items()}
        state = {**state, "module": module}
        modules.append(module)
    deployed = method.deploy(state, phase(task=TASKS[-1]))
    changes = [{layer: dense(m, layer) for layer in LINEARS} for m in modules]
    for layer, change in literal(name, changes, [1, 1, 1]).items():
        result = deployed[layer + DELTA] if name == "ties" else dense(deployed, layer)
        np.testing.assert_allclose(result, change, rtol=1e-3, atol=1e-5)


@every_kind
def test_over_clients_one_without_examples_and_the_order_have_no_influence(name):
    method, at = of(name, at="round"), phase(2)
    state = started(method)
    *present, ghost = updates_of(method, state, at, [5, 2, 0])
    merged = method.acting(at).merge(state, at, present)["module"]
    with_it = method.acting(at).merge(state, at, [*present, ghost])["module"]
    for layer in LINEARS:
        np.testing.assert_array_equal(dense(with_it, layer), dense(merged, layer))
    other = method.acting(at).merge(state, at, present[::-1])["module"]
    for layer in LINEARS:
        np.testing.assert_allclose(dense(other, layer), dense(merged, layer), rtol=1e-3, atol=1e-5)


@every_kind
def test_over_clients_nobody_with_examples_is_an_error(name):
    method, at = of(name, at="round"), phase(2)
    state = started(method)
    with pytest.raises(MergeError):
        method.acting(at).merge(state, at, updates_of(method, state, at, [0, 0]))


@every_kind
def test_a_round_in_which_nobody_trained_is_refused_and_one_who_did_is_enough(name):
    method, at = of(name, at="round"), phase(2)
    state = started(method)
    sent = method.acting(at).broadcast(state, at).arrays
    idle = [ClientUpdate(i, at.index, 3, sent) for i in range(2)]
    with pytest.raises(MergeError, match="all changes of 2 experts are zero"):
        method.acting(at).merge(state, at, idle)
    of_one_class = replace(at, task=Task(0, 0, 1))  # its loss is constant: that nobody moves is no mistake
    still = method.acting(at).merge(state, of_one_class, idle)
    for name, a in sent.items():
        np.testing.assert_array_equal({**still["module"], **still["head"]}[name], a)
    moved = method.acting(at).merge(state, at, [idle[0], updates_of(method, state, at)[1]])
    assert any(not np.array_equal(dense(moved["module"], n), dense(state["module"], n)) for n in LINEARS)


@every_kind
def test_no_component_is_left_with_both_factors_zero(name):
    """It would have no gradient, for the rest of the run."""
    method, at = of(name, at="round"), phase(1)
    state = method.begin(method.init(BACKBONE, 4, 0), at, BACKBONE)
    sent = method.acting(at).broadcast(state, at).arrays
    first = next(iter(LINEARS))
    one = {n: a + 0.1 if n == first + ".lora_B" else a for n, a in sent.items()}  # rank one, in one layer
    module = method.acting(at).merge(state, at, [ClientUpdate(0, at.index, 3, one)])["module"]
    for layer in LINEARS:
        b, a = module[layer + ".lora_B"], module[layer + ".lora_A"]
        assert (np.abs(b).max(0) + np.abs(a).max(1) > 0).all()
    assert dense(module, first).any()


@pytest.mark.parametrize("settings", [{"reduce": "dare_ties", "drop": 0.5}, {"reduce": "dare_ties", "stack": "rows"}])
def test_masks_belong_to_the_round(settings):
    method = build_method("knots", {"rank": RANK, "at": "round", **settings})
    state = started(method)
    merged = {}
    for round in (2, 3):
        at = phase(round)
        updates = updates_of(method, state, at)
        merged[round], again = (method.acting(at).merge(state, at, updates)["module"] for _ in range(2))
        assert all(np.array_equal(merged[round][n], again[n]) for n in again)
    assert any(not np.array_equal(merged[2][n], merged[3][n]) for n in merged[2])


def test_any_of_them_over_clients_goes_with_any_other_over_tasks():
    method = build_method(
        "compose", {"rank": RANK, "round": 'knots(reduce = "mean")', "task": "core_space(host = 'ties(top = 0.5)')"}
    )
    state = started(method)
    after = method.acting(phase(2)).merge(state, phase(2), updates_of(method, state, phase(2)))
    second = phase(task=TASKS[1])
    deployed = method.deploy(method.begin(after, second, BACKBONE), second)
    assert all(np.isfinite(a).all() for a in deployed.values())
    assert deployed.keys() >= {layer + B for layer in LINEARS}
