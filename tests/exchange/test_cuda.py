"""What only a GPU can show: the same run, close to the CPU's, with the arrays on the device."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fcil.client.settings import Train
from fcil.config import Config, MethodChoice, Run
from fcil.data import Data
from fcil.data.transforms import View, render
from fcil.exchange.device import PeakMemory
from fcil.exchange.flower.exchange import ray_exchange
from fcil.exchange.inline import Inline
from fcil.exchange.worker import Worker
from fcil.model.backbone import Model, describe_backbone
from fcil.model.precision import resolve
from fcil.scenario.partition import Partition
from fcil.scenario.tasks import Tasks
from fcil.server.loop import ask, run
from fcil.server.plan import initial_progress, make_plan
from fcil.statistics.gram_sum import GramSum

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
    plan = make_plan(config, worker.method, worker.census, describe_backbone(config.model))
    return worker, run(plan, initial_progress(plan), Inline(worker), lambda event: None, lambda progress: None)


def test_a_cuda_run_is_close_to_the_cpu_and_repeats_itself():
    worker, first = _run(CONFIG)
    assert next(worker.model.network.parameters()).is_cuda
    assert _run(CONFIG)[1].correct == first.correct
    _, cpu = _run(replace(CONFIG, run=Run(device="cpu")))
    assert np.abs(np.subtract(first.correct[-1], cpu.correct[-1])).sum() <= 3


def test_bf16_runs_on_the_device():
    _, progress = _run(replace(CONFIG, model=Model(precision="bf16")))
    assert len(progress.correct) == 2
    assert all(np.isfinite(a).all() for group in progress.state.values() for a in group.values())


def test_fp16_trains_with_scaled_steps_on_the_device():
    worker = Worker.of(replace(CONFIG, model=Model(precision="fp16")))
    plan = make_plan(worker.config, worker.method, worker.census, describe_backbone(worker.config.model))
    request = ask(plan, initial_progress(plan))
    update = worker.work(request.phase, request.broadcast, min(request.num_examples))
    assert 0 <= update.metrics["skipped_steps"] < update.metrics["images"]
    assert all(np.isfinite(a).all() for a in update.arrays.values())


def test_auto_is_a_low_precision_on_any_gpu_of_the_last_years():
    device = torch.device("cuda")
    if torch.cuda.get_device_capability(device)[0] >= 7:
        assert resolve("auto", device) in ("bf16", "fp16")


def test_peak_memory_is_that_of_the_client_on_the_device():
    device = torch.device("cuda")
    torch.zeros(50_000_000, device=device)
    memory = PeakMemory(device)
    before = memory.metrics()["peak_memory_bytes"]
    kept = torch.zeros(25_000_000, device=device)
    assert memory.metrics()["peak_memory_bytes"] - before == pytest.approx(1e8, rel=0.01)
    assert before < 2e8
    del kept


def test_ray_workers_share_a_gpu(tmp_path):
    config = replace(CONFIG, run=Run(device="cuda", exchange="ray", workers=2, gpus_per_client=0.5))
    worker = Worker.of(config)
    plan = make_plan(config, worker.method, worker.census, describe_backbone(config.model))
    exchange = ray_exchange(config, tmp_path)
    try:
        done = run(plan, initial_progress(plan), exchange, lambda event: None, lambda progress: None)
    finally:
        exchange.close()
    assert done.correct == _run(CONFIG)[1].correct


def test_views_on_the_device_are_those_of_the_cpu():
    rng = np.random.default_rng(0)
    images = [np.tile(rng.integers(0, 256, (1, w, 3)), (h, 1, 1)).astype(np.uint8) for h, w in [(70, 56), (56, 90)]]
    for view in (View(resize=224, crop="area", flip=True), View(resize=256, crop="centre")):
        cpu = render(images, view, 56, np.random.default_rng(1))
        cuda = render(images, view, 56, np.random.default_rng(1), "cuda")
        assert cuda.is_cuda
        assert (cuda.cpu() - cpu).abs().mean() < 1 / 255


def test_sums_of_grams_on_the_device_are_those_of_the_cpu():
    x = torch.tensor(np.random.default_rng(0).standard_normal((50, 20)))
    cpu, cuda = GramSum(x[:0], 20), GramSum(x[:0].cuda(), 20)
    for piece in torch.split(x, 15):
        cpu.add(piece)
        cuda.add(piece.cuda())
        a, b = cpu.factor(3), cuda.factor(3)
        np.testing.assert_allclose(a.T @ a, b.T @ b, atol=1e-10)
    np.testing.assert_allclose(cpu.half(), cuda.half(), atol=1e-10)
