"""RegMean, Fisher averaging and MaTS as methods: over a round's clients, over tasks, and under `compose`."""

from functools import cache

import numpy as np
import pytest
import reference
import reference_peers as literal
from small import BACKBONE, client_data, dataset, dense, model, phase

from fcil.client.settings import Train
from fcil.client.training import run_client
from fcil.errors import ConfigError
from fcil.merging import packed
from fcil.method import ClientUpdate, Task
from fcil.model.lora import DELTA, layers_of
from fcil.registry import build_method
from fcil.statistics.gradients import SAMPLES, fisher_of, output_gram
from fcil.statistics.inputs import input_gram

RANK = 4
DATA = dataset()
TASKS = (Task(0, 0, 2), Task(1, 2, 2))
TRAIN = Train(rounds=1, epochs=1, batch=4, lr=1e-2)


@cache
def carried_out(name, **settings):
    """(method, [(phase, state before, broadcast, updates, state after)]) of two tasks of one round, two clients."""
    method = build_method(name, {"rank": RANK, **settings})
    adapted, state, steps = model(method.adapter), method.init(BACKBONE, 4, 0), []
    for task in TASKS:
        for number, kind in enumerate(method.phases(task, TRAIN.rounds), 1):
            at = phase(number, kind, task, len(steps))
            state = method.begin(state, at, BACKBONE) if number == 1 else state
            sent = method.acting(at).broadcast(state, at)
            held = np.flatnonzero(np.isin(DATA.train.labels, task.positions))
            updates = [
                run_client(method, adapted, client_data(DATA, held[c::2][: 5 + c]), TRAIN, at, sent, c, {})
                for c in range(2)
            ]
            after = method.acting(at).merge(state, at, updates)
            steps.append((at, state, sent, updates, after))
            state = after
    return method, steps


def equation(name, changes, statistics, weights, layer):
    """What the method says of one layer, literally, at its default settings."""
    if name == "fisher":
        fishers = [s[fisher_of(layer + DELTA)].astype(float) for s in statistics]
        return literal.fisher_mean(changes, fishers, weights, 1e-6)
    shrink = 0.95 if name == "regmean" else 1.0
    inputs = [reference.shrunk(packed.whole(s[input_gram(layer)].astype(float)), shrink) for s in statistics]
    if name == "regmean":
        return reference.match(changes, inputs)
    outputs = [packed.whole(s[output_gram(layer)].astype(float)) / s[SAMPLES] for s in statistics]
    return changes, inputs, outputs


def check(name, result, wanted, changes):
    """The two agree; of MaTS, whose Grams have less than full rank here, the equation itself must hold."""
    scale = max(np.abs(change).max() for change in changes)
    if name != "mats":
        np.testing.assert_allclose(result, wanted, rtol=1e-3, atol=1e-3 * scale)
        return
    terms = [s @ (result - change) @ g for change, g, s in zip(*wanted, strict=True)]
    right = sum(s @ change @ g for change, g, s in zip(*wanted, strict=True))
    assert np.linalg.norm(sum(terms)) < 1.1e-3 * np.linalg.norm(right)


@pytest.mark.parametrize("name", ["regmean", "fisher", "mats"])
def test_two_tasks_are_merged_by_the_equation_with_what_all_their_clients_reported(name):
    exact = {"iterations": 2000, "tolerance": 1e-3} if name == "mats" else {}
    method, steps = carried_out(name, **exact)
    ends = [step for step in steps if step[0].kind == "report"]
    assert len(ends) == 2
    statistics = [{n: sum(u.statistics[n] for u in step[3]) for n in step[3][0].statistics} for step in ends]
    merged = method.deploy(ends[-1][4], ends[-1][0])
    for layer in layers_of(ends[0][1]["module"]):
        changes = [dense(step[1]["module"], layer) for step in ends]
        result = merged[layer + DELTA] if layer + DELTA in merged else dense(merged, layer)
        check(name, result, equation(name, changes, statistics, [0.5, 0.5], layer), changes)


