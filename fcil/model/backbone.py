"""Load the frozen backbone: any timm ViT by name with local or downloaded weights, or the embedded one."""

import copy
import functools
import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import nn

from fcil.arrays import digest
from fcil.errors import ConfigError
from fcil.method import Backbone
from fcil.model import tiny
from fcil.model.embedded import asset
from fcil.model.layer_tokens import has_class_token
from fcil.model.prompt_forward import refusal
from fcil.model.settings import INCLUDED, TINY, Model
from fcil.model.weights import SUFFIXES, load_weights, resize
from fcil.options import nearest

__all__ = ["RANDOM", "Model", "describe_backbone", "load_backbone", "weights_left_out", "weights_sha256"]

EMBEDDED = "vit_tiny_fashion.safetensors"
RANDOM, HUB = "random", "timm"


def _build(settings: Model, pretrained: bool = False) -> nn.Module:
    """Build the network at the image size of the settings, without a classifier.

    Raises:
        ConfigError: not a timm ViT, an image size that does not fit, or a download that failed.
    """
    if settings.backbone == TINY:
        return _fit(tiny.vit_tiny(), settings)
    if not timm.is_model(settings.backbone):
        names = [TINY, *timm.list_models("*vit*")]
        hint = nearest(settings.backbone, names) if len(settings.backbone) > 3 else ""
        raise ConfigError(f"model.backbone = {settings.backbone!r}: not a timm model. {hint[:200]}")
    try:
        network = timm.create_model(settings.backbone, pretrained=pretrained, num_classes=0)
    except Exception as error:  # timm lets through whatever its hub's client raises
        if not pretrained:
            raise ConfigError(f"model.backbone = {settings.backbone!r}: {error}") from None
        raise ConfigError(
            f'model.weights = "{HUB}": {settings.backbone} could not be downloaded ({_first_line(error)}); '
            "give the path of a file with its weights"
        ) from None
    if not hasattr(network, "blocks") or not hasattr(network, "set_input_size"):
        raise ConfigError(f"model.backbone = {settings.backbone!r}: not a vision transformer with `blocks`")
    return _fit(network, settings)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


def _fit(network: nn.Module, settings: Model) -> nn.Module:
    """Resample the position embeddings to the image size of the settings."""
    embed: Any = network.patch_embed
    if settings.image_size % (patch := embed.patch_size[0]):
        raise ConfigError(
            f"model.image_size = {settings.image_size}: must be a multiple of the backbone's patch size {patch}"
        )
    logging.getLogger("timm").setLevel(logging.WARNING)
    resize(network, settings.image_size)
    return network


def _path(settings: Model) -> Path:
    """The path of the weights file."""
    if settings.weights == INCLUDED:
        if settings.backbone != TINY:
            raise ConfigError(
                f'model.weights = "{INCLUDED}": only {TINY} ships with weights; for {settings.backbone} give the '
                f'path of a file ({", ".join(SUFFIXES)}), or "{HUB}" to download'
            )
        return asset(EMBEDDED)
    path = Path(settings.weights).expanduser()
    if path.suffix not in SUFFIXES or not path.is_file():
        raise ConfigError(
            f"model.weights = {settings.weights!r}: no such file, or none of {', '.join(SUFFIXES)}. Give its path, or "
            + (f'"{INCLUDED}"' if settings.backbone == TINY else f'"{HUB}" to download those of {settings.backbone}')
        )
    return path


def _random(settings: Model) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # timm draws from the global state; forked, it stays as it was
        return _build(settings)


def load_backbone(settings: Model) -> nn.Module:
    """Load the backbone with its weights, frozen, in eval mode, at the image size of the settings.

    Raises:
        ConfigError: unknown name, weights that are missing, damaged or of another network, or an image size that does
            not fit.
    """
    if settings.weights == HUB:
        network = _build(settings, pretrained=True)
    else:
        network = _random(settings)
        if settings.weights != RANDOM:
            load_weights(network, _path(settings), settings.backbone)
    return network.eval().requires_grad_(False)


def weights_sha256(settings: Model) -> str:
    """SHA-256 of the weights: of their file, or of the arrays where timm downloads them."""
    if settings.weights == RANDOM:
        return RANDOM
    if settings.weights != HUB:
        path = _path(settings)
        about = os.stat(path)
        return _file_sha256(path, about.st_ino, about.st_size, about.st_mtime_ns)
    state = _build(settings, pretrained=True).state_dict()
    return digest({name: w.float().numpy() for name, w in state.items()})


@functools.lru_cache(maxsize=8)
def _file_sha256(path: Path, *about: int) -> str:
    """SHA-256 of a file, read once in a process while it is the same: every run of a study asks for it three times."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.lru_cache(maxsize=8)
def _shapes(settings: Model) -> nn.Module:
    """Build the network without memory for weights, once in a process: every run asks for it several times."""
    with torch.device("meta"):
        return _build(settings)


def _outline(settings: Model) -> tuple[nn.Module, list[str]]:
    """Build the network without memory for weights, check the file against it, and name the arrays it leaves out."""
    network = _shapes(Model(backbone=settings.backbone, image_size=settings.image_size))
    network = copy.deepcopy(network)  # some files are checked at a size of their own
    named = settings.weights not in (HUB, RANDOM)
    return network, load_weights(network, _path(settings), settings.backbone) if named else []


def weights_left_out(settings: Model) -> list[str]:
    """Names of the arrays in the weights file that the backbone has no use for, such as a classifier's."""
    return _outline(settings)[1]


def _linears(network: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of the blocks by name, in the order of the forward pass."""
    named = network.named_modules()
    return {name: m for name, m in named if isinstance(m, nn.Linear) and name.startswith("blocks.")}


class _Weights:
    """Hands out the weights of linear layers. The network is loaded when a layer is first asked for.

    Layers up to the one that was asked for are let go, so that nothing of the network stays after the last one. Who
    goes back to an earlier layer has the network loaded again.
    """

    def __init__(self, settings: Model) -> None:
        self.settings = settings
        self.ahead: dict[str, np.ndarray] = {}

    def __call__(self, layer: str) -> np.ndarray:
        """Return the weight of a linear layer, (out, in) float32.

        Raises:
            KeyError: no such layer.
        """
        if layer not in self.ahead:
            linears = _linears(load_backbone(self.settings))
            self.ahead = {name: np.asarray(module.weight.numpy()) for name, module in linears.items()}
        weight = self.ahead[layer]
        names = list(self.ahead)
        self.ahead = {name: self.ahead[name] for name in names[names.index(layer) + 1 :]}
        return weight


def describe_backbone(settings: Model) -> Backbone:
    """Describe the backbone: width, patches, linear layers. Allocates no weight; checks the weights file on the way.

    Weights can be had from `Backbone.weight`, which loads them then.

    Raises:
        ConfigError: as `load_backbone`, except for what only a download could show.
    """
    network, _ = _outline(settings)
    linears = {name: (module.out_features, module.in_features) for name, module in _linears(network).items()}
    embed: Any = network.patch_embed
    return Backbone(
        int(network.num_features),  # type: ignore[arg-type]
        linears,
        len(network.blocks),  # type: ignore[arg-type]
        tuple(embed.patch_size),
        tuple(embed.grid_size),
        has_class_token(network),
        hasattr(network, "forward_intermediates"),
        refusal(network),
        {name: tuple(parameter.shape) for name, parameter in network.named_parameters()},
        weight=_Weights(settings),
        head_start=settings.head_start,
    )
