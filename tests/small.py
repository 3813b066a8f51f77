"""Small things that tests are made with: a random ViT of two blocks, a data set of random patterns, phases."""

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer

from fcil.client.data import ClientData
from fcil.data.dataset import Dataset, Split
from fcil.data.transforms import View
from fcil.method import Backbone, Phase, Task
from fcil.model.adapted import AdaptedModel
from fcil.options import describe
from fcil.registry import build_method, method_class, method_names

SIZE, WIDTH = 16, 32
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


def tiny_vit(seed=0):
    """Two blocks of width 32 on four patches; 5 tokens."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        network = VisionTransformer(
            img_size=SIZE, patch_size=8, embed_dim=WIDTH, depth=2, num_heads=2, mlp_ratio=2.0, num_classes=0
        )
        for weight in network.parameters():  # timm's own start is so small that layers hardly do anything
            if weight.dim() == 2:
                torch.nn.init.normal_(weight, std=0.2)
    return network


LINEARS = {
    f"blocks.{block}.{layer}": shape
    for block in range(2)
    for layer, shape in {
        "attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH),
        "mlp.fc1": (2 * WIDTH, WIDTH), "mlp.fc2": (WIDTH, 2 * WIDTH),
    }.items()
}  # fmt: skip
BACKBONE = Backbone(WIDTH, LINEARS, 2, (8, 8))


def model(adapter, precision="fp32", seed=0):
    return AdaptedModel(tiny_vit(seed), adapter, "cpu", precision)


def dataset(samples=48, classes=4, seed=0):
    """A pattern per class under noise; the training part and an equally large test part."""
    rng = np.random.default_rng(seed)
    patterns = rng.integers(0, 256, (classes, SIZE, SIZE, 1))

    def part():
        labels = np.arange(samples) % classes
        noise = rng.integers(0, 256, (samples, SIZE, SIZE, 1))
        return Split(((3 * patterns[labels] + noise) // 4).astype(np.uint8), labels.astype(np.int64))

    view = View(crop="area", scale=(0.6, 1.0), ratio=(0.8, 1.25), flip=True)
    return Dataset("patterns", tuple("abcdefghij"[:classes]), part(), part(), train_view=view)


def client_data(data, indices):
    return ClientData(data, np.asarray(indices), np.arange(len(data.classes)), SIZE, torch.device("cpu"))


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
    known = {option.name for option in describe(method_class(name))}
    return {"name": name} | {key: value for key, value in {"rank": 2, "size": 24, "length": 3}.items() if key in known}


def phase(round=1, kind="train", task=None, index=None, seed=0):
    return Phase(round - 1 if index is None else index, kind, task or Task(0, 0, 2), round, seed)


def dense(arrays, layer):
    """B A of a layer, in float64."""
    return arrays[f"{layer}.lora_B"].astype(np.float64) @ arrays[f"{layer}.lora_A"].astype(np.float64)
