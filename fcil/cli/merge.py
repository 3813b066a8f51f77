"""Run `fcil merge-models`: merge two timm checkpoints into one."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from fcil.cli.arguments import at_least_1, pixels, set_argument, share
from fcil.errors import ConfigError, MergeError

__all__ = ["merge_models", "merge_models_command"]


def _batches(config: Any, count: int) -> list[Any]:
    """Load the first `count` training images of a seeded order as model inputs, 32 at a time."""
    import numpy as np

    from fcil.data import load
    from fcil.data.dataset import model_inputs
    from fcil.seeding import generator

    data, size = load(config.data, config.model.image_size), config.model.image_size
    order = generator(config.run.seed, "merge-models").permutation(len(data.train))[:count]
    batches = [np.sort(order[begin : begin + 32]) for begin in range(0, len(order), 32)]
    return [model_inputs(data.train.images[batch], data, size) for batch in batches]


def _check(args: argparse.Namespace) -> None:
    """Check the arguments as far as possible before a network is built; raises ConfigError."""
    from fcil.model.weights import SUFFIXES

    for path in (args.a, args.b):
        if path.suffix not in SUFFIXES or not path.is_file():
            raise ConfigError(f"{path}: no such file, or none of {', '.join(SUFFIXES)}; name the weights of a timm ViT")
    if args.out.suffix != ".safetensors" or not args.out.parent.is_dir():
        raise ConfigError(f"--out {args.out}: must be a .safetensors file in a folder that exists")
    if args.fit and not args.config:
        raise ConfigError("--fit needs images: name the data with --config CONFIG")


def merge_models(args: argparse.Namespace, console: Console) -> None:
    """Merge two checkpoints into a file (`fcil merge-models A B --out FILE`)."""
    from fcil.data.progress import waiting

    with waiting(console, "loading code and weights") as step:
        message = _merged(args, step)
    console.print(message, soft_wrap=True, markup=False)


def _merged(args: argparse.Namespace, step: Callable[[str], None]) -> str:
    """Merge two checkpoints into a file, and say what was done."""
    from safetensors.torch import save

    from fcil.config import load_config
    from fcil.files import write_atomic
    from fcil.model import alignment
    from fcil.model.backbone import load_backbone
    from fcil.model.settings import Model

    _check(args)
    config = load_config(args.config, args.set) if args.config else None
    settings = config.model if config else Model(backbone=args.backbone, image_size=args.image_size)
    a, b = (load_backbone(replace(settings, weights=str(path))) for path in (args.a, args.b))
    batches = _batches(config, args.images) if config else []
    step("matching hidden units")
    try:
        correlations = alignment.correlations(a, b, batches) if batches and args.alpha < 1 else None
        orders = alignment.match_units(a, a.state_dict(), b.state_dict(), correlations, args.alpha)
        aligned = alignment.permuted(b.state_dict(), orders)
        merged = alignment.average(a.state_dict(), aligned)
        if args.fit:
            step("fitting blocks to the activations of both")
            b.load_state_dict(aligned)
            merged = alignment.refit(a, b, merged, batches)
    except MergeError as error:
        raise ConfigError(f"{args.a} and {args.b}: {error}") from None
    write_atomic(args.out, save({name: w.contiguous() for name, w in merged.items()}))
    moved, units = sum(o.moved for o in orders.values()), sum(o.units for o in orders.values())
    fitted = "; blocks fitted to both networks' activations" if args.fit else ""
    return (
        f"{args.out}: the mean of both; {moved} of {units} hidden units of {args.b} were moved to their match{fitted}"
    )


def merge_models_command(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command `merge-models`."""
    parser = command("merge-models", merge_models, "merge two checkpoints of one timm ViT, their hidden units matched")
    parser.add_argument("a", type=Path, metavar="A", help="weights of a timm ViT, a local file")
    parser.add_argument(
        "b", type=Path, metavar="B", help="weights of another one of that kind; its units are put in A's order"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where to write, .safetensors")
    parser.add_argument(
        "--config", type=Path, metavar="CONFIG", help="a TOML file whose data and [model] are used (default: no data)"
    )
    set_argument(parser)
    parser.add_argument(
        "--backbone",
        default="fcil_vit_tiny",
        metavar="NAME",
        help="any timm ViT, where there is no --config (default: the embedded)",
    )
    parser.add_argument(
        "--image-size", type=pixels, default=32, metavar="PX", help="where there is no --config (default: 32)"
    )
    parser.add_argument(
        "--alpha", type=share, default=0.5, metavar="SHARE",
        help="weight of the weights' likeness in matching, activations have the rest (default: 0.5; no --config: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--images",
        type=at_least_1("images"),
        default=256,
        metavar="N",
        help="run both networks on so many images of --config (default: 256)",
    )
    parser.add_argument("--fit", action="store_true", help="fit merged layers to both networks' activations, as PLeaS")
