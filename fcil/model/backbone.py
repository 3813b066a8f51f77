"""The frozen backbone: any timm ViT by name, from local weights, or the embedded one."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from fcil.arrays import digest
from fcil.embedded import asset
from fcil.errors import ConfigError
from fcil.method import Backbone
from fcil.model import tiny
from fcil.options import Option, nearest

__all__ = ["Model", "describe_backbone", "load_backbone", "weights_sha256"]

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


def _check_size(network: nn.Module, size: int) -> None:
    embed: Any = network.patch_embed
    if size % (patch := embed.patch_size[0]):
        raise ConfigError(f"model.image_size = {size}: must be a multiple of the backbone's patch size {patch}")


def _fit(network: nn.Module, size: int) -> nn.Module:
    """Resample the position embeddings to the wanted image size."""
    _check_size(network, size)
    if getattr(network.patch_embed, "img_size", None) != (size, size):
        logging.getLogger("timm").setLevel(logging.WARNING)
        network.set_input_size(img_size=size)  # type: ignore[operator]
    return network


def _path(settings: Model) -> Path:
    """The weights file."""
    if settings.weights == INCLUDED:
        if settings.backbone != tiny.NAME:
            raise ConfigError(
                f'model.weights = "{INCLUDED}": only {tiny.NAME} ships with weights; for {settings.backbone} give the '
                f'path of a .safetensors file, or "{HUB}" to download'
            )
        return asset(EMBEDDED)
    path = Path(settings.weights).expanduser()
    if path.suffix != ".safetensors" or not path.is_file():
        raise ConfigError(
            f"model.weights = {settings.weights!r}: no such .safetensors file. Give its path, or "
            f'"{HUB}" to download timm\'s weights for {settings.backbone}'
        )
    return path


def _check_file(path: Path, wanted: Mapping[str, Tensor], settings: Model) -> None:
    """Raise ConfigError unless the file holds exactly the backbone's arrays (a classifier `head.*` is passed over)."""
    try:
        with safe_open(path, "pt") as file:
            given = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys() if not _classifier(name)}  # noqa: SIM118
    except SafetensorError as error:
        raise ConfigError(f"{path}: damaged ({error}); fetch or make it again") from None
    missing, extra = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    odd = sorted(n for n in wanted.keys() & given.keys() if tuple(wanted[n].shape) != given[n])
    if missing or extra or odd:
        parts = {"missing": missing, "not expected": extra, "of another shape": odd}
        told = "; ".join(f"{len(names)} {what} ({', '.join(names[:3])})" for what, names in parts.items() if names)
        raise ConfigError(f"model.weights: {path} does not fit {settings.backbone}: {told}")


def _classifier(name: str) -> bool:
    return name.startswith("head.")


def _random(settings: Model) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # timm draws from the global state; forked, it stays as it was
        return _build(settings)


def load_backbone(settings: Model) -> nn.Module:
    """The backbone with its weights, frozen, in eval mode, at the wanted image size.

    Raises:
        ConfigError: unknown name, weights that are missing, damaged or of another network, or an image size that does
            not fit.
    """
    if settings.weights == HUB:
        network = _build(settings, pretrained=True)
    else:
        network = _random(settings)
        if settings.weights != RANDOM:
            path = _path(settings)
            _check_file(path, network.state_dict(), settings)
            state = load_file(path)
            network.load_state_dict({name: w.float() for name, w in state.items() if not _classifier(name)})
    return _fit(network, settings.image_size).eval().requires_grad_(False)


def weights_sha256(settings: Model) -> str:
    """SHA-256 of the weights: of the file, or of the arrays where timm brings them."""
    if settings.weights == RANDOM:
        return RANDOM
    if settings.weights != HUB:
        with open(_path(settings), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    state = _build(settings, pretrained=True).state_dict()
    return digest({name: w.float().numpy() for name, w in state.items()})


def describe_backbone(settings: Model) -> Backbone:
    """Width and linear layers of the blocks, without allocating a weight; checks the weights file on the way.

    Raises:
        ConfigError: as `load_backbone`, except for what only a download could show.
    """
    with torch.device("meta"):
        network = _build(settings)
    if settings.weights not in (HUB, RANDOM):
        _check_file(_path(settings), network.state_dict(), settings)
    _check_size(network, settings.image_size)
    linears = {
        name: (module.out_features, module.in_features)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and name.startswith("blocks.")
    }
    return Backbone(width=int(network.num_features), linears=linears)  # type: ignore[arg-type]
