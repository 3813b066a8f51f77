"""The frozen backbone: any timm ViT by name, from local weights, or the embedded one."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fcil.embedded import asset
from fcil.errors import ConfigError
from fcil.method import Backbone
from fcil.model import tiny
from fcil.options import Option, nearest

__all__ = ["Model", "describe_backbone", "load_backbone"]

EMBEDDED = "vit_tiny_fashion.safetensors"
RANDOM, HUB, INCLUDED = "random", "timm", "embedded"


@dataclass(frozen=True, kw_only=True)
class Model:
    """`[model]`: the frozen backbone."""

    backbone: Annotated[str, Option(f'name of a timm vision transformer, or "{tiny.NAME}", the embedded one')] = (
        tiny.NAME
    )
    weights: Annotated[
        str,
        Option('"embedded", the path of a .safetensors file, "timm" (downloads), or "random" (for tests and timings)'),
    ] = INCLUDED
    image_size: Annotated[
        int, Option("side of the input; position embeddings are resampled to it", "pixels", low=4)
    ] = 32
    precision: Annotated[
        Literal["fp32", "bf16"], Option("arithmetic of forward and backward passes; sums and merges stay in float64")
    ] = "fp32"


def _build(settings: Model, pretrained: bool = False) -> nn.Module:
    """The network at its native size, without a classifier; raises ConfigError for a name that is not a timm ViT."""
    if settings.backbone == tiny.NAME:
        return tiny.vit_tiny()
    if not timm.is_model(settings.backbone):
        names = [tiny.NAME, *timm.list_models("*vit*")]
        known = nearest(settings.backbone, names) if len(settings.backbone) > 3 else ""
        raise ConfigError(f"model.backbone = {settings.backbone!r}: not a timm model. {known[:200]}")
    network = timm.create_model(settings.backbone, pretrained=pretrained, num_classes=0)
    if not hasattr(network, "blocks") or not hasattr(network, "set_input_size"):
        raise ConfigError(f"model.backbone = {settings.backbone!r}: not a vision transformer with `blocks`")
    return network


def _fit(network: nn.Module, size: int) -> nn.Module:
    embed: Any = network.patch_embed
    if size % (patch := embed.patch_size[0]):
        raise ConfigError(f"model.image_size = {size}: must be a multiple of the backbone's patch size {patch}")
    if embed.img_size != (size, size):
        logging.getLogger("timm").setLevel(logging.WARNING)
        network.set_input_size(img_size=size)  # type: ignore[operator]
    return network


def _read(settings: Model) -> dict[str, Tensor]:
    if settings.weights == INCLUDED and settings.backbone != tiny.NAME:
        raise ConfigError(
            f'model.weights = "{INCLUDED}": only {tiny.NAME} ships with weights; for {settings.backbone} give the path '
            f'of a .safetensors file, or "{HUB}" to download'
        )
    path = asset(EMBEDDED) if settings.weights == INCLUDED else Path(settings.weights).expanduser()
    if path.suffix != ".safetensors" or not path.is_file():
        raise ConfigError(f"model.weights = {settings.weights!r}: no such .safetensors file")
    try:
        return {name: w.float() for name, w in load_file(path).items()}
    except SafetensorError as error:
        raise ConfigError(f"{path}: damaged ({error}); fetch or make it again") from None


def _insert(network: nn.Module, state: Mapping[str, Tensor], settings: Model) -> None:
    wanted = network.state_dict()
    given = {name: w for name, w in state.items() if not name.startswith("head.")}  # a pre-training classifier
    missing, extra = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    shapes = [n for n in wanted.keys() & given.keys() if wanted[n].shape != given[n].shape]
    if missing or extra or shapes:
        parts = {"missing": missing, "not expected": extra, "of another shape": sorted(shapes)}
        told = "; ".join(f"{len(names)} {what} ({', '.join(names[:3])})" for what, names in parts.items() if names)
        raise ConfigError(f"model.weights = {settings.weights!r} does not fit {settings.backbone}: {told}")
    network.load_state_dict(given)


def _random(settings: Model) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # timm draws from the global state; forked, it stays as it was
        return _build(settings)


def _hash(network: nn.Module) -> str:
    sha = hashlib.sha256()
    for name, w in sorted(network.state_dict().items()):
        sha.update(f"{name}|{tuple(w.shape)}|".encode())
        sha.update(w.contiguous().numpy().tobytes())
    return sha.hexdigest()


def load_backbone(settings: Model) -> tuple[nn.Module, str]:
    """Load the backbone, frozen and in eval mode, and the SHA-256 of its weights as loaded.

    Raises:
        ConfigError: unknown name, weights that are missing, damaged or of another network, or an image size that does
            not fit.
    """
    if settings.weights == RANDOM:
        network = _random(settings)
    else:
        if settings.weights != HUB:
            state = _read(settings)
            network = _random(settings)
            _insert(network, state, settings)
        else:
            network = _build(settings, pretrained=True)
    sha256 = _hash(network)
    return _fit(network, settings.image_size).eval().requires_grad_(False), sha256


def describe_backbone(settings: Model) -> Backbone:
    """Width and linear layers of the blocks, without allocating a single weight."""
    with torch.device("meta"):
        network = _build(settings)
    linears = {
        name: (module.out_features, module.in_features)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and name.startswith("blocks.")
    }
    return Backbone(width=int(network.num_features), linears=linears)  # type: ignore[arg-type]
