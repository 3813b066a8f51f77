"""Small things that tests are made with: a random ViT of two blocks, a data set of random patterns, phases."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from fcil.battery.tiny import BACKBONE, LINEARS, SIZE, WIDTH, client_data, tiny_vit
from fcil.battery.tiny import patterns as dataset
from fcil.battery.tiny import tiny_model as model
from fcil.battery.trial import small
from fcil.method import Phase, Task
from fcil.registry import build_method, method_class, method_names

__all__ = [
    "BACKBONE", "BENCH", "LINEARS", "SIZE", "WIDTH", "client_data", "dataset", "dense", "model",
    "mostly_slow", "phase", "representatives", "small_settings", "small_toml", "tiny_vit", "weight_sized_tensors",
]  # fmt: skip

BENCH = """
data = {train_limit = 90, test_limit = 80}
model = {image_size = 16}
tasks = {count = 3}
train = {rounds = 1, epochs = 2}
method = {name = "fedavg", rank = 2}
run = {device = "cpu"}
[bench]
methods = ["task_arithmetic", "task_arithmetic(sum = 'sum', scale = 0.5)", "lorm"]
experts = [2, 3]
[bench.grid.task_arithmetic]
scale = [0.0, 1.0]
"""
"""A merging benchmark of seconds; the fixture `bench_file` has it on disk."""


def representatives(*functions):
    """Choose one of the methods that share these functions and a task's phases: others would only repeat it."""
    results = {}
    for name in method_names():
        method = build_method(name, {})
        shared = tuple(getattr(type(method), function, None) for function in functions)
        results[shared, method.phases(Task(0, 0, 1), 1), method.stream] = name
    return sorted(results.values())


QUICK = {
    "fedavg",
    "lorm",
    "lorm+ranpac",
    "ridge",
    "ties",
    "compose",
    "flora",
    "scaffold",
    "icarl",
    "ccvr",
    "dualprompt",
}
"""Methods of different kinds, by which the quick tests try what holds for all of them."""


def mostly_slow(names):
    """Parameters of a test over methods: the others than QUICK, which hardly differ from one of these, are slow."""
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


def small_settings(name):
    """[method] of a run: its name, and settings small enough for a tiny backbone."""
    return {"name": name} | small(method_class(name))


def phase(round=1, kind="train", task=None, index=None, seed=0):
    return Phase(round - 1 if index is None else index, kind, task or Task(0, 0, 2), round, seed)


@contextmanager
def weight_sized_tensors(network):
    """Yield a list of shapes: of tensors saved for the backward pass that are as large as a weight, but are none."""
    frozen = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    sizes = {tuple(sorted(shape)) for shape in LINEARS.values()}
    shapes = []

    def note(tensor):
        if tuple(sorted(tensor.shape)) in sizes and tensor.untyped_storage().data_ptr() not in frozen:
            shapes.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield shapes


def dense(arrays, layer):
    """B A of a layer, in float64."""
    return arrays[f"{layer}.lora_B"].astype(np.float64) @ arrays[f"{layer}.lora_A"].astype(np.float64)


def small_toml(train: int = 60, test: int = 20, tasks: int = 2, exchange: str = "inline") -> str:
    """A configuration of the embedded digits that runs in seconds: so many images and tasks, two clients, one round."""
    return f"""
[data]
train_limit = {train}
test_limit = {test}
[tasks]
count = {tasks}
[partition]
clients = 2
min_samples = 1
[train]
rounds = 1
epochs = 1
[run]
device = "cpu"
exchange = "{exchange}"
"""
