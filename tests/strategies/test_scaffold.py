"""SCAFFOLD: round by round against the paper's algorithm, and what becomes of the variates."""

from dataclasses import replace

import numpy as np
import pytest
import reference_baselines as literal
import torch
from scipy.special import softmax
from small import BACKBONE, SIZE, client_data, dataset, model, phase
from trials import is_fedavg, same_bits, trial, weights

from fcil.client.settings import Train
from fcil.client.training import run_client
from fcil.data.dataset import model_inputs
from fcil.data.transforms import View
from fcil.errors import MergeError
from fcil.method import ClientUpdate, Task, head
from fcil.statistics.training_gradients import mean_gradient
from strategies.fedavg import FedAvg
from strategies.scaffold import Scaffold

DATA = replace(dataset(), train_view=View())  # images as they are
TASK = Task(0, 0, 2)
SAMPLES = np.flatnonzero(DATA.train.labels < 2)
PARTS = dict(enumerate(np.split(SAMPLES, [3, 12, 19])))
COUNTS = {client: len(part) for client, part in PARTS.items()}
ASKED = ([0, 1, 2], [0, 2], [1, 2, 3], [0, 1])
STEPS, RATE = 3, 0.3
PLAIN = FedAvg(rank=2)
ROWS, BIAS = head.weight(0), head.bias(0)


def at_round(number):
    return replace(phase(number, task=TASK), clients=len(PARTS), examples=len(SAMPLES))


def gradient_of(samples):
    """The gradient of softmax regression on these samples' features, of rows and biases side by side."""
    adapted = model(None)
    with torch.no_grad():
        x = adapted.features(model_inputs(DATA.train.images[samples], DATA, SIZE)).double().numpy()
    x, hot = np.column_stack([x, np.ones(len(x))]), np.eye(2)[DATA.train.labels[samples]]
    return lambda w: (softmax(x @ w.T, axis=1) - hot).T @ x / len(x)


def side_by_side(arrays):
    return np.column_stack([arrays[ROWS], arrays[BIAS]]).astype(np.float64)


@pytest.mark.parametrize("option", ["I", "II"])
@pytest.mark.parametrize(("weigh", "server_lr"), [("equal", 1.0), ("examples", 0.6)])
def test_rounds_are_the_papers_with_clients_that_come_and_go(option, weigh, server_lr):
    method = Scaffold(adapter_text="head", option=option, weights=weigh, server_lr=server_lr)
    train = Train(epochs=STEPS, batch=len(SAMPLES), lr=RATE, optimizer="sgd")
    state, stores, adapted = method.begin({}, at_round(1), BACKBONE), {i: {} for i in PARTS}, model(None)
    x, gradients = side_by_side(state["head"]), {i: gradient_of(part) for i, part in PARTS.items()}
    c, own = np.zeros_like(x), {i: np.zeros_like(x) for i in PARTS}
    for number, asked in enumerate(ASKED, 1):
        at = at_round(number)
        sent = method.broadcast(state, at)
        updates = [
            run_client(method, adapted, client_data(DATA, PARTS[i]), train, at, sent, i, stores[i]) for i in asked
        ]
        state = method.merge(state, at, updates)
        some = {i: gradients[i] for i in asked}
        x, c = literal.scaffold_round(x, c, own, some, COUNTS, STEPS, RATE, server_lr, option, weigh, len(PARTS))
        np.testing.assert_allclose(side_by_side(state["head"]), x, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(side_by_side(state["variate"]), c, rtol=1e-4, atol=1e-5)
        for i in asked:
            kept = {name: stores[i][f"variate/{name}"] for name in (ROWS, BIAS)}
            np.testing.assert_allclose(side_by_side(kept), own[i], rtol=1e-4, atol=1e-5)


def test_the_servers_variate_is_the_mean_of_the_clients_when_all_have_answered():
    for option in ("I", "II"):
        for record in trial(Scaffold(rank=2, option=option)).records:
            for name, c in record.after["variate"].items():
                mean = np.mean([after[f"variate/{name}"] for _, after in record.stores], axis=0)
                np.testing.assert_allclose(c, mean, rtol=1e-4, atol=1e-6)


def test_the_first_round_of_a_task_is_federated_averaging_and_later_ones_are_not():
    ours = weights(Scaffold(rank=2, weights="examples"))
    assert same_bits(ours[:1], weights(PLAIN)[:1])
    assert not is_fedavg(Scaffold(rank=2, weights="examples"))


def test_each_task_begins_without_variates_whatever_a_client_has_kept():
    method = Scaffold(rank=2)
    first, second, third, fourth = trial(method).records
    assert not first.broadcast.references
    assert set(second.broadcast.references) == {f"variate/{name}" for name in second.broadcast.arrays}
    assert "variate" not in third.before
    before, after = third.stores[1]
    assert {"variate/head.0.bias", "task"} <= before.keys()
    assert {"variate/head.1.bias", "task"} <= after.keys()
    assert "variate/head.0.bias" not in after
    empty = trial(method).work(third.phase, third.broadcast, 1, {}, trial(method).fresh_model())
    for name, a in third.updates[1].arrays.items():
        np.testing.assert_array_equal(empty.arrays[name], a)
    assert fourth.broadcast.references


def test_a_client_alone_is_not_corrected_at_all():
    """c = c_i: its rounds are those of federated averaging of one client."""
    method, data, train = Scaffold(rank=2), client_data(DATA, PARTS[1]), Train(epochs=1, batch=4, lr=1e-2)
    ends = []
    for of in (method, PLAIN):
        state, store, adapted = of.begin({}, at_round(1), BACKBONE), {}, model(of.adapter)
        for number in (1, 2, 3):
            at = replace(at_round(number), clients=1, examples=len(data))
            update = run_client(of, adapted, data, train, at, of.broadcast(state, at), 0, store)
            state = of.merge(state, at, [update])
        ends.append(state)
    for name, a in ends[1]["module"].items():
        np.testing.assert_allclose(ends[0]["module"][name], a, rtol=1e-3, atol=1e-5)


def test_how_many_clients_there_are_must_be_known():
    method, at = Scaffold(adapter_text="head"), phase(task=TASK)
    state = method.begin({}, at, BACKBONE)
    sent = method.broadcast(state, at).arrays
    update = ClientUpdate(0, 0, 3, sent, {mean_gradient(name): a for name, a in sent.items()})
    with pytest.raises(MergeError, match="how many"):
        method.merge(state, at, [update])
