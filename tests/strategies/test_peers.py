"""FLoRA, FedEx-LoRA and FlexLoRA: aggregation that is exact, folding, ranks that differ, and what travels."""

import numpy as np
import pytest
import reference
import reference_peers as literal
from hypothesis import given
from hypothesis import strategies as st
from rounds import COUNTS, begun, steps, updates_of
from small import BACKBONE, LINEARS, client_data, dataset, dense, model, phase

from fcil.client.settings import Train
from fcil.client.training import run_client
from fcil.errors import ConfigError, MergeError
from fcil.merging.lowrank import LowRank
from fcil.merging.lowrank import dense as product
from fcil.method import ClientUpdate, Task
from fcil.model.lora import DELTA, A, B, layers_of
from fcil.registry import build_method
from fcil.server.traffic import Ledger, send
from fcil.server.validation import expected, refusal
from strategies._folding import compact
from strategies._mixed import leading
from strategies.fedex import FedEx, residual
from strategies.flexlora import FlexLoRA
from strategies.flora import FLoRA

RANK = 4
SHARES = np.array(COUNTS) / sum(COUNTS)
EXACT = [FLoRA(rank=RANK), FLoRA(rank=RANK, ranks=(1, 4, 2)), FedEx(rank=RANK)]
ALL = [*EXACT, FlexLoRA(rank=RANK), FlexLoRA(rank=RANK, ranks=(1, 4, 2))]


def before(method, sent, client, at):
    """The product that a client's pair begins with, per layer."""
    start = method.local(at).receives(sent, client)
    return {layer: dense(start, layer) for layer in layers_of(sent)}


@pytest.mark.parametrize("method", EXACT, ids=repr)
def test_a_round_moves_the_model_by_the_mean_of_the_clients_products_exactly(method):
    old = method.deploy(begun(method), phase(1))
    for at, sent, updates, after in steps(method):
        new = method.deploy(after, at)
        for layer in layers_of(sent):
            moved = [dense(u.arrays, layer) - before(method, sent, u.client, at)[layer] for u in updates]
            mean = reference.fedavg(moved, COUNTS)
            np.testing.assert_allclose(dense(new, layer) - dense(old, layer), mean, rtol=1e-4, atol=2e-4)
        old = new


@pytest.mark.parametrize("method", EXACT, ids=repr)
def test_a_client_trains_beside_all_that_was_folded(method):
    """Its model, at the start of a round, is the deployed one."""
    for at, _, _, after in steps(method):
        broadcast = method.broadcast(after, at)
        local, whole = method.local(at), method.deploy(after, at)
        start, frozen = local.receives(broadcast.arrays, 0), local.frozen(broadcast.references)
        for layer in layers_of(broadcast.arrays):
            own = dense(start, layer) + frozen.get(layer + DELTA, 0)
            np.testing.assert_allclose(own, dense(whole, layer), rtol=1e-4, atol=1e-4)


def test_the_frozen_change_takes_part_in_the_clients_forward_pass_and_does_not_come_back():
    method, data = FLoRA(rank=2), dataset()
    *_, (_, _, _, state) = steps(method, 1)
    at = phase(2)
    adapted, sent = model(method.adapter), method.broadcast(state, at)
    seen = client_data(data, np.flatnonzero(data.train.labels < 2))
    update = run_client(method, adapted, seen, Train(epochs=1, batch=8), at, sent, 0, {})
    assert {n for n in adapted.arrays if n.endswith(DELTA)} == {layer + DELTA for layer in LINEARS}
    assert not any(n.endswith(DELTA) for n in update.arrays)
    bare = run_client(method, adapted, seen, Train(epochs=1, batch=8), at, type(sent)(sent.arrays), 0, {})
    assert not np.array_equal(bare.arrays["head.0.weight"], update.arrays["head.0.weight"])


@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 99))
def test_the_residual_is_its_definition_in_fewer_components(clients, rank, seed):
    rng = np.random.default_rng(seed)
    pairs = [LowRank(rng.normal(size=(6, rank)), rng.normal(size=(rank, 5))) for _ in range(clients)]
    weights = rng.dirichlet(np.ones(clients))
    result = residual(pairs, list(weights))
    assert result.rank == (clients - 1) * rank
    np.testing.assert_allclose(product(result), literal.fedex_residual(pairs, weights), atol=1e-12)