@pytest.mark.parametrize("name", ["regmean", "fisher"])
def test_a_rounds_clients_are_merged_by_the_equation_and_cut_to_the_rank(name):
    _, ((_, before, _, updates, after), *_) = carried_out(name, at="round")
    weights = np.array([u.num_examples for u in updates]) / sum(u.num_examples for u in updates)
    for layer in layers_of(before["module"]):
        start = dense(before["module"], layer)
        changes = [dense(u.arrays, layer) - start for u in updates]
        wanted = equation(name, changes, [u.statistics for u in updates], list(weights), layer)
        scale = max(np.abs(change).max() for change in changes)
        best = literal.best_of_rank(start + wanted, RANK)
        np.testing.assert_allclose(dense(after["module"], layer), best, atol=2e-3 * scale)


@pytest.mark.parametrize("name", ["regmean", "fisher", "mats"])
def test_after_one_task_its_module_is_deployed_as_it_is(name):
    method, steps = carried_out(name)
    at, _, _, _, after = next(step for step in steps if step[0].kind == "report")
    deployed = method.deploy(after, at)
    assert all(np.array_equal(deployed[n], a) for n, a in after["module"].items())


@pytest.mark.parametrize("name", ["regmean", "fisher", "mats"])
def test_between_rounds_a_task_that_has_not_reported_is_left_out(name):
    method, (_, (_, _, _, _, reported), (at, _, _, _, after), _) = carried_out(name)
    assert (at.kind, at.task) == ("train", TASKS[1])
    deployed = method.deploy(after, at)
    assert deployed.keys() == {*reported["module"], *after["head"]}
    assert all(np.array_equal(deployed[n], a) for n, a in {**reported["module"], **after["head"]}.items())


def test_fisher_of_factors_averages_every_array_with_its_own_fisher():
    method, ((at, before, _, updates, after), *_) = carried_out("fisher", at="round", of="factors")
    names = method.local(at).trained(list(updates[0].arrays))
    assert any(n.startswith("head.") for n in names)
    weights = [u.num_examples / sum(v.num_examples for v in updates) for u in updates]
    for name in names:
        two = [np.atleast_2d(u.arrays[name].astype(float)) for u in updates]
        fishers = [np.atleast_2d(u.statistics[fisher_of(name)].astype(float)) for u in updates]
        merged = (after["head"] if name.startswith("head.") else after["module"])[name]
        np.testing.assert_allclose(np.atleast_2d(merged), literal.fisher_mean(two, fishers, weights, 1e-6), rtol=1e-4)
    alone = method.merge(before, at, [updates[1]])
    ghost = ClientUpdate(0, at.index, 0, updates[0].arrays, {n: a * 0 for n, a in updates[0].statistics.items()})
    beside = method.merge(before, at, [ghost, updates[1]])
    for group, arrays in alone.items():
        for name, a in arrays.items():
            np.testing.assert_allclose(beside[group][name], a, rtol=1e-5, atol=1e-7)
            if name in updates[1].arrays:
                np.testing.assert_allclose(a, updates[1].arrays[name], rtol=1e-5, atol=1e-7)


def test_fisher_of_factors_over_tasks_is_a_config_error():
    for settings in ({"of": "factors"}, {"of": "factors", "at": "both"}):
        with pytest.raises(ConfigError, match="do not begin alike"):
            build_method("fisher", settings)


@pytest.mark.parametrize(
    ("round", "task"),
    [("regmean", "regmean"), ("rolora", "regmean"), ("flora", "mats"), ("regmean", "fisher"), ("fedex", "regmean")],
)
def test_they_go_together_over_rounds_and_over_tasks(round, task):
    method, steps = carried_out("compose", round=round, task=task)
    at, _, _, _, after = steps[-1]
    assert at.kind == "report"
    deployed = method.deploy(after, at)
    assert all(np.isfinite(a).all() for a in deployed.values())
    model(method.adapter).load(deployed)
