"""VPT as a method: what trains and is sent, what is averaged, and what goes on through tasks."""

from dataclasses import replace

import numpy as np
import pytest
import reference
from rounds import COUNTS, begun, steps
from small import BACKBONE, WIDTH, client_data, dataset, model, phase

from fcil.client.settings import Train
from fcil.client.training import run_client
from fcil.data.transforms import View
from fcil.engine.simulation import prepare, simulate
from fcil.method import Task
from fcil.model.prompts import Prompts
from strategies.vpt import VPT

METHODS = [VPT(depth="shallow", length=3), VPT(length=3)]
each = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.depth)


def test_what_is_trained_is_what_its_settings_say():
    assert VPT(depth="shallow", length=7).adapter == Prompts("shallow", 7)
    assert VPT().adapter == Prompts("deep", 10)


@each
def test_prompts_and_head_rows_are_means_weighted_by_examples(method):
    for _, sent, updates, after in steps(method):
        assert set(sent) == {*after["module"], "head.0.weight", "head.0.bias"}
        for name, a in {**after["module"], **after["head"]}.items():
            mean = reference.fedavg([u.arrays[name] for u in updates], COUNTS)
            np.testing.assert_allclose(a, mean, rtol=1e-5, atol=1e-6)


@each
def test_prompts_go_on_into_the_next_task_and_old_head_rows_stay(method):
    *_, (_, _, _, state) = steps(method, 2)
    later = phase(1, task=Task(1, 2, 2), index=2)
    started = method.begin(state, later, BACKBONE)
    assert started["module"] == state["module"]
    sent = method.broadcast(started, later).arrays
    assert {n for n in sent if n.startswith("head.")} == {"head.1.weight", "head.1.bias"}
    *_, (_, _, _, end) = steps(method, 2, started, later.task)
    deployed = method.deploy(end, later)
    for name, a in state["head"].items():
        assert deployed[name] is a


@each
def test_a_client_trains_prompts_downhill_and_nothing_at_no_rate(method):
    data, at, state = replace(dataset(), train_view=View()), phase(), begun(method)
    part = client_data(data, np.flatnonzero(data.train.labels < 2))
    broadcast = method.broadcast(state, at)

    def after(lr):
        train = Train(epochs=5, batch=24, lr=lr, optimizer="sgd")  # whole batches: the loss is that after four steps
        return run_client(method, model(method.adapter), part, train, at, broadcast, 0, {})

    still = after(1e-30)
    for name, a in still.arrays.items():
        np.testing.assert_array_equal(a, broadcast.arrays[name])
    moved = after(2e-2)
    assert moved.metrics["loss"] < still.metrics["loss"]
    assert all(np.abs(moved.arrays[n] - a).max() > 1e-5 for n, a in broadcast.arrays.items())


@pytest.mark.parametrize("server", ["mean", "adam"])
@each
def test_a_run_sends_prompts_and_head_rows_and_nothing_else(method, server, digits_config, tmp_path):
    settings = {"name": "vpt", "depth": method.depth, "length": 3, "server": server, "server_lr": 0.01}
    config = digits_config({"data": {"train_limit": 60, "test_limit": 40}, "method": settings, "train": {"batch": 16}})
    summary = simulate(prepare(config), tmp_path / "run")
    prompts = (4 if method.depth == "deep" else 1) * 3 * 128
    head = 5 * (128 + 1)  # of a task's five classes
    assert summary["upload_bytes"] == summary["asked"] * 4 * (prompts + head)
    assert summary["refused"] == 0


def test_the_prompts_of_the_client_are_as_wide_as_the_backbone():
    module = begun(VPT(length=3))["module"]
    assert {n: a.shape for n, a in module.items()} == {f"prompts.{block}": (3, WIDTH) for block in range(2)}
