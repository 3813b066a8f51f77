"""Spectral and sparse merges as methods: over a round's clients, and with experts that cannot be merged."""

from dataclasses import replace

import numpy as np
import pytest
import reference_spectral as reference
from changes import change, low_rank
from hypothesis import assume, given
from problems import close
from small import BACKBONE, phase

from fcil.errors import ConfigError, MergeError
from fcil.merging.expert import Expert
from fcil.merging.lowrank import LowRank, dense
from fcil.merging.spectral import iso_c
from fcil.method import ClientUpdate
from fcil.registry import build_method

SETTINGS = {
    "tsv": {}, "iso": {"variant": "c"}, "iso-cts": {"variant": "cts"}, "consensus": {}, "emr": {}, "magmax": {},
    "opcm": {},
}  # fmt: skip
LAYER = "blocks.1.mlp.fc2"
every = pytest.mark.parametrize("name", SETTINGS)
rounds = pytest.mark.parametrize("name", [name for name in SETTINGS if name != "opcm"])


def of(name, **more):
    return build_method(name.partition("-")[0], {"rank": 2, **SETTINGS[name], **more})


def first_round(method, clients=3):
    """A state whose pair is not zero, the phase, and what some clients made of it."""
    rng, at = np.random.default_rng(0), phase()
    state = method.begin(method.init(BACKBONE, 2, 0), at, BACKBONE)
    state["module"] = {n: 0.1 * rng.standard_normal(a.shape).astype(np.float32) for n, a in state["module"].items()}
    sent = method.broadcast(state, at).arrays

    def learned(client):
        moved = {n: a + 0.1 * rng.standard_normal(a.shape).astype(np.float32) for n, a in sent.items()}
        return ClientUpdate(client, 0, 4 + client, {n: a.astype(np.float32) for n, a in moved.items()})

    return state, at, [learned(client) for client in range(clients)]


def product(arrays):
    return arrays[f"{LAYER}.lora_B"].astype(float) @ arrays[f"{LAYER}.lora_A"].astype(float)


@rounds
def test_a_round_adds_the_merged_changes_to_its_start_and_keeps_the_rank(name):
    method = of(name, at="round", **({} if name in ("emr",) else {"scale": 0.5}))
    state, at, updates = first_round(method)
    weights = [u.num_examples / np.mean([u.num_examples for u in updates]) for u in updates]
    start = state["module"]
    minus = LowRank(-start[f"{LAYER}.lora_B"], start[f"{LAYER}.lora_A"])
    changes = [
        LowRank(np.hstack([u.arrays[f"{LAYER}.lora_B"], minus.b]), np.vstack([u.arrays[f"{LAYER}.lora_A"], minus.a]))
        for u in updates
    ]
    experts = [Expert({LAYER: c}, w) for c, w in zip(changes, weights, strict=True)]
    ((_, merged),) = method.combine_round(experts, None)
    u, s, vt = np.linalg.svd(product(start) + dense(merged))
    after = method.merge(state, at, updates)["module"]
    np.testing.assert_allclose(product(after), u[:, :2] * s[:2] @ vt[:2], atol=1e-5)
    assert {n: a.shape for n, a in after.items()} == {n: a.shape for n, a in start.items()}


@rounds
def test_order_of_clients_does_not_matter_in_a_first_round_either(name):
    """There the start is zero, and the merged change alone is cut to the rank of a pair."""
    method = of(name, at="round")
    state, at, updates = first_round(method)
    state["module"] = {n: a * 0 if n.endswith("lora_B") else a for n, a in state["module"].items()}
    merged, again = (product(method.merge(state, at, many)["module"]) for many in (updates, updates[::-1]))
    np.testing.assert_allclose(again, merged, atol=1e-5)


@given(low_rank(few=2))
def test_a_flat_spectrum_of_bounded_rank_has_the_leading_directions_of_the_sum(changes):
    u, s, vt = np.linalg.svd(sum(reference.dense(changes)))
    assume(s[1] - s[2] > 1e-3 * s[0] if len(s) > 2 else True)
    close(dense(iso_c(changes, None, 2)), s[:2].mean() * u[:, :2] @ vt[:2])


@pytest.mark.parametrize("name", ["tsv", "emr"])
def test_clients_that_learned_the_same_are_that_client(name):
    method = of(name, at="both")
    state, at, updates = first_round(method)
    same = [ClientUpdate(client, 0, 3 + client, updates[0].arrays) for client in range(3)]
    np.testing.assert_allclose(product(method.merge(state, at, same)["module"]), product(same[0].arrays), atol=1e-5)


