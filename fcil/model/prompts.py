"""Visual prompt tuning (Jia et al., ECCV 2022, arXiv 2203.12119): names, starts and slots of a frozen ViT's prompts.

Prompts are tokens that train, (length, width). They stand between the class token and the patches, behind registers
where the backbone has them, and get no position embedding:

    shallow   [x_1, Z_1, E_1] = L_1([x_0, P, E_0]),     [x_i, Z_i, E_i] = L_i([x_i-1, Z_i-1, E_i-1])
    deep      [x_i, _, E_i] = L_i([x_i-1, P_i-1, E_i-1])

The forward pass itself is in `fcil.model.prompt_forward`. Literal transcription: `tests/reference_prompts.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fcil.errors import ConfigError
from fcil.method import Adapter, Backbone, Draw

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Depth", "Prompts", "check_plain_vit", "prompt_name"]

Depth = Literal["shallow", "deep"]


def prompt_name(block: int | str) -> str:
    """Name of the prompts that stand before a block, (length, width); with "*" a pattern for all."""
    return f"prompts.{block}"


def check_plain_vit(backbone: Backbone) -> None:
    """Raise ConfigError for a backbone to whose tokens none can be added."""
    if backbone.no_prompts:
        raise ConfigError(f"model.backbone: {backbone.no_prompts}; name a plain ViT")
    if backbone.blocks < 1 or min(backbone.patch) < 1:
        raise ConfigError("method: prompts need a vision transformer; the backbone has no blocks or no patches")


@dataclass(frozen=True)
class Prompts(Adapter):
    """Puts `length` prompts before the first block, or with "deep" other ones before every block.

    Without dropout, which is the default of the paper's public code (`MODEL.PROMPT.DROPOUT = 0`, KMnP/vpt).
    """

    depth: Depth
    length: int

    @property
    def trains(self) -> tuple[str, ...]:
        """Glob pattern of the prompts of every block, all of which train."""
        return (prompt_name("*"),)

    def blocks(self, blocks: int) -> range:
        """The blocks that get prompts, of a backbone with `blocks` of them."""
        return range(blocks if self.depth == "deep" else min(blocks, 1))

    def check(self, backbone: Backbone) -> None:
        """Raise ConfigError for a length below 1, or a backbone that is no plain vision transformer."""
        if self.length < 1:
            raise ConfigError(f"method.length = {self.length}: must be at least 1")
        check_plain_vit(backbone)

    def initial(self, backbone: Backbone, draw: Draw) -> dict[str, np.ndarray]:
        """Draw prompts from U(-v, v) with v^2 = 6 / (3 patch height x patch width + width), as in KMnP/vpt.

        That is Xavier's uniform start of the patch embedding, from 3 x height x width colours to the width.
        """
        rng = draw("prompts")
        bound = np.sqrt(6 / (3 * backbone.patch[0] * backbone.patch[1] + backbone.width))
        return {
            prompt_name(block): rng.uniform(-bound, bound, (self.length, backbone.width)).astype(np.float32)
            for block in self.blocks(backbone.blocks)
        }

    def install(self, network: Any) -> Mapping[str, tuple[nn.Module, str]]:
        """Add a slot for the prompts of each block; no weight of the network is touched.

        Raises:
            ConfigError: the network's forward pass is not the plain one of a ViT, to which tokens could be added.
        """
        from fcil.model.prompt_forward import add_slots

        slots = add_slots(network, len(self.blocks(len(network.blocks))))
        return {prompt_name(block): (slot, "tokens") for block, slot in enumerate(slots)}

    def features(self, network: Any, images: Tensor) -> Tensor:
        """Features of images, (n, 3, h, w) -> (n, width): the backbone's own, pooled without the prompts' outputs."""
        from fcil.model.prompt_forward import prompted_features

        return prompted_features(network, images)
