"""Features made of tokens of several layers: which ones, named by an array that stands beside the head's rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fcil.errors import ConfigError
from fcil.method.phases import Backbone

__all__ = ["TOKENS", "Tokens", "side_by_side", "sides", "spread"]

TOKENS = "tokens"
"""Name of the array that says of which tokens features are made. Without it they are the network's own."""


@dataclass(frozen=True)
class Tokens:
    """Tokens of layers, side by side as one feature vector: the class token, or means over the cells of a grid.

    As an array, (blocks, 2) float32, it is loaded into the model like any other (`TOKENS`), so that clients, the
    server and evaluation see the same features without a setting of their own.
    """

    blocks: tuple[tuple[int, int], ...]
    """(layer, g) of each block: the layer counts from 1; g > 0 cuts the image into g x g cells, and 0 is the class
    token."""

    @classmethod
    def of(cls, array: np.ndarray) -> Tokens:
        """Read them from their array."""
        return cls(tuple((int(layer), int(side)) for layer, side in array))

    def array(self) -> np.ndarray:
        """Write them as an array, (blocks, 2) float32."""
        return np.array(self.blocks, np.float32).reshape(-1, 2)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of tokens of each block."""
        return tuple(side * side or 1 for _, side in self.blocks)

    def width(self, backbone: Backbone) -> int:
        """Length of the feature vector."""
        return backbone.width * sum(self.sizes)

    def check(self, backbone: Backbone) -> None:
        """Refuse tokens that the backbone does not have.

        Raises:
            ConfigError: names the setting.
        """
        if not backbone.layer_tokens:
            raise ConfigError("method.layers: this backbone does not hand out tokens of single layers; leave it out")
        if strange := sorted({layer for layer, _ in self.blocks if not 1 <= layer <= backbone.blocks}):
            raise ConfigError(
                f"method.layers: no layer {', '.join(map(str, strange))}: the backbone has layers 1 to "
                f"{backbone.blocks}"
            )
        side = min(backbone.grid)
        if too_fine := sorted({g for _, g in self.blocks if g > side}):
            raise ConfigError(
                f'method.tokens = "grid:{too_fine[0]}": the images have {backbone.grid[0]} x {backbone.grid[1]} '
                f'patches; at most "grid:{side}", or "patches"'
            )
        if any(g == 0 for _, g in self.blocks) and not backbone.class_token:
            raise ConfigError(
                'method.tokens = "class": this backbone has no class token; "mean" is the mean of patches'
            )


def spread(count: int, blocks: int) -> tuple[int, ...]:
    """Choose `count` layers of `blocks`, evenly spaced up to the last one.

    >>> spread(3, 12), spread(4, 12), spread(1, 12)
    ((4, 8, 12), (3, 6, 9, 12), (12,))

    Raises:
        ConfigError: more layers than there are.
    """
    if count > blocks:
        raise ConfigError(f'method.layers = "spread:{count}": the backbone has {blocks} layers')
    return tuple(blocks * i // count for i in range(1, count + 1))


def sides(text: str, backbone: Backbone) -> tuple[int, ...]:
    """Read the tokens of a layer from their setting, such as "class+grid:2": g of each, 0 for the class token.

    >>> sides("class+mean+grid:2+patches", Backbone(8, {}, grid=(4, 4)))
    (0, 1, 2, 4)

    Raises:
        ConfigError: written otherwise, or one of them twice.
    """
    side = min(backbone.grid)
    if "patches" in text and backbone.grid != (side, side):
        raise ConfigError(f"method.tokens = {text!r}: patches of {backbone.grid} are no square; name a grid instead")
    words = {"class": 0, "mean": 1, "patches": side, **{f"grid:{g}": g for g in range(1, 1 + max(side, 64))}}
    parts = [part.strip() for part in text.split("+")]
    if strange := [part for part in parts if part not in words]:
        raise ConfigError(
            f'method.tokens = {text!r}: {strange[0]!r} is none of "class", "mean", "grid:<k>", "patches", '
            'which may be joined: "class+grid:2"'
        )
    kinds = [words[part] for part in parts]
    if len(set(kinds)) < len(kinds):
        raise ConfigError(f"method.tokens = {text!r}: the same tokens twice")
    return tuple(kinds)


def side_by_side(layers: Sequence[int], kinds: Sequence[int]) -> Tokens:
    """Name the tokens of all these kinds (g, or 0 for the class token) of all these layers."""
    if len(set(layers)) < len(layers):
        raise ConfigError(f"method.layers = {list(layers)}: the same layer twice")
    return Tokens(tuple((layer, g) for layer in layers for g in kinds))
