"""What only a GPU can show: the same run, close to the CPU's, with the arrays on the device."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fcil.config import Config, MethodChoice, Run
from fcil.data import Data
from fcil.data.transforms import View, render
from fcil.inline import Inline
from fcil.local import Train
from fcil.loop import make_plan, run, start
from fcil.model.backbone import Model, describe_backbone
from fcil.partition import Partition
from fcil.tasks import Tasks
from fcil.worker import Worker

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch sees none"),
]
CONFIG = Config(
    data=Data(train_limit=120, test_limit=60),
    tasks=Tasks(count=2),
    partition=Partition(clients=2, min_samples=1),
    train=Train(rounds=2, epochs=1),
    method=MethodChoice("lorm", {"rank": 4}),
    run=Run(device="cuda"),
)


def _run(config):
    worker = Worker.of(config)
    plan = make_plan(config, worker.method, worker.scenario, describe_backbone(config.model))
    return worker, run(plan, start(plan), Inline(worker), lambda event: None, lambda progress: None)


def test_a_cuda_run_is_close_to_the_cpu_and_repeats_itself():
    worker, first = _run(CONFIG)
    assert next(worker.model.network.parameters()).is_cuda
    assert _run(CONFIG)[1].right == first.right
    _, cpu = _run(replace(CONFIG, run=Run(device="cpu")))
    assert np.abs(np.subtract(first.right[-1], cpu.right[-1])).sum() <= 3


def test_bf16_runs_on_the_device():
    _, progress = _run(replace(CONFIG, model=Model(precision="bf16")))
    assert len(progress.right) == 2
    assert all(np.isfinite(a).all() for group in progress.state.values() for a in group.values())


def test_views_on_the_device_are_those_of_the_cpu():
    rng = np.random.default_rng(0)
    images = [np.tile(rng.integers(0, 256, (1, w, 3)), (h, 1, 1)).astype(np.uint8) for h, w in [(70, 56), (56, 90)]]
    for view in (View(resize=224, crop="area", flip=True), View(resize=256, crop="centre")):
        cpu = render(images, view, 56, np.random.default_rng(1))
        cuda = render(images, view, 56, np.random.default_rng(1), "cuda")
        assert cuda.is_cuda
        assert (cuda.cpu() - cpu).abs().mean() < 1 / 255