def test_the_residual_is_nothing_where_one_factor_is_shared():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(2, 5))
    pairs = [LowRank(rng.normal(size=(6, 2)), a) for _ in range(3)]
    np.testing.assert_allclose(product(residual(pairs, [0.2, 0.3, 0.5])), 0, atol=1e-14)


def test_fedex_trains_on_what_fedavg_would_and_a_cut_residual_is_nearer_to_it_than_none():
    (_, sent, updates, exact), *_ = steps(FedEx(rank=RANK), 1)
    (_, _, _, cut), *_ = steps(FedEx(rank=RANK, residual_rank=2), 1)
    for layer in layers_of(sent):
        for factor in (A, B):
            mean = sum(w * u.arrays[layer + factor] for w, u in zip(SHARES, updates, strict=True))
            np.testing.assert_allclose(leading(exact["module"], RANK)[layer + factor], mean, rtol=1e-4, atol=1e-5)
        target = sum(w * dense(u.arrays, layer) for w, u in zip(SHARES, updates, strict=True))
        errors = [np.linalg.norm(target - dense(m, layer)) for m in (cut["module"], leading(exact["module"], RANK))]
        assert cut["module"][layer + A].shape[0] == RANK + 2
        assert errors[0] < errors[1]


@pytest.mark.parametrize("ranks", [(), (1, 4, 2)])
def test_flexlora_is_the_best_pair_of_its_rank_for_the_mean_of_products(ranks):
    for _, sent, updates, after in steps(FlexLoRA(rank=RANK, ranks=ranks), 2):
        for layer in layers_of(sent):
            mean = sum(w * dense(u.arrays, layer) for w, u in zip(SHARES, updates, strict=True))
            best = literal.best_of_rank(mean, RANK)
            np.testing.assert_allclose(dense(after["module"], layer), best, rtol=1e-4, atol=1e-4)
            for fewer in (1, 2):  # and so is what a client of a smaller rank begins with
                best = literal.best_of_rank(mean, fewer)
                np.testing.assert_allclose(dense(leading(after["module"], fewer), layer), best, rtol=1e-4, atol=1e-4)


def test_components_that_no_client_filled_can_still_learn():
    """A zero column of B beside a zero row of A would have no gradient for ever."""
    method = FlexLoRA(rank=RANK, ranks=(1,))
    *_, (_, sent, updates, after) = steps(method, 1, counts=(1, 1))
    for layer in layers_of(sent):
        assert np.abs(after["module"][layer + A]).max(1).all()
        mean = (dense(updates[0].arrays, layer) + dense(updates[1].arrays, layer)) / 2
        np.testing.assert_allclose(dense(after["module"], layer), mean, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ALL, ids=repr)
def test_updates_of_zero_move_nothing(method):
    state, at = begun(method), phase(1)
    sent = method.broadcast(state, at).arrays
    local = method.local(at)
    still = [ClientUpdate(c, 0, 5, dict(local.receives(sent, c))) for c in range(3)]
    after = method.merge(state, at, still)
    for layer in layers_of(sent):
        assert not dense(method.deploy(after, at), layer).any()


@pytest.mark.parametrize("method", ALL, ids=repr)
def test_nobody_with_examples_is_an_error(method):
    state, at = begun(method), phase(1)
    with pytest.raises(MergeError):
        method.merge(state, at, list(updates_of(method, at, method.broadcast(state, at), (0, 0))))


def test_every_round_of_flora_begins_with_a_new_pair_and_an_unchanged_model():
    method = FLoRA(rank=RANK)
    first, second = (method.local(phase(n)).receives(begun(method)["module"], 0) for n in (1, 2))
    for layer in LINEARS:
        assert not second[layer + B].any()
        assert not np.array_equal(first[layer + A], second[layer + A])


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 9))
def test_a_folded_change_is_never_longer_than_its_smaller_side_and_loses_nothing(out, width, rank):
    rng = np.random.default_rng([out, width, rank])
    change = LowRank(rng.normal(size=(out, rank)), rng.normal(size=(rank, width)))
    np.testing.assert_allclose(product(compact(change)), product(change), atol=1e-12)
    assert compact(change).rank <= min(out, width, max(rank, 0))


