"""The test bed of methods: a random ViT of two blocks, and images of random patterns; no file is read."""

from collections.abc import Sequence

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer

from fcil.client.data import ClientData
from fcil.data.dataset import Dataset, Split
from fcil.data.transforms import View
from fcil.method import Adapter, Backbone
from fcil.model.adapted import AdaptedModel
from fcil.seeding import generator

__all__ = ["BACKBONE", "LINEARS", "SIZE", "WIDTH", "client_data", "patterns", "tiny_model", "tiny_vit"]

SIZE, WIDTH, BLOCKS, PATCH = 16, 32, 2, 8
LINEARS = {
    f"blocks.{block}.{layer}": shape
    for block in range(BLOCKS)
    for layer, shape in {
        "attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH),
        "mlp.fc1": (2 * WIDTH, WIDTH), "mlp.fc2": (WIDTH, 2 * WIDTH),
    }.items()
}  # fmt: skip


def tiny_vit(seed: int = 0) -> VisionTransformer:
    """Build a random ViT: two blocks of width 32 on four patches; 5 tokens."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = VisionTransformer(
            img_size=SIZE, patch_size=PATCH, embed_dim=WIDTH, depth=BLOCKS, num_heads=2, mlp_ratio=2.0, num_classes=0
        )
        for weight in network.parameters():  # timm's own start is so small that layers hardly do anything
            if weight.dim() == 2:
                torch.nn.init.normal_(weight, std=0.2)
    return network


def _weight(layer: str) -> np.ndarray:
    return np.asarray(tiny_vit().get_submodule(layer).weight.detach().numpy())  # type: ignore[operator]


BACKBONE = Backbone(
    WIDTH, LINEARS, BLOCKS, (PATCH, PATCH), parameters={n: tuple(p.shape) for n, p in tiny_vit().named_parameters()},
    weight=_weight,
)  # fmt: skip


def tiny_model(adapter: Adapter | None, precision: str = "fp32", seed: int = 0) -> AdaptedModel:
    """Build a resident model of the tiny ViT and an adapter, on the CPU."""
    return AdaptedModel(tiny_vit(seed), adapter, "cpu", precision)


def patterns(samples: int = 48, classes: int = 4, seed: int = 0) -> Dataset:
    """Draw a data set, a pattern per class under noise: `samples` images for training and for testing, 16 x 16 x 1."""
    rng = generator(seed, "patterns")
    drawn = rng.integers(0, 256, (classes, SIZE, SIZE, 1))

    def part() -> Split:
        labels = np.arange(samples) % classes
        noise = rng.integers(0, 256, (samples, SIZE, SIZE, 1))
        return Split(((3 * drawn[labels] + noise) // 4).astype(np.uint8), labels.astype(np.int64))

    view = View(crop="area", scale=(0.6, 1.0), ratio=(0.8, 1.25), flip=True)
    return Dataset("patterns", tuple("abcdefghij"[:classes]), part(), part(), train_view=view)


def client_data(data: Dataset, indices: np.ndarray, earlier: Sequence[np.ndarray] = ()) -> ClientData:
    """Give a client these training samples, and `earlier` ones of past tasks; classes stand in their own order."""
    positions, device = np.arange(len(data.classes)), torch.device("cpu")
    return ClientData(data, np.asarray(indices), positions, SIZE, device, tuple(earlier))
