"""CCVR: what is calibrated, on what, and what stays."""

import numpy as np
import pytest
import torch
from rounds import begun, steps
from small import BACKBONE, WIDTH, phase

from fcil.engine.simulation import prepare, simulate
from fcil.method import ClientUpdate, Task
from strategies.ccvr import CCVR
from strategies.fedavg import FedAvg

TASKS = (Task(0, 0, 2), Task(1, 2, 3))
COUNTS = [[5, 4, 0], [9, 0, 3]]


def report(method, state, task, means):
    """The state after a task's report by three clients whose features are around the classes' means."""
    at = phase(2, "report", TASKS[task], index=9)
    broadcast, rng, updates = method.broadcast(state, at), np.random.default_rng(task), []
    for client in range(3):
        labels = np.repeat(np.arange(len(means)), [n + client for n in COUNTS[task][: len(means)]] or [1])
        features = means[labels] + 0.1 * rng.normal(size=(len(labels), WIDTH))
        updates.append(ClientUpdate(client, 9, len(labels), {}, _sent(method, at, features, labels)))
    assert all(method.objection(at, broadcast, u) is None for u in updates)
    return method.merge(state, at, updates), at


def _sent(method, at, features, labels):
    arrays = {f"head.{at.task.index}.weight": np.zeros((at.task.size, WIDTH))}
    model = type("Model", (), {"device": torch.device("cpu")})
    collector = method.moments(at.task).start(arrays, model, None)
    collector.batch(torch.tensor(features), torch.tensor(labels) + at.task.first, None)
    return collector.finish()


def two_tasks(method):
    rng = np.random.default_rng(0)
    means = [rng.normal(size=(task.size, WIDTH)) for task in TASKS]
    *_, (_, _, _, state) = steps(method, 1)
    first, _ = report(method, state, 0, means[0])
    second = method.begin(first, phase(task=TASKS[1], index=10), BACKBONE)
    done, at = report(method, second, 1, means[1])
    return state, first, second, done, at, np.concatenate(means)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_a_calibrated_head_tells_all_classes_apart_and_the_backbones_modules_stay(covariance):
    method = CCVR(rank=2, covariance=covariance, calibration_lr=0.1, calibration_epochs=20)
    trained, first, second, done, at, means = two_tasks(method)
    assert first["module"] == trained["module"]
    assert all(done["module"][n] is a for n, a in second["module"].items())
    deployed = method.deploy(done, at)
    scores = np.concatenate([means @ deployed[f"head.{t}.weight"].T + deployed[f"head.{t}.bias"] for t in (0, 1)], 1)
    assert scores.argmax(1).tolist() == [0, 1, 2, 3, 4]


def test_only_the_tasks_own_rows_are_calibrated_where_that_is_asked_and_gaussians_of_all_are_kept():
    _, first, second, done, _, _ = two_tasks(CCVR(rank=2, calibrate="current"))
    for name in ("head.0.weight", "head.0.bias"):
        np.testing.assert_array_equal(done["head"][name], first["head"][name])
    assert not np.array_equal(done["head"]["head.1.weight"], second["head"]["head.1.weight"])
    kept = {f"{kind}.{t}" for kind in ("counts", "means", "covariances") for t in (0, 1)}
    assert set(done["gaussians"]) == kept
    _, _, _, other, _, _ = two_tasks(CCVR(rank=2))
    assert not np.array_equal(other["head"]["head.0.weight"], first["head"]["head.0.weight"])


def test_no_epochs_are_federated_averaging_and_equal_reports_give_equal_bits():
    _, _, _, none, _, _ = two_tasks(CCVR(rank=2, calibration_epochs=0))
    *_, (_, _, _, plain) = steps(FedAvg(rank=2), 1)
    for group in ("module", "head"):
        for name, a in plain[group].items():
            np.testing.assert_array_equal(a, none[group][name])
    one, other = (two_tasks(CCVR(rank=2))[3] for _ in range(2))
    assert all(np.array_equal(a, other["head"][n]) for n, a in one["head"].items())


def test_a_class_that_nobody_has_keeps_its_row_and_takes_no_part():
    method = CCVR(rank=2)
    state = begun(method)
    start = state["head"]
    means = np.random.default_rng(0).normal(size=(1, WIDTH))
    done, _ = report(method, state, 0, means)
    np.testing.assert_array_equal(done["head"]["head.0.weight"][1], start["head.0.weight"][1])
    np.testing.assert_array_equal(done["head"]["head.0.weight"][0], start["head.0.weight"][0])  # alone: no gradient


def test_on_frozen_features_calibration_removes_what_masked_training_leaves(digits_config, tmp_path):
    """The head of earlier tasks has never seen the classes of later ones; drawn features show them to it."""

    def final(name):
        method = {"name": name, "adapter": "head"}
        config = digits_config(
            {"method": method, "train": {"rounds": 1}, "data": {"train_limit": 100, "test_limit": 60}}
        )
        return simulate(prepare(config), tmp_path / name)["final_accuracy"]

    assert final("ccvr") > final("fedavg") + 0.15
