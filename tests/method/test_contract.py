"""What every method must keep to, whatever it does: a battery over all that the registry finds.

Updates are made by the real client half, on images; the server half is then driven in ways that a run drives it.
"""

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from small import BACKBONE, SIZE, client_data, dataset, model, small_settings

from fcil.arrays import digest, grouped, total, ungrouped
from fcil.client.settings import Train
from fcil.client.training import run_client
from fcil.data.dataset import model_inputs
from fcil.engine.simulation import prepare as prepared
from fcil.errors import ConfigError, MergeError
from fcil.method import ClientUpdate, Phase, Task
from fcil.options import describe
from fcil.registry import build_method, method_class, method_names
from fcil.server.validation import expected, refusal

NAMES = method_names()
NOT_A_MEAN = {
    "flexlora",  # the client's product, but in the factors of an SVD
    "flora",  # the client's product, but behind a new pair
}
"""Methods of which copies of one client are not that client, array by array, each with the reason."""
DATA = dataset()
TASKS = (Task(0, 0, 2), Task(1, 2, 2))
CLIENTS = 3
PARTS = [[np.flatnonzero(np.isin(DATA.train.labels, t.positions))[c::CLIENTS] for c in range(CLIENTS)] for t in TASKS]
TRAIN = Train(rounds=2, epochs=1, batch=4, lr=1e-2)


def of(name):
    """The method at settings small enough for the tiny backbone."""
    return build_method(name, {k: v for k, v in small_settings(name).items() if k != "name"})


def work(method, adapted, phase, broadcast, client):
    data = client_data(DATA, PARTS[phase.task.index][client])
    return run_client(method, adapted, data, TRAIN, phase, broadcast, client, {})


def frozen(state):
    return {group: digest(arrays) for group, arrays in state.items()}


@cache
def trajectory(name):
    """[(phase, state before, broadcast, updates, state after)] of a run over two tasks."""
    method, adapted = of(name), model(of(name).adapter)
    state, steps = method.init(BACKBONE, 4, 0), []
    for task in TASKS:
        kinds = method.phases(task, TRAIN.rounds)
        for round, kind in enumerate(kinds, 1):
            phase = Phase(len(steps), kind, task, round, 0, len(kinds) - round)
            state = method.begin(state, phase, BACKBONE) if round == 1 else state
            broadcast = method.acting(phase).broadcast(state, phase)
            updates = [work(method, adapted, phase, broadcast, client) for client in range(CLIENTS)]
            after = method.acting(phase).merge(state, phase, updates)
            steps.append((phase, state, broadcast, updates, after))
            state = after
    return steps


def close(left, right, rtol=1e-4, atol=1e-5):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_allclose(left[name], right[name], rtol=rtol, atol=atol, err_msg=name)


every_method = pytest.mark.parametrize("name", NAMES)


def test_there_are_methods():
    assert {"fedavg", "lorm"} <= set(NAMES)


@every_method
def test_replies_pass_the_servers_check(name):
    method = of(name)
    for phase, _, broadcast, updates, _ in trajectory(name):
        wanted = expected(
            phase,
            broadcast,
            method.acting(phase).local(phase),
            {c: len(PARTS[phase.task.index][c]) for c in range(CLIENTS)},
        )
        for position, update in enumerate(updates):
            assert refusal(update, wanted, [u.client for u in updates[:position]]) is None


@every_method
def test_only_what_is_declared_trains_and_the_frozen_is_not_sent(name):
    method = of(name)
    for phase, _, broadcast, updates, _ in trajectory(name):
        trained = set(method.acting(phase).local(phase).trained(list(broadcast.arrays)))
        for update in updates:
            assert set(update.arrays) == trained
            assert all(np.isfinite(a).all() and a.dtype == np.float32 for a in update.arrays.values())
        if phase.kind == "train":
            assert any(not np.array_equal(updates[0].arrays[n], broadcast.arrays[n]) for n in trained)


@every_method
def test_names_shapes_and_types_are_kept_over_the_rounds_of_a_task(name):
    method = of(name)
    for phase, before, broadcast, _, after in trajectory(name):
        if phase.kind == "train":
            again = method.acting(phase).broadcast(after, phase).arrays
            assert {n: (a.shape, a.dtype) for n, a in again.items()} == {
                n: (a.shape, a.dtype) for n, a in broadcast.arrays.items()
            }
        for arrays in (*before.values(), *after.values(), broadcast.arrays, broadcast.references):
            assert all(np.isfinite(a).all() and a.dtype in (np.float32, np.float64) for a in arrays.values())


@every_method
def test_inputs_are_not_changed_and_the_same_inputs_give_the_same_bits(name):
    method = of(name)
    for phase, before, broadcast, updates, after in trajectory(name):
        states = frozen(before), frozen(after)
        replies = [(digest(u.arrays), digest(u.statistics)) for u in updates]
        assert frozen(method.acting(phase).merge(before, phase, updates)) == states[1]
        sent = method.acting(phase).broadcast(before, phase)
        assert digest(sent.arrays) == digest(broadcast.arrays)
        assert digest(sent.references) == digest(broadcast.references)
        assert digest(method.deploy(after, phase)) == digest(method.deploy(after, phase))
        method.begin(after, Phase(99, phase.kind, Task(2, 4, 1), 1, 0), BACKBONE)
        assert (frozen(before), frozen(after)) == states
        assert [(digest(u.arrays), digest(u.statistics)) for u in updates] == replies


