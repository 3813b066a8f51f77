"""Read a backbone's weights from a local file: safetensors, PyTorch's format, or NumPy archives. Nothing is unpickled.

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
    """Fill the network from a file, position embeddings resampled to its grid; on the meta device only check the file.

    Args:
        name: the backbone's name, for messages.

    Returns:
        Names of the arrays in the file that were left out: a classifier's, and those of other networks beside it.

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
    """Raised where a file is intact, but holds another network."""


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
    checkpoint: object = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    if not isinstance(checkpoint, Mapping):
        raise TypeError(f"a {type(checkpoint).__name__}, not a state dict")
    return checkpoint


def _read_npz(path: Path) -> Mapping[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


_READERS: dict[str, Callable[[Path], Mapping[str, Any]]] = {
    ".safetensors": load_file, ".pth": _read_torch, ".pt": _read_torch, ".bin": _read_torch, ".npz": _read_npz
}  # fmt: skip
SUFFIXES = tuple(_READERS)


def _nested(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict inside a checkpoint."""
    while nested := [checkpoint[key] for key in NESTED if isinstance(checkpoint.get(key), Mapping)]:
        checkpoint = nested[0]
    return {name: value for name, value in checkpoint.items() if isinstance(value, Tensor)}


# ---- state dicts -----------------------------------------------------------------------------------------------------


def _select(state: dict[str, Tensor], network: nn.Module) -> tuple[dict[str, Tensor], list[str]]:
    """Select the backbone's arrays, under its own names; also return the names of all other arrays.

    Wrappers put a prefix before all names (`module.`, `backbone.`). What stands before the first block's weight is
    taken for such a prefix, if it is the only one.
    """
    first_block = "blocks.0.attn.qkv.weight"
    beginnings = {name.removesuffix(first_block) for name in state if name.endswith(first_block)}
    prefixes = sorted(p for p in beginnings if not p or p.endswith("."))
    if len(prefixes) > 1 and "" not in prefixes:
        raise _Misfit(f"it holds several networks ({', '.join(prefixes)}); save the state dict of one")
    prefix = prefixes[0] if prefixes else ""
    inside = {name.removeprefix(prefix): a for name, a in state.items() if name.startswith(prefix)}
    outside = [name for name in state if not name.startswith(prefix)]
    names = network.state_dict().keys()
    classifier = [name for name in inside if name.startswith(CLASSIFIER) and name not in names]
    return {name: a for name, a in inside.items() if name not in classifier}, outside + classifier


def _fill(network: nn.Module, state: dict[str, Tensor]) -> None:
    """Fill the network through timm's filter, which knows other libraries' names and resamples position embeddings."""
    expected = network.state_dict()
    state = {name: a.float() if a.is_floating_point() else a for name, a in state.items()}  # before any arithmetic
    patch = "patch_embed.proj.weight"  # timm would resample it as well: that makes another network of it
    if patch in state and patch in expected and state[patch].dim() == 4 and state[patch].shape != expected[patch].shape:
        raise _Misfit(f"{patch} is {tuple(state[patch].shape)}, not {tuple(expected[patch].shape)}")
    native = getattr(import_module(type(network).__module__), "checkpoint_filter_fn", None)
    if native is not None:
        state = native(state, network)
    _compare({n: tuple(a.shape) for n, a in expected.items()}, {n: tuple(a.shape) for n, a in state.items()})
    if not next(network.parameters()).is_meta:
        network.load_state_dict(state)


def _compare(expected: Mapping[str, tuple[int, ...]], actual: Mapping[str, tuple[int, ...]]) -> None:
    reshaped = [
        f"{n} {actual[n]} for {expected[n]}"
        for n in sorted(expected.keys() & actual.keys())
        if expected[n] != actual[n]
    ]
    parts = {
        "missing": sorted(expected.keys() - actual.keys()), "not expected": sorted(actual.keys() - expected.keys()),
        "of another shape": reshaped,
    }  # fmt: skip
    message = "; ".join(f"{len(names)} {what} ({', '.join(names[:3])})" for what, names in parts.items() if names)
    if message:
        raise _Misfit(message)


# ---- the JAX layout --------------------------------------------------------------------------------------------------


def resize(network: nn.Module, size: int) -> None:
    """Resample the position embeddings to another side of the input, in pixels."""
    if getattr(network.patch_embed, "img_size", None) != (size, size):
        network.set_input_size(img_size=size)  # type: ignore[operator]


def _fill_from_jax(network: nn.Module, path: Path, arrays: Mapping[str, Tensor]) -> list[str]:
    """Fill the network at the file's grid, so that position embeddings are resampled as from any other format."""
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
    except RuntimeError as error:  # raised by Tensor.copy_
        raise _Misfit(str(error).partition("\n")[0]) from None
    resize(network, size)
    return [name for name in arrays if re.search(r"(^|/)(head|pre_logits)/", name)]


def _compare_jax(network: nn.Module, arrays: Mapping[str, Tensor]) -> None:
    """Compare depth and patch size, which timm's reader does not: it takes deeper networks and other patches too."""
    blocks = {int(block[1]) for name in arrays if (block := re.search(rf"{JAX}_(\d+)/", name))}
    depth = len(network.blocks)  # type: ignore[arg-type]
    if blocks and blocks != set(range(depth)):
        raise _Misfit(f"it has blocks {min(blocks)} to {max(blocks)}, the network {depth}")
    kernel = next((a for name, a in arrays.items() if name.endswith("embedding/kernel")), None)
    patch: tuple[int, ...] = network.patch_embed.patch_size  # type: ignore[union-attr, assignment]
    if kernel is not None and kernel.dim() == 4 and tuple(kernel.shape[:2]) != tuple(patch):
        raise _Misfit(f"its patches are {tuple(kernel.shape[:2])}, the network's {tuple(patch)}")
