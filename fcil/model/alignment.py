"""Two timm ViTs of one architecture, trained apart, made into one (see `fcil.merging.permutation`).

Hidden units of every MLP, attention heads, and the units within them are matched. The residual stream is not: both
networks have to use it alike, as two fine-tuned from one pre-trained model do; and no sign or rotation within a head is
undone. Everything else is averaged.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fcil.errors import MergeError
from fcil.merging.permutation import best_match, cosine, fitted, match_heads, mixed

__all__ = ["Orders", "average", "correlations", "match", "permuted", "refit"]

State = Mapping[str, Tensor]
LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
KNOWN = {f"{layer}.{part}" for layer in LAYERS for part in ("weight", "bias")}


@dataclass(frozen=True)
class Orders:
    """In what order one block's units of B are taken."""

    qk: np.ndarray
    """(heads d,)"""
    v: np.ndarray
    """(heads d,)"""
    hidden: np.ndarray
    """(hidden,)"""

    @property
    def units(self) -> int:
        """All of them."""
        return len(self.qk) + len(self.v) + len(self.hidden)

    @property
    def moved(self) -> int:
        """Units that are not in their own place."""
        return sum(int((order != np.arange(len(order))).sum()) for order in (self.qk, self.v, self.hidden))


def _blocks(network: nn.Module) -> Iterator[tuple[str, int]]:
    """Name and heads of each block; refuses what these orders do not fit."""
    for i, block in enumerate(network.blocks):  # type: ignore[arg-type]
        names = {name for name, _ in block.named_parameters() if name.startswith(("attn.", "mlp."))}
        if not {f"{layer}.weight" for layer in LAYERS} <= names or names - KNOWN:
            odd = sorted(names - KNOWN) or sorted(KNOWN - names)
            raise MergeError(f"blocks.{i}: not a plain attention and MLP block ({', '.join(odd[:3])})")
        yield f"blocks.{i}", int(block.attn.num_heads)


def _rows(state: State, layer: str) -> np.ndarray:
    """(out, in + 1) weights and biases, float64; biases that are not there are zero."""
    w = state[f"{layer}.weight"].double().numpy()
    bias = state.get(f"{layer}.bias")
    return np.column_stack([w, np.zeros(len(w)) if bias is None else bias.double().numpy()])


def match(
    network: nn.Module, a: State, b: State, seen: Mapping[str, np.ndarray] | None = None, alpha: float = 1.0
) -> dict[str, Orders]:
    """Block -> the orders that bring B's units to where A has their like.

    Args:
        network: of the architecture of both.
        seen: `correlations` of their activations; without them only weights are compared.
        alpha: weight of the weights' similarity; activations have the rest.
    """
    return {block: _match_block(block, heads, a, b, seen or {}, alpha) for block, heads in _blocks(network)}


def _match_block(block: str, heads: int, a: State, b: State, seen: Mapping[str, np.ndarray], alpha: float) -> Orders:
    def cut(m: np.ndarray) -> np.ndarray:
        return m.reshape(heads, -1, m.shape[-1])  # (heads, d, ...)

    parts = []
    for state in (a, b):
        q, k, v = np.split(_rows(state, f"{block}.attn.qkv"), 3)
        out = state[f"{block}.attn.proj.weight"].double().numpy().T
        parts.append([cut(q), cut(k), cut(np.column_stack([v, out]))])
    q, k, v = (cosine(mine[:, None], theirs[None]) for mine, theirs in zip(*parts, strict=True))
    found = seen.get(f"{block}.attn.qkv")
    if found is not None:
        d = q.shape[-1]
        each = found.reshape(3, heads, d, heads, d).transpose(0, 1, 3, 2, 4)
        q, k, v = (mixed(w, each[i], alpha) for i, w in enumerate((q, k, v)))
    qk_order, v_order = match_heads((q + k) / 2, v)
    rows = [np.column_stack([_rows(s, f"{block}.mlp.fc1"), s[f"{block}.mlp.fc2.weight"].double().T]) for s in (a, b)]
    hidden = best_match(mixed(cosine(*rows), seen.get(f"{block}.mlp.fc1"), alpha))
    return Orders(qk_order, v_order, hidden)


def permuted(state: State, orders: Mapping[str, Orders]) -> dict[str, Tensor]:
    """The same function with every block's units in another order."""
    out = dict(state)
    for block, order in orders.items():
        n = len(order.qk)
        rows = torch.from_numpy(np.concatenate([order.qk, n + order.qk, 2 * n + order.v]))
        v, hidden = torch.from_numpy(order.v), torch.from_numpy(order.hidden)
        for layer, chosen in (("attn.qkv", rows), ("mlp.fc1", hidden)):
            for name in (f"{block}.{layer}.weight", f"{block}.{layer}.bias"):
                if name in out:
                    out[name] = out[name][chosen]
        for layer, chosen in (("attn.proj", v), ("mlp.fc2", hidden)):
            out[f"{block}.{layer}.weight"] = out[f"{block}.{layer}.weight"][:, chosen]
    return out


