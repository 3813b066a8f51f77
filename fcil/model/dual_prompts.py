"""DualPrompt's prefixes (Wang et al., ECCV 2022, arXiv 2204.04799): G for all images, E_t of one task for each image.

layers 1, 2        [G_K; K], [G_V; V]
layers 3, 4, 5     [E_tK; K], [E_tV; V],   t = the current task while its slot trains, else argmax_t cos(q(x), k_t)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from fcil.arrays import Arrays
from fcil.errors import ConfigError
from fcil.method import Backbone, Draw
from fcil.model.prefix_adapter import PrefixAdapter, tasks_in
from fcil.model.prompt_pool import CHOSEN, COSINES

if TYPE_CHECKING:
    from torch import Tensor

    from fcil.model.prefix_adapter import Prefixes

__all__ = ["EXPERT", "GENERAL", "KEY", "DualPrompts"]

GENERAL, EXPERT, KEY = "dual.general", "dual.expert", "dual.key"
"""Names of G, (layers, 2, length, width), keys before values; `<name>.<task>` of E_t, alike, and of k_t, (width,)."""


@dataclass(frozen=True)
class DualPrompts(PrefixAdapter):
    """Puts general prefixes into the first layers and a task's own, chosen by its key, into those that follow."""

    general_length: int
    expert_length: int
    general_layers: tuple[int, ...] = ()
    expert_layers: tuple[int, ...] = ()
    """Layers from 1; by default the first two, and the three that follow, or what a shallow network has of them."""
    copies: bool = True
    """A task's slot begins as a copy of the one before; else it is drawn."""
    mark: ClassVar[str] = "dual"

    def _layers(self, blocks: int) -> tuple[Sequence[int], Sequence[int]]:
        general = self.general_layers or range(1, 1 + min(2, blocks // 2))
        after = max(general, default=0)
        return general, self.expert_layers or range(after + 1, 1 + min(after + 3, blocks))

    def layers(self, blocks: int) -> Sequence[int]:
        """The layers with prefixes, from 1: general ones, then those of tasks."""
        general, expert = self._layers(blocks)
        return [*general, *expert]

    def check(self, backbone: Backbone) -> None:
        """Raise ConfigError for layers that do not exist, or stand in both lists, or none for the tasks' prefixes."""
        super().check(backbone)
        general, expert = self._layers(backbone.blocks)
        if both := set(general) & set(expert):
            raise ConfigError(f"method.layers = {sorted(expert)}: {min(both)} is a layer of method.general_layers too")
        if not expert:
            raise ConfigError("method.layers: no layer is left for the tasks' prefixes; name some")

    def initial(self, backbone: Backbone, draw: Draw) -> dict[str, np.ndarray]:
        """Draw G from U(-1, 1), as public code does."""
        general, _ = self._layers(backbone.blocks)
        return {GENERAL: _drawn(draw("general prefixes"), (len(general), 2, self.general_length, backbone.width))}

    def of_task(
        self, task: int, tasks: int, module: Arrays, backbone: Backbone, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Draw k_t, and E_t where it is no copy of the one before, from U(-1, 1)."""
        _, expert = self._layers(backbone.blocks)
        key = _drawn(rng, (backbone.width,))
        slot = _drawn(rng, (len(expert), 2, self.expert_length, backbone.width))
        before = module.get(f"{EXPERT}.{task - 1}") if self.copies else None
        return {f"{KEY}.{task}": key, f"{EXPERT}.{task}": slot if before is None else before.copy()}

    def prefixes(
        self, arrays: Mapping[str, Tensor], queries: Tensor, blocks: int
    ) -> tuple[Prefixes, dict[str, Tensor]]:
        """G for all images, and E_t: of the task whose slot trains, or of the nearest key, image by image.

        Further outputs: the cosine of each query with the key of its slot, (n,), and the slot's number, (n,).
        """
        import torch

        from fcil.model.prompt_query import cosines

        keys, slots = tasks_in(arrays, KEY), tasks_in(arrays, EXPERT)
        similar = cosines(queries, torch.stack(list(keys.values())))
        training = [i for i, slot in enumerate(slots.values()) if slot.requires_grad]
        chosen = torch.full_like(similar[:, 0], training[-1], dtype=torch.long) if training else similar.argmax(1)
        taken = torch.stack(list(slots.values()))[chosen]  # (n, layers, 2, length, width)
        general_layers, expert_layers = self._layers(blocks)
        prefixes = {layer: (g[0], g[1]) for layer, g in zip(general_layers, arrays[GENERAL], strict=True)}
        prefixes |= {layer: (e[:, 0], e[:, 1]) for layer, e in zip(expert_layers, taken.unbind(1), strict=True)}
        return prefixes, {COSINES: similar.gather(1, chosen[:, None])[:, 0], CHOSEN: chosen}


def _drawn(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.uniform(-1, 1, shape).astype(np.float32)
