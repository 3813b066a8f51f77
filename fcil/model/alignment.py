"""Merge two timm ViTs of one architecture that were trained apart, after permuting the units of one to match the other.

Hidden units of every MLP, attention heads, and the units within them are matched (see `fcil.merging.permutation`). The
residual stream is not: both networks have to use it alike, as two fine-tuned from one pre-trained model do; and no sign
or rotation within a head is undone. Everything else is averaged.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fcil.errors import MergeError
from fcil.merging.permutation import best_match, blend, cosine, fit_least_squares, match_heads

__all__ = ["Orders", "average", "correlations", "match_units", "permuted", "refit"]

State = Mapping[str, Tensor]
LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
KNOWN = {f"{layer}.{part}" for layer in LAYERS for part in ("weight", "bias")}


@dataclass(frozen=True)
class Orders:
    """The orders in which the units of one block of network B are taken to match those of A."""

    qk: np.ndarray
    """(heads d,): units of the queries and keys."""
    v: np.ndarray
    """(heads d,): units of the values."""
    hidden: np.ndarray
    """(hidden,): hidden units of the MLP."""

    @property
    def units(self) -> int:
        """Return the number of units."""
        return len(self.qk) + len(self.v) + len(self.hidden)

    @property
    def moved(self) -> int:
        """The number of units that change their place."""
        return sum(int((order != np.arange(len(order))).sum()) for order in (self.qk, self.v, self.hidden))


def _blocks(network: nn.Module) -> Iterator[tuple[str, int]]:
    """Yield the name and the number of heads of each block; refuse blocks that `Orders` does not fit."""
    for i, block in enumerate(network.blocks):  # type: ignore[arg-type]
        names = {name for name, _ in block.named_parameters() if name.startswith(("attn.", "mlp."))}
        if not {f"{layer}.weight" for layer in LAYERS} <= names or names - KNOWN:
            unexpected = sorted(names - KNOWN) or sorted(KNOWN - names)
            raise MergeError(f"blocks.{i}: not a plain attention and MLP block ({', '.join(unexpected[:3])})")
        yield f"blocks.{i}", int(block.attn.num_heads)


def _rows(state: State, layer: str) -> np.ndarray:
    """Weights and biases of a layer, (out, in + 1) float64; missing biases are zero."""
    w = state[f"{layer}.weight"].double().numpy()
    bias = state.get(f"{layer}.bias")
    return np.column_stack([w, np.zeros(len(w)) if bias is None else bias.double().numpy()])


def match_units(
    network: nn.Module, a: State, b: State, activations: Mapping[str, np.ndarray] | None = None, alpha: float = 1.0
) -> dict[str, Orders]:
    """Match the units of B to those of A; returns block -> the orders that bring B's units to the places of A's.

    Args:
        network: a network of the architecture of A and B.
        activations: `correlations` of A's and B's activations; without them only weights are compared.
        alpha: weight of the weights' similarity; activations have the rest.
    """
    return {block: _match_block(block, heads, a, b, activations or {}, alpha) for block, heads in _blocks(network)}


def _match_block(
    block: str, heads: int, a: State, b: State, activations: Mapping[str, np.ndarray], alpha: float
) -> Orders:
    def by_head(m: np.ndarray) -> np.ndarray:
        return m.reshape(heads, -1, m.shape[-1])  # (heads, d, ...)

    parts = []
    for state in (a, b):
        q, k, v = np.split(_rows(state, f"{block}.attn.qkv"), 3)
        out = state[f"{block}.attn.proj.weight"].double().numpy().T
        parts.append([by_head(q), by_head(k), by_head(np.column_stack([v, out]))])
    q, k, v = (cosine(of_a[:, None], of_b[None]) for of_a, of_b in zip(*parts, strict=True))
    correlation = activations.get(f"{block}.attn.qkv")
    if correlation is not None:
        d = q.shape[-1]
        by_part = correlation.reshape(3, heads, d, heads, d).transpose(0, 1, 3, 2, 4)
        q, k, v = (blend(w, by_part[i], alpha) for i, w in enumerate((q, k, v)))
    qk_order, v_order = match_heads((q + k) / 2, v)
    rows = [np.column_stack([_rows(s, f"{block}.mlp.fc1"), s[f"{block}.mlp.fc2.weight"].double().T]) for s in (a, b)]
    hidden = best_match(blend(cosine(*rows), activations.get(f"{block}.mlp.fc1"), alpha))
    return Orders(qk_order, v_order, hidden)


def permuted(state: State, orders: Mapping[str, Orders]) -> dict[str, Tensor]:
    """Reorder the units of every block, which leaves the network's function the same."""
    out = dict(state)
    for block, order in orders.items():
        n = len(order.qk)
        rows = torch.from_numpy(np.concatenate([order.qk, n + order.qk, 2 * n + order.v]))
        v, hidden = torch.from_numpy(order.v), torch.from_numpy(order.hidden)
        for layer, indices in (("attn.qkv", rows), ("mlp.fc1", hidden)):
            for name in (f"{block}.{layer}.weight", f"{block}.{layer}.bias"):
                if name in out:
                    out[name] = out[name][indices]
        for layer, indices in (("attn.proj", v), ("mlp.fc2", hidden)):
            out[f"{block}.{layer}.weight"] = out[f"{block}.{layer}.weight"][:, indices]
    return out