@rounds
def test_a_client_without_examples_has_no_influence_on_a_round(name):
    method = of(name, at="round")
    state, at, updates = first_round(method)
    ghost = ClientUpdate(9, 0, 0, {n: a + 1 for n, a in updates[0].arrays.items()})
    with_it, without = (method.merge(state, at, many)["module"] for many in ([*updates, ghost], updates))
    for n, a in without.items():
        np.testing.assert_array_equal(with_it[n], a)


def expert(rng, shape=(9, 8)):
    return Expert({"one": change(rng, *shape, 2), "two": change(rng, 4, 5, 2)})


@every
def test_experts_that_cannot_be_merged_are_refused(name):
    rng = np.random.default_rng(0)
    good, method = expert(rng), of(name)
    with pytest.raises(MergeError, match="empty"):
        list(method.combine([], None))
    with pytest.raises(MergeError, match="differs from expert 0 in one"):
        list(method.combine([good, expert(rng, (7, 8))], None))
    nan = Expert({**good.changes, "two": LowRank(np.full((4, 2), np.nan), np.ones((2, 5)))})
    with pytest.raises(MergeError, match="expert 1: the change of two is infinite or NaN"):
        list(method.combine([good, nan], None))


@every
def test_experts_that_learned_nothing_merge_to_nothing(name):
    zero = Expert({"one": LowRank(np.zeros((9, 2)), np.ones((2, 8)))})
    ((_, merged),) = of(name).combine([zero, zero], None)
    np.testing.assert_array_equal(dense(merged), np.zeros((9, 8)))


def test_consensus_and_magmax_multiply_by_their_scale():
    rng = np.random.default_rng(0)
    experts = [expert(rng) for _ in range(3)]
    deltas = [dense(e.changes["one"]) for e in experts]
    result = dict(of("consensus", scale=0.3, threshold=0.6, agree=1).combine(experts, None))
    np.testing.assert_allclose(result["one"], 0.3 * reference.consensus_ta(deltas, 0.6, 1), rtol=1e-12)
    result = dict(of("magmax", scale=0.7).combine(experts, None))
    np.testing.assert_allclose(result["one"], 0.7 * reference.mag_max(deltas), rtol=1e-12)


def test_of_fewer_experts_than_consensus_asks_for_all_have_to_agree():
    rng = np.random.default_rng(1)
    one, other = expert(rng), expert(rng)
    alone = dict(of("consensus").combine([one], None))["one"]
    np.testing.assert_allclose(alone, dense(one.changes["one"]), rtol=1e-12)
    both = dict(of("consensus", agree=3).combine([one, other], None))["one"]
    deltas = [dense(e.changes["one"]) for e in (one, other)]
    np.testing.assert_allclose(both, reference.consensus_ta(deltas, 0.4, 2), rtol=1e-12)


def test_the_variants_of_iso_are_those_of_the_paper():
    rng = np.random.default_rng(0)
    full = [Expert({"one": change(rng, 6, 5, 5)}) for _ in range(2)]  # where the dense forms are well-defined
    deltas = [dense(e.changes["one"]) for e in full]
    for settings, wanted in (
        ({"variant": "c", "scale": 0.7}, 0.7 * reference.iso_c(deltas)),
        ({"variant": "cts", "common": 0.6}, reference.iso_cts(deltas, 0.6)),
    ):
        ((_, result),) = build_method("iso", settings).combine(full, None)
        np.testing.assert_allclose(dense(result), wanted, rtol=1e-8, atol=1e-10)


def test_task_arithmetics_sum_is_consensus_that_nobody_has_to_agree_to_at_any_examples():
    rng = np.random.default_rng(0)
    experts = [replace(expert(rng), weight=n) for n in (1.0, 5.0, 30.0)]
    method = build_method("task_arithmetic", {"sum": "sum", "scale": 0.3})
    literal = dict(of("consensus", scale=0.3, agree=0).combine(experts, None))
    for layer, result in method.combine(experts, None):
        np.testing.assert_allclose(dense(result), literal[layer], rtol=1e-9, atol=1e-12)


def test_magmax_learns_tasks_one_after_the_other_in_one_module():
    method = of("magmax")
    assert method.keeps_modules
    assert not method.starts_fresh
    assert of("magmax", start="fresh").starts_fresh


def test_opcm_has_no_rounds_to_merge():
    with pytest.raises(ConfigError, match='must be "task"'):
        of("opcm", at="round")
    with pytest.raises(ConfigError, match="at = 'round': must be \"task\""):
        build_method("compose", {"round": "opcm"})