def average(a: State, b: State) -> dict[str, Tensor]:
    """(A + B) / 2 in float32, of every array.

    Raises:
        MergeError: names or shapes that differ.
    """
    odd = [n for n in {**a, **b} if n not in a or n not in b or a[n].shape != b[n].shape]
    if odd:
        raise MergeError(f"the two networks differ in {', '.join(sorted(odd)[:3])}")
    return {name: ((w.double() + b[name].double()) / 2).float() for name, w in a.items()}


# ---- what data tell --------------------------------------------------------------------------------------------------

Look = Callable[[str, Tensor, Tensor], None]
"""(layer, its inputs (tokens, in), its outputs (tokens, out)), float32."""


def _observe(network: nn.Module, layers: Iterable[str], look: Look, images: Tensor) -> None:
    def hook(layer: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda _, given, made: look(layer, given[0].flatten(0, -2), made.flatten(0, -2))

    with ExitStack() as ending, torch.no_grad():
        for layer in layers:
            ending.callback(network.get_submodule(layer).register_forward_hook(hook(layer)).remove)
        features: Any = network.forward_features
        features(images)


def _pairs(
    a: nn.Module, b: nn.Module, layers: list[str], batches: Iterable[Tensor]
) -> Iterator[tuple[str, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """Layer, what goes into it in A and in B, and what comes out, for one batch after the other."""
    for images in batches:
        kept: list[dict[str, tuple[Tensor, Tensor]]] = [{}, {}]
        for network, found in zip((a, b), kept, strict=True):
            _observe(network, layers, lambda layer, x, y, found=found: found.update({layer: (x, y)}), images)  # type: ignore[misc]
        for layer in layers:
            (x_a, y_a), (x_b, y_b) = kept[0][layer], kept[1][layer]
            yield layer, (x_a, x_b), (y_a, y_b)


def correlations(a: nn.Module, b: nn.Module, batches: Iterable[Tensor]) -> dict[str, np.ndarray]:
    """Correlations between what corresponding layers of two networks make of the same images.

    Args:
        batches: of images, (n, 3, h, w).

    Returns:
        blocks.<i>.mlp.fc1 -> (hidden, hidden); blocks.<i>.attn.qkv -> (3, heads d, heads d), q, k and v apart.
    """
    layers = [f"{block}.{layer}" for block, _ in _blocks(a) for layer in ("attn.qkv", "mlp.fc1")]
    sums: dict[str, list[Tensor]] = {}
    for layer, _, made in _pairs(a, b, layers, batches):
        parts = 3 if layer.endswith("qkv") else 1
        mine, theirs = (y.view(len(y), parts, -1).transpose(0, 1).double() for y in made)  # (parts, tokens, units)
        both = torch.cat([mine, theirs], 2)
        new = [torch.tensor(len(both[0])), both.sum(1), both.square().sum(1), mine.transpose(1, 2) @ theirs]
        sums[layer] = [old + add for old, add in zip(sums[layer], new, strict=True)] if layer in sums else new
    return {layer: _correlation(*each) for layer, each in sums.items()}


def _correlation(count: Tensor, total: Tensor, squares: Tensor, cross: Tensor) -> np.ndarray:
    """From sums over tokens; 0 to a unit that is constant."""
    n = cross.shape[1]
    mean, var = total / count, (squares / count - (total / count).square()).clamp_min(0)
    scale = torch.where(var > 1e-12 * squares / count, var, torch.inf).rsqrt()
    covariance = cross / count - mean[:, :n, None] * mean[:, None, n:]
    found = covariance * scale[:, :n, None] * scale[:, None, n:]
    return np.asarray(found.numpy() if len(found) > 1 else found[0].numpy())


def refit(a: nn.Module, b: nn.Module, merged: State, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """PLeaS's second half: every linear layer of the blocks fitted to the mean of what A's and B's make.

    Args:
        b: with its units in A's order.
        merged: where the fit begins, and what it keeps wherever the inputs say nothing.
    """
    layers = [f"{block}.{layer}" for block, _ in _blocks(a) for layer in LAYERS]
    sums: dict[str, list[Tensor]] = {}
    for layer, given, made in _pairs(a, b, layers, batches):
        z, y = ((first.double() + second.double()) / 2 for first, second in (given, made))
        z = torch.cat([z, torch.ones(len(z), 1, dtype=z.dtype)], 1)
        new = [z.T @ z, y.T @ z]
        sums[layer] = [old + add for old, add in zip(sums[layer], new, strict=True)] if layer in sums else new
    out = dict(merged)
    for layer, (gram, cross) in sums.items():
        free = f"{layer}.bias" in merged
        wb, cut = _rows(merged, layer), slice(None) if free else slice(-1)
        solved = fitted(wb[:, cut], gram.numpy()[cut, cut], cross.numpy()[:, cut])
        width = wb.shape[1] - 1
        out[f"{layer}.weight"] = torch.from_numpy(solved[:, :width].copy()).float()
        if free:
            out[f"{layer}.bias"] = torch.from_numpy(solved[:, width].copy()).float()
    return out
