"""Exports a trained run as weights of the plain timm network, changes folded in, with one linear head."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from fcil.arrays import Arrays
from fcil.config import Config
from fcil.data import family
from fcil.data.views import shown
from fcil.engine.checkpoints import read_progress
from fcil.engine.records import read_config
from fcil.engine.session import Session, prepare
from fcil.errors import ConfigError
from fcil.files import write_atomic
from fcil.merging.lowrank import dense
from fcil.method import Method, head
from fcil.model.backbone import load_backbone
from fcil.model.lora import Lora
from fcil.model.settings import TINY, Model
from fcil.model.weight_adapter import DELTA, PARAMETER, WeightAdapter
from fcil.seeding import torch_generator
from fcil.server.loop import deployed_arrays

__all__ = ["export", "exported_weights"]


def _answers_alike(session: Session, network: nn.Module, weights: Mapping[str, Tensor], arrays: Arrays) -> bool:
    """Tell whether the network with these weights gives the method's scores of random images."""
    method, model = session.plan.method, session.worker.model
    size = session.plan.config.model.image_size
    images = torch.randn(8, 3, size, size, generator=torch_generator(0, "export"))
    model.load(arrays)
    network.load_state_dict(dict(weights))
    with torch.inference_mode():
        scores, answers = method.scores(model, images).double(), network(images).double()
    return scores.shape == answers.shape and torch.allclose(scores, answers, rtol=1e-3, atol=1e-3 * float(scores.std()))


def exported_weights(network: nn.Module, method: Method, arrays: Arrays) -> dict[str, Tensor]:
    """The network's weights with the changes of deployed arrays added in float64, and `head.weight`, `head.bias`.

    Args:
        network: the backbone as it was before any training.
        arrays: those that a method deploys; the head's rows in the order of the classes.
    """
    weights = {name: w.clone() for name, w in network.state_dict().items()}

    def add(name: str, change: np.ndarray) -> None:
        moved = weights[name].double() + torch.from_numpy(change.astype(np.float64)).reshape(weights[name].shape)
        weights[name] = moved.to(weights[name].dtype)

    if isinstance(method.adapter, WeightAdapter):
        for layer, change in method.adapter.changes(arrays, every_parameter=True).items():
            add(layer.removeprefix(PARAMETER) if layer.startswith(PARAMETER) else f"{layer}.weight", dense(change))
    if isinstance(method.adapter, Lora):  # beside whose pairs merges deploy dense changes
        for name in (name for name in arrays if name.endswith(DELTA)):
            add(f"{name.removesuffix(DELTA)}.weight", arrays[name])
    tasks = head.tasks_of(arrays)
    for kind, of in (("weight", head.weight), ("bias", head.bias)):
        weights[f"head.{kind}"] = torch.from_numpy(np.concatenate([arrays[of(t)] for t in tasks]).astype(np.float32))
    return weights


def export(folder: Path, out: Path) -> str:
    """Write what a run has learned as a file that timm loads, with classes and normalisation as its metadata.

    Returns:
        How to load it.

    Raises:
        ConfigError: the run is in the middle of a task, or its method does not predict by weights and a linear head.
    """
    if out.suffix != ".safetensors" or not out.parent.is_dir():
        raise ConfigError(f"{out}: must be a .safetensors file in a folder that exists")
    config, progress = read_config(folder), read_progress(folder)
    on_cpu = replace(config, model=replace(config.model, precision="fp32"), run=replace(config.run, device="cpu"))
    session = prepare(on_cpu, folder)
    plan = session.plan
    if progress is None or not progress.position or not plan.ends_task(progress.position - 1):
        raise ConfigError(f"{folder}: has not learned a task to its end; `fcil resume {folder}` goes on with it")
    phase = plan.phases[progress.position - 1]
    arrays = deployed_arrays(plan, progress, phase)
    network: Any = load_backbone(config.model)
    weights = exported_weights(network, plan.method, arrays)
    network.head = nn.Linear(network.num_features, phase.task.seen)
    fits = weights["head.weight"].shape == network.head.weight.shape
    if not fits or not _answers_alike(session, network, weights, arrays):
        raise ConfigError(
            f"{folder}: {config.method.label} predicts by more than the weights of {config.model.backbone} and a "
            "linear head (prompts, random features, prototypes, tokens of layers), and timm would answer otherwise; "
            "Run.state() has all arrays"
        )
    metadata = _metadata(config, plan.census.classes[: phase.task.seen])
    write_atomic(out, save({name: w.contiguous() for name, w in weights.items()}, metadata))
    return _how_to_load(out, config.model, phase.task.seen)


def _metadata(config: Config, classes: Sequence[str]) -> dict[str, str]:
    """What a file of weights says of its network and images, as texts."""
    data = shown(family(config.data.name), config.data)
    entries = {
        "backbone": config.model.backbone, "image_size": config.model.image_size, "classes": list(classes),
        "mean": list(data.mean), "std": list(data.std), "method": config.method.label,
    }  # fmt: skip
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in entries.items()}


def _how_to_load(out: Path, model: Model, classes: int) -> str:
    """Say in Python how a file of weights becomes a network."""
    name, size = model.backbone, model.image_size
    build = f"network = timm.create_model({name!r}, num_classes={classes}, img_size={size})"
    if name == TINY:  # which timm does not know
        build = (
            f"network = fcil.model.tiny.vit_tiny(); network.set_input_size({size}); network.reset_classifier({classes})"
        )
    load = f"network.load_state_dict(safetensors.torch.load_file({out.name!r}))"
    return f"{out}: {name}, {classes} classes: {build}; {load}"
