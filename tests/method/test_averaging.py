"""`Averaging` by itself: without an adapter it is linear probing on the frozen backbone, federated."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import softmax
from small import BACKBONE, SIZE, WIDTH, client_data, dataset, model, phase

from fcil.client.settings import Train
from fcil.client.training import run_client
from fcil.data.dataset import model_inputs
from fcil.data.transforms import View
from fcil.method import Averaging, Task
from fcil.method.local import pooled_features

DATA = replace(dataset(), train_view=View())  # images as they are: gradients of clients add up to that of all
TASKS = (Task(0, 0, 2), Task(1, 2, 2))
RATE = 0.5


def rounds_of(parts, task, state, rounds=3, adapted=None, **train):
    """The state after rounds on one task, each client's part given as indices into the training data."""
    method, adapted = Averaging(), adapted or model(None)
    settings = Train(**{"epochs": 1, "batch": len(DATA.train), "lr": RATE, "optimizer": "sgd", **train})
    for number in range(1, rounds + 1):
        at = phase(number, task=task)
        state = method.begin(state, at, BACKBONE) if number == 1 else state
        sent = method.broadcast(state, at)
        work = [
            run_client(method, adapted, client_data(DATA, part), settings, at, sent, client, {})
            for client, part in enumerate(parts)
        ]
        state = method.merge(state, at, work)
    return state


def samples_of(task):
    return np.flatnonzero(np.isin(DATA.train.labels, task.positions))


def parts_of(samples, clients, skewed):
    """Random shares of unequal size, or with `skewed` one class after the other."""
    rng = np.random.default_rng(clients)
    order = samples[np.argsort(DATA.train.labels[samples])] if skewed else rng.permutation(samples)
    cuts = np.sort(rng.choice(np.arange(1, len(samples)), clients - 1, replace=False))
    return np.split(order, cuts)


def features(samples):
    """(n, width) of the bare backbone, float64."""
    with torch.no_grad():
        pooled = pooled_features(model(None).network, model_inputs(DATA.train.images[samples], DATA, SIZE))
    return pooled.double().numpy()


def probed(samples, task, weight, bias, rounds):
    """Gradient descent on softmax regression over all samples at once, written out."""
    x, hot = features(samples), np.eye(task.size)[DATA.train.labels[samples] - task.first]
    for _ in range(rounds):
        wrong = (softmax(x @ weight.T + bias, axis=1) - hot) / len(x)
        weight, bias = weight - RATE * wrong.T @ x, bias - RATE * wrong.sum(0)
    return weight, bias


@pytest.mark.parametrize("skewed", [False, True], ids=["shuffled", "by class"])
@pytest.mark.parametrize("clients", [1, 2, 5])
def test_whole_batches_make_it_softmax_regression_on_all_data_whoever_holds_them(clients, skewed):
    """A step of each client along its own gradient: their mean weighted by examples is the step along all data's."""
    samples, first = samples_of(TASKS[0]), phase(task=TASKS[0])
    start = Averaging().begin({}, first, BACKBONE)["head"]
    state = rounds_of(parts_of(samples, clients, skewed), TASKS[0], {})
    weight, bias = probed(samples, TASKS[0], start["head.0.weight"], start["head.0.bias"], 3)
    np.testing.assert_allclose(state["head"]["head.0.weight"], weight, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state["head"]["head.0.bias"], bias, rtol=1e-4, atol=1e-5)
    assert np.abs(weight - start["head.0.weight"]).max() > 0.01


def test_one_client_that_takes_many_steps_is_that_client_bit_for_bit():
    samples, method, at = samples_of(TASKS[0]), Averaging(), phase(task=TASKS[0])
    state = method.begin({}, at, BACKBONE)
    train = Train(epochs=3, batch=5, lr=1e-2)
    alone = run_client(method, model(None), client_data(DATA, samples), train, at, method.broadcast(state, at), 0, {})
    merged = rounds_of([samples], TASKS[0], {}, 1, epochs=3, batch=5, lr=1e-2, optimizer="adamw")
    for name, a in alone.arrays.items():
        np.testing.assert_array_equal(merged["head"][name], a)


def test_nothing_but_the_tasks_head_rows_is_sent_and_the_backbone_keeps_its_bits():
    adapted, method = model(None), Averaging()
    before = {name: w.clone() for name, w in adapted.network.state_dict().items()}
    state = rounds_of(parts_of(samples_of(TASKS[0]), 2, False), TASKS[0], {}, adapted=adapted)
    old = dict(state["head"])
    later = phase(task=TASKS[1])
    started = method.begin(state, later, BACKBONE)
    sent = method.broadcast(started, later).arrays
    assert {n: a.shape for n, a in sent.items()} == {"head.1.weight": (2, WIDTH), "head.1.bias": (2,)}
    state = rounds_of(parts_of(samples_of(TASKS[1]), 2, False), TASKS[1], state, adapted=adapted)
    assert not state["module"]
    assert all(np.array_equal(state["head"][name], a) for name, a in old.items())
    assert all(torch.equal(w, before[name]) for name, w in adapted.network.state_dict().items())
    assert set(method.deploy(state, later)) == {*old, *sent}


def test_a_task_learnt_after_another_has_the_rows_that_it_would_have_had_alone():
    """Nothing passes from task to task: the features are frozen, and each task's loss sees its own rows only."""
    first, second = (parts_of(samples_of(task), 3, False) for task in TASKS)
    after_both = rounds_of(second, TASKS[1], rounds_of(first, TASKS[0], {}))
    alone = rounds_of(second, TASKS[1], {})
    for name in ("head.1.weight", "head.1.bias"):
        np.testing.assert_array_equal(after_both["head"][name], alone["head"][name])
