"""CODA-Prompt's prefixes (Smith et al., CVPR 2023, arXiv 2211.13218): each image's own sum of all components so far.

    P(x) = sum_m alpha_m(x) P_m,   alpha_m(x) = cos(q(x) * A_m, K_m)     in each of the first five layers

with * entry by entry. The first half of the rows of P(x) stands beside the keys, the second beside the values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from fcil.arrays import Arrays
from fcil.errors import ConfigError, MergeError
from fcil.merging.orthogonal import gram_schmidt, orthonormal_rows
from fcil.method import Backbone
from fcil.model.prefix_adapter import PrefixAdapter, tasks_in

if TYPE_CHECKING:
    from torch import Tensor

    from fcil.model.prefix_adapter import Prefixes

__all__ = ["ATTENTION", "COMPONENTS", "KEYS", "KINDS", "CodaPrompts"]

COMPONENTS, KEYS, ATTENTION = KINDS = ("coda.components", "coda.keys", "coda.attention")
"""Names of P, (layers, components of the task, 2 length, width), of K and of A, (layers, components, width), each
followed by `.<task>`."""


@dataclass(frozen=True)
class CodaPrompts(PrefixAdapter):
    """Puts a sum of components, weighted by each image's query, beside the keys and values of the first layers."""

    size: int
    """Components of a layer, of all tasks together; every task gets an equal share of them."""
    length: int
    """Rows beside the keys, and as many beside the values."""
    chosen_layers: tuple[int, ...] = ()
    """Layers from 1; by default the first five, or all of a network that has fewer."""
    exact: bool = True
    """New components are orthogonal to the old ones; else as classical Gram-Schmidt makes them."""
    mark: ClassVar[str] = "coda"

    def layers(self, blocks: int) -> Sequence[int]:
        """The layers with prefixes, from 1."""
        return self.chosen_layers or range(1, 1 + min(5, blocks))

    def check(self, backbone: Backbone) -> None:
        """Raise ConfigError for layers that do not exist, or more components than can be orthogonal."""
        super().check(backbone)
        if self.size > backbone.width:
            raise ConfigError(
                f"method.size = {self.size}: keys cannot be orthogonal; at most {backbone.width}, the backbone's width"
            )

    def of_task(
        self, task: int, tasks: int, module: Arrays, backbone: Backbone, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Components, keys and attention of a task, rows of norm 1 and orthogonal to one another and to the old ones.

        Raises:
            ConfigError: there are more tasks than components.
        """
        count, layers = self.size // tasks, len(self.layers(backbone.blocks))
        if count < 1:
            raise ConfigError(f"method.size = {self.size}: fewer components than tasks ({tasks}); raise it")
        arrays = {}
        for kind in KINDS:
            shape = (2 * self.length, backbone.width) if kind == COMPONENTS else (backbone.width,)
            old = [a.reshape(layers, -1, int(np.prod(shape))) for a in tasks_in(module, kind).values()]
            before = np.concatenate([np.zeros((layers, 0, int(np.prod(shape)))), *old], 1)
            new = np.stack([self._new_rows(of_layer, count, rng) for of_layer in before])
            arrays[f"{kind}.{task}"] = new.reshape(layers, count, *shape).astype(np.float32)
        return arrays

    def _new_rows(self, old: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        try:
            return orthonormal_rows(old, count, rng) if self.exact else gram_schmidt(old, count, rng)
        except MergeError as error:
            raise ConfigError(f"method.size = {self.size}: {error}; lower it") from error

    def prefixes(
        self, arrays: Mapping[str, Tensor], queries: Tensor, blocks: int
    ) -> tuple[Prefixes, dict[str, Tensor]]:
        """Each image's sum of components, layer by layer, those of earlier tasks included."""
        import torch
        from torch.nn import functional as F

        components, keys, attention = (torch.cat(list(tasks_in(arrays, kind).values()), 1) for kind in KINDS)
        prefixes = {}
        for layer, p, k, a in zip(self.layers(blocks), components, keys, attention, strict=True):
            weights = F.cosine_similarity(queries[:, None] * a[None], k[None], dim=2)  # (n, components)
            prefix = torch.einsum("nm,mlw->nlw", weights, p)
            prefixes[layer] = (prefix[:, : self.length], prefix[:, self.length :])
        return prefixes, {}
