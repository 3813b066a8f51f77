"""FedProto: prototypes are pooled class means, and pull features; prediction is by the nearest one."""

import numpy as np
import pytest
import reference_gaussians
import torch
from rounds import begun
from small import BACKBONE, WIDTH, client_data, dataset, model, phase

from fcil.client.session import Batch, ClientSession
from fcil.client.settings import Train
from fcil.client.training import run_client
from fcil.method import ClientUpdate, Task
from strategies.fedavg import FedAvg
from strategies.fedproto import FedProto

TASKS = (Task(0, 0, 2), Task(1, 2, 2))
SPLITS = ([0, 0, 0, 1], [1], [0, 0])
"""The classes of three clients' samples."""


def features_of(client, labels):
    return np.random.default_rng(client).normal(size=(len(labels), WIDTH))


def update(method, at, client, labels, broadcast):
    """A client whose arrays stay, and whose features are drawn."""
    features, labels = features_of(client, labels), np.array(labels, int)
    arrays = {f"head.{at.task.index}.weight": np.zeros((at.task.size, WIDTH))}
    collector = method.statistic(at).start(arrays, type("Model", (), {"device": torch.device("cpu")}), None)
    collector.batch(torch.tensor(features), torch.tensor(labels) + at.task.first, None)
    trained = {n: broadcast.arrays[n] for n in method.local(at).trained(list(broadcast.arrays))}
    return ClientUpdate(client, at.index, len(labels), trained, collector.finish())


def after_a_round(method, splits=SPLITS, state=None, at=None):
    state, at = begun(method) if state is None else state, at or phase()
    broadcast = method.broadcast(state, at)
    updates = [update(method, at, client, labels, broadcast) for client, labels in enumerate(splits)]
    assert all(method.objection(at, broadcast, u) is None for u in updates)
    return method.merge(state, at, updates)


@pytest.mark.parametrize("weighting", ["examples", "clients"])
def test_prototypes_are_the_literal_means_over_the_clients_that_have_the_class(weighting):
    state = after_a_round(FedProto(rank=2, weighting=weighting))
    for c in range(2):
        clients = [features_of(k, labels)[np.array(labels) == c] for k, labels in enumerate(SPLITS)]
        mean = reference_gaussians.prototypes(clients, weighting)
        np.testing.assert_allclose(state["prototypes"]["0"][c, :-1], mean, atol=1e-5)
    assert state["prototypes"]["0"][:, -1].tolist() == [1, 1]


def test_a_class_that_nobody_reports_keeps_its_prototype_or_has_none_and_is_never_predicted():
    method = FedProto(rank=2)
    first = after_a_round(method, ([0, 0], [0]))
    assert first["prototypes"]["0"][:, -1].tolist() == [1, 0]
    deployed = method.deploy(first, phase())
    assert deployed["head.0.bias"][1] < -1e29
    second = after_a_round(method, ([1], [1, 1]), first, phase(2))
    np.testing.assert_array_equal(second["prototypes"]["0"][0], first["prototypes"]["0"][0])
    assert second["prototypes"]["0"][:, -1].tolist() == [1, 1]


def test_the_nearest_prototype_is_predicted_over_all_tasks_or_the_head_is_used():
    method = FedProto(rank=2)
    first = after_a_round(method)
    at = phase(task=TASKS[1], index=3)
    assert method.broadcast(method.begin(first, at, BACKBONE), at).references == {}, "none of the new task's yet"
    state = after_a_round(method, ([0, 1], [1, 0], [0]), method.begin(first, at, BACKBONE), at)
    deployed, x = method.deploy(state, at), np.random.default_rng(9).normal(size=(50, WIDTH))
    scores = np.concatenate([x @ deployed[f"head.{t}.weight"].T + deployed[f"head.{t}.bias"] for t in (0, 1)], 1)
    means = np.concatenate([state["prototypes"][t][:, :-1] for t in ("0", "1")])
    nearest = [min(range(4), key=lambda c: np.square(row - means[c]).sum()) for row in x]
    assert scores.argmax(1).tolist() == nearest
    head = FedProto(rank=2, predict="head").deploy(state, at)
    assert all(head[n] is a for n, a in state["head"].items())


def step_of(method, state, labels):
    at, adapted = phase(2), model(method.adapter)
    broadcast = method.broadcast(state, at)
    adapted.load(broadcast.arrays, method.local(at).trained(list(broadcast.arrays)))
    data = client_data(dataset(), labels)
    session = ClientSession(0, at, adapted, broadcast, {}, data)
    return Batch(session, data.images(data.indices), data.labels(data.indices), data.indices)


@pytest.mark.parametrize("splits", [SPLITS, ([0, 0], [0])], ids=["both classes", "one class has none"])
def test_the_loss_is_the_literal_one_and_prototypes_get_no_gradient(splits):
    method = FedProto(rank=2, strength=0.7)
    state = after_a_round(method, splits)
    step = step_of(method, state, np.array([0, 1, 4, 5, 8]))  # images of classes 0 and 1
    known = {c: row[:-1] for c, row in enumerate(state["prototypes"]["0"]) if row[-1]}
    pull = reference_gaussians.prototype_loss(step.features.detach().double().numpy(), step.labels.tolist(), known)
    loss = method.loss(step)
    assert loss.item() == pytest.approx(step.cross_entropy().item() + 0.7 * pull, rel=1e-5)
    loss.backward()
    assert not step.constant("prototypes").requires_grad


def test_without_a_pull_and_in_a_tasks_first_round_it_is_federated_averaging():
    part = client_data(dataset(), np.arange(0, 48, 2))
    part = client_data(dataset(), part.indices[dataset().train.labels[part.indices] < 2])

    def trained(method, state, at):
        train = Train(epochs=1, batch=8, lr=1e-2)
        return run_client(method, model(method.adapter), part, train, at, method.broadcast(state, at), 0, {}).arrays

    plain, pulled, none = FedAvg(rank=2), FedProto(rank=2), FedProto(rank=2, strength=0.0)
    start, state = begun(plain), after_a_round(pulled)
    first = trained(plain, start, phase())
    assert all(np.array_equal(a, first[n]) for n, a in trained(pulled, begun(pulled), phase()).items())
    later = trained(plain, state, phase(2))
    assert all(np.array_equal(a, later[n]) for n, a in trained(none, state, phase(2)).items())
    assert not all(np.array_equal(a, later[n]) for n, a in trained(pulled, state, phase(2)).items())


def test_sums_that_no_samples_have_are_refused():
    method = FedProto(rank=2)
    state, at = begun(method), phase()
    broadcast = method.broadcast(state, at)
    good = update(method, at, 0, [0, 0, 1], broadcast)
    bad = ClientUpdate(0, 0, 3, good.arrays, {**good.statistics, "counts.0": np.array([2, 2], "f4")})
    assert "add up to 4" in str(method.objection(at, broadcast, bad))
