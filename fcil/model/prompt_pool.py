"""L2P's pool of prompts (Wang et al., CVPR 2022, arXiv 2112.08654): names, starts, slots, and which are taken.

chosen(x) = the N keys k_m with the largest cos(q(x), k_m)
f(x) = mean of the outputs of their prompts P_m in ViT([class token, P_chosen, patches])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fcil.errors import ConfigError
from fcil.method import Adapter, Backbone, Draw
from fcil.model.prompts import check_plain_vit

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["CHOSEN", "COSINES", "KEYS", "PROMPTS", "PromptPool"]

KEYS, PROMPTS = "pool.keys", "pool.prompts"
"""Names of the keys, (M, width), and of the prompts, (M, L, width)."""
COSINES, CHOSEN = "cosines", "chosen"
"""Further outputs of the forward pass: cosines of an image's query with the keys that it chose, and their numbers."""


@dataclass(frozen=True)
class PromptPool(Adapter):
    """Puts the prompts of an image's `top` nearest keys beside its patches; the feature is their mean output."""

    size: int
    """M, the number of prompts and keys."""
    length: int
    """L, the number of tokens of a prompt."""
    top: int
    """N, the number of prompts that an image gets."""
    trains: tuple[str, ...] = ("pool.*",)

    def check(self, backbone: Backbone) -> None:
        """Raise ConfigError for more prompts of an image than there are, or a backbone that is no plain ViT."""
        if self.top > self.size:
            raise ConfigError(f"method.top = {self.top}: the pool has {self.size} prompts (method.size)")
        check_plain_vit(backbone)

    def initial(self, backbone: Backbone, draw: Draw) -> dict[str, np.ndarray]:
        """Draw keys and prompts from U(-1, 1), as in public code."""
        shapes = {KEYS: (self.size, backbone.width), PROMPTS: (self.size, self.length, backbone.width)}
        rng = draw("prompt pool")
        return {name: rng.uniform(-1, 1, shape).astype(np.float32) for name, shape in shapes.items()}

    def install(self, network: Any) -> Mapping[str, tuple[nn.Module, str]]:
        """Add a slot for the keys and one for the prompts; no weight of the network is touched.

        Raises:
            ConfigError: the network's forward pass is not the plain one of a ViT, to which tokens could be added.
        """
        from fcil.model.prompt_forward import add_slots

        (keys, prompts) = add_slots(network, 2)
        return {KEYS: (keys, "tokens"), PROMPTS: (prompts, "tokens")}

    def features(self, network: Any, images: Tensor) -> Tensor | tuple[Tensor, Mapping[str, Tensor]]:
        """Features of images, (n, 3, h, w) -> (n, width), cosines (n, N) and numbers (n, N) of the chosen keys.

        Without a pool the network's own features.
        """
        from fcil.model.prompt_query import cosines, mean_of_prompts, query

        keys, prompts = (slot.tokens for slot in network.prompt_slots)
        queries = query(network, images)
        if keys is None:
            return queries
        similar, chosen = cosines(queries, keys).topk(self.top)
        return mean_of_prompts(network, images, prompts[chosen].flatten(1, 2)), {COSINES: similar, CHOSEN: chosen}