@every_method
def test_a_client_works_the_same_again_in_another_process(name):
    method = of(name)
    phase, _, broadcast, updates, _ = trajectory(name)[-2]
    again = work(method, model(method.adapter), phase, broadcast, 1)
    assert digest(again.arrays) == digest(updates[1].arrays)
    assert digest(again.statistics) == digest(updates[1].statistics)


@every_method
def test_order_of_clients_does_not_matter(name):
    method = of(name)
    for phase, before, _, updates, after in trajectory(name):
        close(ungrouped(method.acting(phase).merge(before, phase, updates[::-1])), ungrouped(after))


@every_method
def test_a_method_that_says_its_merge_needs_only_sums_merges_sums_of_groups_the_same(name):
    """`additive` is a promise: what `run.aggregate_on_worker` does must be the merge, whatever `merge` itself does."""
    method = of(name)
    for phase, before, broadcast, updates, after in trajectory(name) if method.additive else ():

        def merged(*groups, before=before, phase=phase, broadcast=broadcast):
            sums = total([method.acting(phase).sums(phase, broadcast, group) for group in groups])
            return method.acting(phase).merge_sums(before, phase, sums)

        assert frozen(merged(updates)) == frozen(after)
        for cut in range(1, CLIENTS):
            close(ungrouped(merged(updates[:cut], updates[cut:])), ungrouped(after), 1e-6, 1e-7)


def everywhere(name):
    """The method's small settings at its defaults, and wherever else it can merge."""
    places = [o.type for o in describe(method_class(name)) if o.name == "at"]
    given = [{"at": at} for at in ("task", "round", "both") if any(f'"{at}"' in place for place in places)]
    return [small_settings(name) | at for at in [{}, *given]]


@every_method
def test_a_method_that_needs_single_updates_is_not_asked_for_sums(name, digits_config):
    for method in everywhere(name):
        config = digits_config({"method": method, "run": {"aggregate_on_worker": True}})
        settings = {key: value for key, value in method.items() if key != "name"}
        if build_method(name, settings).additive:
            prepared(config)
        else:
            with pytest.raises(ConfigError, match="needs the clients' single updates"):
                prepared(config)


@every_method
def test_copies_of_one_client_and_one_client_alone_are_that_client(name):
    if name in NOT_A_MEAN:
        pytest.skip("does not average")
    method = of(name)
    for phase, before, _, updates, _ in trajectory(name):
        one = updates[1]
        alone = method.acting(phase).merge(before, phase, [one])
        copies = method.acting(phase).merge(before, phase, [one] * 3)
        if phase.kind == "train":
            close({n: method.acting(phase).broadcast(alone, phase).arrays[n] for n in one.arrays}, one.arrays)
            close({n: method.acting(phase).broadcast(copies, phase).arrays[n] for n in one.arrays}, one.arrays)


@every_method
def test_a_client_without_examples_and_statistics_has_no_influence(name):
    method = of(name)
    for phase, before, _, updates, _ in trajectory(name):
        last = updates[-1]
        nothing = {n: np.zeros_like(a) for n, a in last.statistics.items()}
        ghost = ClientUpdate(last.client, last.phase, 0, {n: a + 1 for n, a in last.arrays.items()}, nothing)
        with_it = method.acting(phase).merge(before, phase, [*updates[:-1], ghost])
        close(ungrouped(with_it), ungrouped(method.acting(phase).merge(before, phase, updates[:-1])))


@every_method
def test_a_state_survives_storage(name):
    method = of(name)
    for phase, before, _, updates, after in trajectory(name):
        back = grouped(ungrouped(before))
        assert all(":" not in group and not any(":" in n for n in arrays) for group, arrays in before.items())
        assert frozen(method.acting(phase).merge(back, phase, updates)) == frozen(after)
        assert digest(method.deploy(grouped(ungrouped(after)), phase)) == digest(method.deploy(after, phase))


@every_method
def test_what_is_deployed_fits_the_model_and_scores_every_class_seen(name):
    method = of(name)
    adapted = model(method.adapter)
    images = model_inputs(DATA.test.images[:5], DATA, SIZE)
    for phase, _, _, _, after in trajectory(name):
        adapted.load(method.deploy(after, phase))
        scores = method.scores(adapted, images)
        assert scores.shape == (5, phase.task.seen)
        assert scores.isfinite().all()
        alone = method.scores(adapted, images[2:3])  # no image's score depends on its neighbours in the batch
        np.testing.assert_allclose(alone.detach().numpy(), scores[2:3].detach().numpy(), rtol=1e-4, atol=1e-4)


@every_method
def test_settings_have_defaults_that_build_and_a_text_each(name):
    build_method(name, {})
    for option in describe(method_class(name)):
        assert option.option.help
        json.dumps(option.default)
    assert method_class(name).__doc__.splitlines()[0].strip()


def test_a_mean_over_nobodys_examples_is_an_error_and_not_nan():
    phase, before, _, updates, _ = trajectory("fedavg")[0]
    with pytest.raises(MergeError, match="needs some"):
        of("fedavg").merge(before, phase, [replace(u, num_examples=0) for u in updates])
