"""`fcil merge-models`: two timm checkpoints into one."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from fcil.cli.arguments import at_least_1, pixels, set_argument
from fcil.errors import ConfigError, MergeError

__all__ = ["merge_models", "merge_models_command"]


def _batches(config: Any, count: int) -> list[Any]:
    """The first `count` training images of a seeded order, as the model sees them, 32 at a time."""
    import numpy as np

    from fcil.data import load
    from fcil.data.dataset import model_inputs
    from fcil.seeding import generator

    data, size = load(config.data, config.model.image_size), config.model.image_size
    order = generator(config.run.seed, "merge-models").permutation(len(data.train))[:count]
    chosen = [np.sort(order[begin : begin + 32]) for begin in range(0, len(order), 32)]
    return [model_inputs(data.train.images[each], data, size) for each in chosen]


def _check(given: argparse.Namespace) -> None:
    """All that can be told before a network is built."""
    from fcil.model.weights import SUFFIXES

    for path in (given.a, given.b):
        if path.suffix not in SUFFIXES or not path.is_file():
            raise ConfigError(f"{path}: no such file, or none of {', '.join(SUFFIXES)}; name the weights of a timm ViT")
    if given.out.suffix != ".safetensors" or not given.out.parent.is_dir():
        raise ConfigError(f"--out {given.out}: must be a .safetensors file in a folder that exists")
    if not 0 <= given.alpha <= 1:
        raise ConfigError(f"--alpha {given.alpha:g}: must be from 0 (activations only) to 1 (weights only)")
    if given.fit and not given.config:
        raise ConfigError("--fit needs images: name the data with --config CONFIG")


def merge_models(given: argparse.Namespace, console: Console) -> None:
    """`fcil merge-models A B --out FILE`."""
    from safetensors.torch import save

    from fcil.config import load_config
    from fcil.engine.records import write_atomic
    from fcil.model import alignment
    from fcil.model.backbone import load_backbone
    from fcil.model.settings import Model

    _check(given)
    config = load_config(given.config, given.set) if given.config else None
    settings = config.model if config else Model(backbone=given.backbone, image_size=given.image_size)
    a, b = (load_backbone(replace(settings, weights=str(path))) for path in (given.a, given.b))
    batches = _batches(config, given.images) if config else []
    try:
        seen = alignment.correlations(a, b, batches) if batches and given.alpha < 1 else None
        orders = alignment.match_units(a, a.state_dict(), b.state_dict(), seen, given.alpha)
        aligned = alignment.permuted(b.state_dict(), orders)
        merged = alignment.average(a.state_dict(), aligned)
        if given.fit:
            b.load_state_dict(aligned)
            merged = alignment.refit(a, b, merged, batches)
    except MergeError as error:
        raise ConfigError(f"{given.a} and {given.b}: {error}") from None
    write_atomic(given.out, save({name: w.contiguous() for name, w in merged.items()}))
    moved, units = sum(o.moved for o in orders.values()), sum(o.units for o in orders.values())
    console.print(
        f"{given.out}: the mean of both; {moved} of {units} hidden units of {given.b} were moved to their match"
        + ("; blocks fitted to both networks' activations" if given.fit else ""), soft_wrap=True, markup=False,
    )  # fmt: skip


def merge_models_command(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `merge-models`."""
    made = command("merge-models", merge_models, "merge two checkpoints of one timm ViT, their hidden units matched")
    made.add_argument("a", type=Path, metavar="A", help="weights of a timm ViT, a local file")
    made.add_argument("b", type=Path, metavar="B", help="of the same architecture; its units are put in A's order")
    made.add_argument("--out", type=Path, required=True, metavar="FILE", help="where to write, .safetensors")
    made.add_argument("--config", type=Path, metavar="CONFIG", help="whose data and [model] to use (default: no data)")
    set_argument(made)
    made.add_argument("--backbone", default="fcil_vit_tiny", metavar="NAME", help="without CONFIG: any timm ViT")
    made.add_argument("--image-size", type=pixels, default=32, metavar="PX", help="without CONFIG (default: 32)")
    made.add_argument(
        "--alpha", type=float, default=0.5, metavar="SHARE",
        help="of the weights' similarity in the matching, activations have the rest (default: 0.5; without CONFIG 1)",
    )  # fmt: skip
    made.add_argument(
        "--images", type=at_least_1("images"), default=256, metavar="N", help="to run both networks on (default: 256)"
    )
    made.add_argument("--fit", action="store_true", help="fit merged layers to both networks' activations, as PLeaS")