def average(a: State, b: State) -> dict[str, Tensor]:
    """Average every array of two networks: (A + B) / 2 in float32.

    Raises:
        MergeError: names or shapes differ.
    """
    differing = [n for n in {**a, **b} if n not in a or n not in b or a[n].shape != b[n].shape]
    if differing:
        raise MergeError(f"the two networks differ in {', '.join(sorted(differing)[:3])}")
    return {name: ((w.double() + b[name].double()) / 2).float() for name, w in a.items()}


# ---- activations -----------------------------------------------------------------------------------------------------

Observer = Callable[[str, Tensor, Tensor], None]
"""(layer, its inputs (tokens, in), its outputs (tokens, out)), float32."""


def _observe(network: nn.Module, layers: Iterable[str], observe: Observer, images: Tensor) -> None:
    def hook(layer: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda _, inputs, output: observe(layer, inputs[0].flatten(0, -2), output.flatten(0, -2))

    with ExitStack() as ending, torch.no_grad():
        for layer in layers:
            ending.callback(network.get_submodule(layer).register_forward_hook(hook(layer)).remove)
        features: Any = network.forward_features
        features(images)


def _pairs(
    a: nn.Module, b: nn.Module, layers: list[str], batches: Iterable[Tensor]
) -> Iterator[tuple[str, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """Yield each layer with its inputs in A and B and its outputs in A and B, batch after batch."""
    for images in batches:
        pairs_by_network: list[dict[str, tuple[Tensor, Tensor]]] = [{}, {}]
        for network, pairs in zip((a, b), pairs_by_network, strict=True):
            _observe(network, layers, lambda layer, x, y, pairs=pairs: pairs.update({layer: (x, y)}), images)  # type: ignore[misc]
        for layer in layers:
            (x_a, y_a), (x_b, y_b) = pairs_by_network[0][layer], pairs_by_network[1][layer]
            yield layer, (x_a, x_b), (y_a, y_b)


def correlations(a: nn.Module, b: nn.Module, batches: Iterable[Tensor]) -> dict[str, np.ndarray]:
    """Correlate the units of corresponding layers of two networks over the same images.

    Args:
        batches: images, (n, 3, h, w).

    Returns:
        blocks.<i>.mlp.fc1 -> (hidden, hidden); blocks.<i>.attn.qkv -> (3, heads d, heads d), q, k and v apart.
    """
    layers = [f"{block}.{layer}" for block, _ in _blocks(a) for layer in ("attn.qkv", "mlp.fc1")]
    sums: dict[str, list[Tensor]] = {}
    for layer, _, outputs in _pairs(a, b, layers, batches):
        parts = 3 if layer.endswith("qkv") else 1
        of_a, of_b = (y.view(len(y), parts, -1).transpose(0, 1).double() for y in outputs)  # (parts, tokens, units)
        both = torch.cat([of_a, of_b], 2)
        new = [torch.tensor(len(both[0])), both.sum(1), both.square().sum(1), of_a.transpose(1, 2) @ of_b]
        sums[layer] = [old + add for old, add in zip(sums[layer], new, strict=True)] if layer in sums else new
    return {layer: _correlation(*totals) for layer, totals in sums.items()}


def _correlation(count: Tensor, total: Tensor, squares: Tensor, cross: Tensor) -> np.ndarray:
    """Correlations from sums over tokens; 0 with a unit that is constant."""
    n = cross.shape[1]
    mean, var = total / count, (squares / count - (total / count).square()).clamp_min(0)
    scale = torch.where(var > 1e-12 * squares / count, var, torch.inf).rsqrt()
    covariance = cross / count - mean[:, :n, None] * mean[:, None, n:]
    correlation = covariance * scale[:, :n, None] * scale[:, None, n:]
    return np.asarray(correlation.numpy() if len(correlation) > 1 else correlation[0].numpy())


def refit(a: nn.Module, b: nn.Module, merged: State, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Fit every linear layer of the blocks to the mean of A's and B's outputs: the second half of PLeaS.

    Args:
        b: network B with its units in A's order.
        merged: the weights that the fit starts from, and keeps in directions that no input has.
    """
    layers = [f"{block}.{layer}" for block, _ in _blocks(a) for layer in LAYERS]
    sums: dict[str, list[Tensor]] = {}
    for layer, inputs, outputs in _pairs(a, b, layers, batches):
        z, y = ((first.double() + second.double()) / 2 for first, second in (inputs, outputs))
        z = torch.cat([z, torch.ones(len(z), 1, dtype=z.dtype)], 1)
        new = [z.T @ z, y.T @ z]
        sums[layer] = [old + add for old, add in zip(sums[layer], new, strict=True)] if layer in sums else new
    out = dict(merged)
    for layer, (gram, cross) in sums.items():
        has_bias = f"{layer}.bias" in merged
        wb, columns = _rows(merged, layer), slice(None) if has_bias else slice(-1)
        solved = fit_least_squares(wb[:, columns], gram.numpy()[columns, columns], cross.numpy()[:, columns])
        width = wb.shape[1] - 1
        out[f"{layer}.weight"] = torch.from_numpy(solved[:, :width].copy()).float()
        if has_bias:
            out[f"{layer}.bias"] = torch.from_numpy(solved[:, width].copy()).float()
    return out