# ---- ranks that differ -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["flora", "flexlora"])
def test_clients_send_their_own_rank_and_anything_else_is_refused(name):
    method, at = build_method(name, {"rank": RANK, "ranks": [1, 4, 2]}), phase(1)
    broadcast = method.broadcast(begun(method), at)
    wanted = expected(at, broadcast, method.local(at), dict.fromkeys(range(4), 9))
    updates = list(updates_of(method, at, broadcast, (9, 9, 9, 9)))
    assert [u.arrays["blocks.0.mlp.fc1" + A].shape[0] for u in updates] == [1, 4, 2, 1]
    assert [refusal(u, wanted, ()) for u in updates] == [None] * 4
    swapped = ClientUpdate(0, 0, 9, updates[1].arrays)
    assert "shape" in refusal(swapped, wanted, ())


def test_the_real_client_half_trains_a_pair_of_its_own_rank():
    method, at, data = FlexLoRA(rank=RANK, ranks=(1, 3)), phase(1), dataset()
    seen = client_data(data, np.flatnonzero(data.train.labels < 2))
    sent = method.broadcast(begun(method), at)
    update = run_client(method, model(method.adapter), seen, Train(epochs=1, batch=8), at, sent, 1, {})
    for layer, (out, width) in LINEARS.items():
        assert update.arrays[layer + A].shape == (3, width)
        assert update.arrays[layer + B].shape == (out, 3)
        assert update.arrays[layer + B].any()


@pytest.mark.parametrize("name", ["flora", "flexlora"])
def test_a_rank_above_the_servers_is_a_config_error(name):
    with pytest.raises(ConfigError, match=r"ranks = \[4, 32\].*rank = 16"):
        build_method(name, {"rank": 16, "ranks": [4, 32]})


# ---- what travels ----------------------------------------------------------------------------------------------------

SIDES = sum(out + width for out, width in LINEARS.values())
HEAD = 2 * BACKBONE.width + 2


def downloads(method, rounds, clients=lambda number: range(3)):
    """Floats that each round sends down, all clients together."""
    state, ledger = begun(method), Ledger()
    for number in range(1, rounds + 1):
        at = phase(number)
        broadcast = method.acting(at).broadcast(state, at)
        ledger, sent = send(ledger, broadcast, clients(number), method.local(at).receives)
        yield sent // 4
        state = method.acting(at).merge(state, at, list(updates_of(method, at, broadcast)))


def test_flora_sends_all_clients_factors_once_a_round():
    first, *later = downloads(FLoRA(rank=2, ranks=(1, 2, 2)), 4)
    assert first == (1 + 2 + 2) * SIDES + 3 * HEAD
    assert later == [3 * ((1 + 2 + 2) * SIDES + HEAD)] * 3


def test_fedex_sends_the_means_and_a_residual_of_n_minus_1_times_the_rank():
    first, *later = downloads(FedEx(rank=2), 4)
    assert first == 3 * (2 * SIDES + HEAD)
    assert later == [3 * ((2 + (3 - 1) * 2) * SIDES + HEAD)] * 3


def test_flexlora_sends_every_client_its_own_rank():
    assert list(downloads(FlexLoRA(rank=4, ranks=(1, 4, 2)), 3)) == [(1 + 4 + 2) * SIDES + 3 * HEAD] * 3


def test_a_client_that_missed_a_round_is_sent_the_whole_folded_change():
    asked = {1: range(3), 2: range(3), 3: range(2), 4: range(3)}
    *_, fourth = downloads(FLoRA(rank=1), 4, asked.get)
    assert fourth == (2 * 3 + 9) * SIDES + 3 * HEAD


# ---- together with merges over tasks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["flora", "fedex", "flexlora"])
def test_a_merge_over_tasks_finds_a_tasks_whole_change_and_the_next_task_begins_at_w0(method):
    both = build_method("compose", {"round": method, "task": 'task_arithmetic(sum = "sum")', "rank": RANK})
    *_, (at, sent, _, first) = steps(both, 2)
    alone = both.deploy(first, at)
    task = Task(1, 2, 2)
    begins = both.begin(first, phase(1, task=task, index=2), BACKBONE)
    second_task = phase(1, task=task, index=2)
    assert not both.acting(second_task).broadcast(begins, second_task).references
    *_, (at, sent, _, second) = steps(both, 2, begins, task)
    merged = both.deploy(second, at)
    for layer in layers_of(sent):
        parts = dense(alone, layer) + dense(second["module"], layer)
        np.testing.assert_allclose(dense(merged, layer), parts, rtol=1e-4, atol=1e-3)
