"""A backbone's weights from a local file: safetensors, PyTorch's own format, or NumPy archives. No object is unpickled.

.safetensors   a state dict
.pth .pt .bin  a state dict, bare or under one of the usual keys, read with `weights_only=True`
.npz           a state dict, or the original JAX layout (through timm's own reader)
"""

import re
import zipfile
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fcil.errors import ConfigError, FcilError

__all__ = ["SUFFIXES", "load_weights", "resize"]

NESTED = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "teacher", "encoder")
"""Keys under which checkpoints keep a state dict; averaged weights come first, as in timm."""
CLASSIFIER = ("head.", "head_dist.", "fc.", "classifier.")
JAX = "Transformer/encoderblock"


def load_weights(network: nn.Module, path: Path, name: str) -> list[str]:
    """Fill the network from a file, position embeddings resampled to its grid; on the meta device only check.

    Args:
        name: of the backbone, for messages.

    Returns:
        Names of the file's arrays that were left out: a classifier's, and what lies beside the backbone.

    Raises:
        ConfigError: the file is damaged, holds more than arrays, or does not fit the network.
    """
    try:
        arrays = _READERS[path.suffix](path)
        if any(JAX in key for key in arrays):
            return _fill_from_jax(network, path, arrays)
        state, left_out = _select(_nested(arrays), network)
        _fill(network, state)
        return left_out
    except FcilError:
        raise
    except _Misfit as error:
        raise ConfigError(f"model.weights: {path} does not fit {name}: {error}") from None
    except Exception as error:  # what a reader may raise over a torn or a hostile file is not listed anywhere
        raise ConfigError(_complaint(path, error)) from None


class _Misfit(ValueError):
    """A good file of another network."""


def _complaint(path: Path, error: Exception) -> str:
    reason = str(error).strip().partition("\n")[0][:200]
    if type(error).__name__ == "UnpicklingError" or "allow_pickle" in reason:
        return (
            f"model.weights: {path} holds other objects than arrays, or is damaged. They could run code, so they are "
            "not read: where you trust the file, save its state dict alone, best as .safetensors"
        )
    return f"model.weights: {path}: damaged, or of no known layout ({reason}); fetch or make it again"


# ---- reading ---------------------------------------------------------------------------------------------------------


def _read_torch(path: Path) -> Mapping[str, Any]:
    mapped = zipfile.is_zipfile(path)  # files from before torch 1.6 cannot be memory-mapped
    read: object = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    if not isinstance(read, Mapping):
        raise TypeError(f"a {type(read).__name__}, not a state dict")
    return read


