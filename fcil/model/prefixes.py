"""Prefix tuning of a timm ViT: vectors that train stand beside a layer's keys and values, and ask nothing themselves.

    attention(Q, [P_K; K], [P_V; V])

The attention module does all of its own work, fused or not, with normed queries and keys or without. It is given as
many further tokens as there are prefixes, whose keys and values are then overwritten and whose outputs are dropped. So
a key's norm is applied to P_K as to every other key, and statistics of the inputs of `attn.proj` would see the rows
that are dropped.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from timm.models.vision_transformer import Attention  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.nn import functional as F

from fcil.errors import ConfigError

__all__ = ["PrefixSlot", "add_prefix_slots", "prefixed"]


class PrefixSlot(nn.Module):
    """Holds the prefixes of one layer for the images of a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: Tensor | None = None  # (length, width), or of each image (n, length, width)
        self.values: Tensor | None = None
        self.projected = False
        self.beside: tuple[nn.Module, ...] = ()
        """The layers of queries, keys and values that the slot has been put beside, which are not its own."""

    @property
    def length(self) -> int:
        """Return the number of prefixes."""
        return 0 if self.keys is None else self.keys.shape[-2]

    def lengthen(self, attention: Attention, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Give the attention zero tokens behind its own, in the place of which prefixes come."""
        if not self.length:
            return None
        if attention.qkv not in self.beside:
            raise RuntimeError("the layer of keys and values is not the one that prefixes were put beside")
        tokens, *others = inputs
        return (F.pad(tokens, (0, 0, 0, self.length)), *others)

    def put(self, qkv: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """Overwrite the further tokens' queries, keys and values, (n, tokens, 3 width)."""
        if not self.length or self.keys is None or self.values is None:
            return None
        keys, values = self.keys, self.values
        if self.projected:
            _, to_keys, to_values = qkv.weight.chunk(3)
            _, key_bias, value_bias = (None,) * 3 if qkv.bias is None else qkv.bias.chunk(3)
            keys, values = F.linear(keys, to_keys, key_bias), F.linear(values, to_values, value_bias)
        rows = torch.cat([torch.zeros_like(keys), keys, values], -1).to(output.dtype)
        return torch.cat([output[:, : -self.length], rows.expand(len(output), -1, -1)], 1)

    def shorten(self, attention: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """Drop the outputs of the further tokens."""
        return output[:, : -self.length] if self.length else None


def add_prefix_slots(network: Any) -> None:
    """Add a slot, `attn.prefix`, to every block of a network; no weight is touched. A second call changes nothing.

    Raises:
        ConfigError: a block has no plain attention to whose keys and values others could be added.
    """
    for block in network.blocks:
        attention = getattr(block, "attn", None)
        if not isinstance(attention, Attention) or attention.qkv.out_features != 3 * attention.qkv.in_features:
            name = type(attention or block).__name__
            raise ConfigError(f"model.backbone: {name} has no plain keys and values for prefixes; name a plain ViT")
        slot: PrefixSlot = getattr(attention, "prefix", None) or PrefixSlot()
        if not slot.beside:
            attention.prefix = slot
            attention.register_forward_pre_hook(slot.lengthen)
            attention.register_forward_hook(slot.shorten)
        if attention.qkv not in slot.beside:  # another adapter may have put a layer of its own there
            attention.qkv.register_forward_hook(slot.put)
            slot.beside += (attention.qkv,)


@contextmanager
def prefixed(network: Any, prefixes: Mapping[int, tuple[Tensor, Tensor]], projected: bool) -> Iterator[None]:
    """Put prefixes into the forward passes of a block of code.

    Args:
        prefixes: layer, from 1 -> P_K and P_V, each (length, width), or of each image (n, length, width).
        projected: P_K and P_V are inputs of the layer's projections to keys and values; else they are themselves keys
            and values.
    """
    slots = {layer: network.blocks[layer - 1].attn.prefix for layer in prefixes}
    try:
        for layer, slot in slots.items():
            (slot.keys, slot.values), slot.projected = prefixes[layer], projected
        yield
    finally:
        for slot in slots.values():
            slot.keys = slot.values = None
