"""Small things that tests are made with: a random ViT of two blocks, a data set of random patterns, phases."""

import numpy as np

from fcil.battery.tiny import BACKBONE, LINEARS, SIZE, WIDTH, client_data, tiny_vit
from fcil.battery.tiny import patterns as dataset
from fcil.battery.tiny import tiny_model as model
from fcil.battery.trial import small
from fcil.method import Phase, Task
from fcil.registry import build_method, method_class, method_names

__all__ = [
    "BACKBONE", "BENCH", "LINEARS", "SIZE", "WIDTH", "client_data", "dataset", "dense", "model", "phase",
    "representatives", "small_settings", "tiny_vit",
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
    """One of the methods that share these functions and the phases of a task: others would only say the same again."""
    found = {}
    for name in method_names():
        method = build_method(name, {})
        shared = tuple(getattr(type(method), function, None) for function in functions)
        found[shared, method.phases(Task(0, 0, 1), 1), method.stream] = name
    return sorted(found.values())


def small_settings(name):
    """[method] of a run: its name, and settings small enough for a tiny backbone."""
    return {"name": name} | small(method_class(name))


def phase(round=1, kind="train", task=None, index=None, seed=0):
    return Phase(round - 1 if index is None else index, kind, task or Task(0, 0, 2), round, seed)


def dense(arrays, layer):
    """B A of a layer, in float64."""
    return arrays[f"{layer}.lora_B"].astype(np.float64) @ arrays[f"{layer}.lora_A"].astype(np.float64)