def _read_npz(path: Path) -> Mapping[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


_READERS: dict[str, Callable[[Path], Mapping[str, Any]]] = {
    ".safetensors": load_file, ".pth": _read_torch, ".pt": _read_torch, ".bin": _read_torch, ".npz": _read_npz
}  # fmt: skip
SUFFIXES = tuple(_READERS)


def _nested(read: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict inside a checkpoint."""
    while inner := [read[key] for key in NESTED if isinstance(read.get(key), Mapping)]:
        read = inner[0]
    return {name: value for name, value in read.items() if isinstance(value, Tensor)}


# ---- state dicts -----------------------------------------------------------------------------------------------------


def _select(state: dict[str, Tensor], network: nn.Module) -> tuple[dict[str, Tensor], list[str]]:
    """The backbone's arrays under its own names, and the names of those that lie beside it.

    Wrappers put their name before all (`module.`, `backbone.`). What stands before the first block's weight is taken
    for such a prefix, if it is the only one.
    """
    sign = "blocks.0.attn.qkv.weight"
    found = {name.removesuffix(sign) for name in state if name.endswith(sign)}
    prefixes = sorted(p for p in found if not p or p.endswith("."))
    if len(prefixes) > 1 and "" not in prefixes:
        raise _Misfit(f"it holds several networks ({', '.join(prefixes)}); save the state dict of one")
    prefix = prefixes[0] if prefixes else ""
    inside = {name.removeprefix(prefix): a for name, a in state.items() if name.startswith(prefix)}
    beside = [name for name in state if not name.startswith(prefix)]
    known = network.state_dict().keys()
    classifier = [name for name in inside if name.startswith(CLASSIFIER) and name not in known]
    return {name: a for name, a in inside.items() if name not in classifier}, beside + classifier


def _fill(network: nn.Module, state: dict[str, Tensor]) -> None:
    """Through timm's filter, which knows the names of other libraries and resamples position embeddings."""
    wanted = network.state_dict()
    state = {name: a.float() if a.is_floating_point() else a for name, a in state.items()}  # before any arithmetic
    patch = "patch_embed.proj.weight"  # timm would resample it as well: that makes another network of it
    if patch in state and patch in wanted and state[patch].dim() == 4 and state[patch].shape != wanted[patch].shape:
        raise _Misfit(f"{patch} is {tuple(state[patch].shape)}, not {tuple(wanted[patch].shape)}")
    native = getattr(import_module(type(network).__module__), "checkpoint_filter_fn", None)
    if native is not None:
        state = native(state, network)
    _compare({n: tuple(a.shape) for n, a in wanted.items()}, {n: tuple(a.shape) for n, a in state.items()})
    if not next(network.parameters()).is_meta:
        network.load_state_dict(state)


def _compare(wanted: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]]) -> None:
    odd = [f"{n} {given[n]} for {wanted[n]}" for n in sorted(wanted.keys() & given.keys()) if wanted[n] != given[n]]
    parts = {
        "missing": sorted(wanted.keys() - given.keys()), "not expected": sorted(given.keys() - wanted.keys()),
        "of another shape": odd,
    }  # fmt: skip
    told = "; ".join(f"{len(names)} {what} ({', '.join(names[:3])})" for what, names in parts.items() if names)
    if told:
        raise _Misfit(told)


# ---- the JAX layout --------------------------------------------------------------------------------------------------


def resize(network: nn.Module, size: int) -> None:
    """Resample the position embeddings to another side of the input, in pixels."""
    if getattr(network.patch_embed, "img_size", None) != (size, size):
        network.set_input_size(img_size=size)  # type: ignore[operator]


def _fill_from_jax(network: nn.Module, path: Path, arrays: Mapping[str, Tensor]) -> list[str]:
    """At the file's own grid, so that position embeddings are resampled in the same way as from any other format."""
    if not hasattr(network, "load_pretrained"):
        raise _Misfit("only timm's VisionTransformer reads the JAX layout")
    embed: Any = network.patch_embed
    _compare_jax(network, arrays)
    size = embed.img_size[0]
    tokens = next(a.shape[-2] for name, a in arrays.items() if name.endswith("pos_embedding"))
    grid = round((tokens - int(getattr(network, "num_prefix_tokens", 1))) ** 0.5)
    resize(network, grid * embed.patch_size[0])
    try:
        network.load_pretrained(str(path))  # type: ignore[operator]
    except KeyError as error:
        raise _Misfit(f"missing: {error.args[0]}") from None
    except RuntimeError as error:  # of Tensor.copy_
        raise _Misfit(str(error).partition("\n")[0]) from None
    resize(network, size)
    return [name for name in arrays if re.search(r"(^|/)(head|pre_logits)/", name)]


def _compare_jax(network: nn.Module, arrays: Mapping[str, Tensor]) -> None:
    """Compare what timm's reader does not: it takes what it needs from a deeper network or other patches too."""
    blocks = {int(found[1]) for name in arrays if (found := re.search(rf"{JAX}_(\d+)/", name))}
    depth = len(network.blocks)  # type: ignore[arg-type]
    if blocks and blocks != set(range(depth)):
        raise _Misfit(f"it has blocks {min(blocks)} to {max(blocks)}, the network {depth}")
    kernel = next((a for name, a in arrays.items() if name.endswith("embedding/kernel")), None)
    patch: tuple[int, ...] = network.patch_embed.patch_size  # type: ignore[union-attr, assignment]
    if kernel is not None and kernel.dim() == 4 and tuple(kernel.shape[:2]) != tuple(patch):
        raise _Misfit(f"its patches are {tuple(kernel.shape[:2])}, the network's {tuple(patch)}")
