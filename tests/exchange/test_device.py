"""Devices and memory, as far as a machine without a GPU can show them."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fcil.config import Config, Run
from fcil.engine.simulation import prepare, simulate
from fcil.exchange.device import PeakMemory, clients_device, local_device
from fcil.server.plan import Progress

CPU = torch.device("cpu")


def on(**run):
    return clients_device(replace(Config(), run=Run(**run)))


def test_auto_is_cuda_where_there_is_a_gpu(monkeypatch):
    for available, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda result=available: result)
        assert local_device("auto") == torch.device(device)
    assert local_device("cuda:1") == torch.device("cuda", 1)


def test_ray_workers_have_a_gpu_where_they_ask_for_a_share_of_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert on(exchange="ray").type == "cpu"
    assert on(exchange="ray", gpus_per_client=0.25).type == "cuda"
    assert on(exchange="ray", gpus_per_client=0.25, device="cpu").type == "cpu"
    assert on(exchange="inline").type == "cuda"


FLAGS = """
import os, torch
from fcil.exchange.device import repeatable
def flags():
    cudnn = torch.backends.cudnn
    return (torch.are_deterministic_algorithms_enabled(), cudnn.benchmark, cudnn.allow_tf32,
            torch.get_float32_matmul_precision(), "CUBLAS_WORKSPACE_CONFIG" in os.environ)
os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
torch.backends.cudnn.benchmark = True
before = flags()
repeatable(torch.device("cpu"))
assert flags() == before
repeatable(torch.device("cuda"))
assert flags() == (True, False, False, "highest", True), flags()
"""


def test_a_gpu_is_asked_for_repeatable_arithmetic_and_a_processor_is_left_alone():
    """In a process of its own: the flags are global."""
    result = subprocess.run([sys.executable, "-W", "error", "-c", FLAGS], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


needs_linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")


@needs_linux
def test_peak_memory_is_of_the_time_since_it_was_made():
    big = np.ones(25_000_000)  # 200 MB
    during = PeakMemory(CPU).metrics()["peak_memory_bytes"]
    del big
    before = PeakMemory(CPU).metrics()["peak_memory_bytes"]
    assert during - before > 150e6
    watched = PeakMemory(CPU)
    np.ones(25_000_000)
    assert watched.metrics()["peak_memory_bytes"] - before > 150e6


def test_where_the_peak_cannot_be_reset_nothing_is_told(monkeypatch):
    def refuse(*_, **__):
        raise PermissionError

    monkeypatch.setattr("fcil.exchange.device._files", refuse)
    assert PeakMemory(CPU).metrics() == {}


@needs_linux
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12 on; the child only reads a file
def test_a_child_that_was_forked_is_told_its_own_peak():
    PeakMemory(CPU)
    big = np.ones(25_000_000)
    read, write = os.pipe()
    if not (child := os.fork()):
        big = None
        os.write(write, str(PeakMemory(CPU).metrics()["peak_memory_bytes"]).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = float(os.read(read, 64))
    ours = PeakMemory(CPU).metrics()["peak_memory_bytes"]
    assert ours - theirs > 150e6
    del big


def test_totals_of_memory_are_maxima_and_all_others_are_sums():
    progress = Progress(0, {}).add(images=3).raise_to(memory=5).add(images=4).raise_to(memory=4)
    assert progress.totals == {"images": 7, "memory": 5}
    assert progress.raise_to(memory=6).totals["memory"] == 6


@needs_linux
def test_a_run_tells_the_most_memory_that_any_client_took(digits_config, tmp_path):
    config = digits_config({"data": {"train_limit": 40, "test_limit": 20}, "train": {"rounds": 1}})
    summary = simulate(prepare(config, tmp_path / "run"), tmp_path / "run")
    events = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    result = [event["peak_memory_bytes"] for event in events if event["event"] == "client"]
    assert len(result) > 3
    assert summary["peak_memory_bytes"] == max(result)
