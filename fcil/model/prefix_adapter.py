"""The base of adapters that put prefixes chosen by an image's query beside keys and values (DualPrompt, CODA-Prompt).

Their arrays are named by task, `<mark>.<kind>.<task>`: those of earlier tasks do not train, so they are not sent, not
averaged, not decayed, and keep their bits, as the blocks of head rows do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from fcil.arrays import Arrays
from fcil.errors import ConfigError
from fcil.method import Adapter, Backbone, Draw
from fcil.method.local import pooled_features
from fcil.model.prompts import check_plain_vit

if TYPE_CHECKING:
    from torch import Tensor, nn

    Prefixes = Mapping[int, tuple[Tensor, Tensor]]

__all__ = ["PrefixAdapter", "tasks_in"]

T = TypeVar("T")


def tasks_in(arrays: Mapping[str, T], kind: str) -> dict[int, T]:
    """Task -> its array of one kind, `<kind>.<task>`, in the order of tasks."""
    arrays_by_task = {
        int(name.removeprefix(f"{kind}.")): a for name, a in arrays.items() if name.startswith(f"{kind}.")
    }
    return dict(sorted(arrays_by_task.items()))


@dataclass(frozen=True)
class PrefixAdapter(Adapter):
    """Chooses prefixes for every image by its query, and puts them beside the keys and values of some layers."""

    projected: bool
    """Prefixes go through the layer's projections to keys and values; else they are keys and values themselves."""
    mark: ClassVar[str]
    """What the names of all arrays begin with."""

    @property
    def trains(self) -> tuple[str, ...]:
        """Glob pattern of all arrays; a method names those of the current task."""
        return (f"{self.mark}.*",)

    def layers(self, blocks: int) -> Sequence[int]:
        """The layers with prefixes, from 1, of a backbone with so many blocks."""
        raise NotImplementedError(f"{type(self).__name__}.layers")

    def check(self, backbone: Backbone) -> None:
        """Raise ConfigError for layers that the backbone does not have, or one that is no plain ViT."""
        check_plain_vit(backbone)
        if strange := [layer for layer in self.layers(backbone.blocks) if not 1 <= layer <= backbone.blocks]:
            raise ConfigError(f"method: no layer {strange[0]}: the backbone has layers 1 to {backbone.blocks}")

    def initial(self, backbone: Backbone, draw: Draw) -> dict[str, np.ndarray]:
        """Return no arrays: all of them are a task's (`of_task`), unless overridden."""
        return {}

    def of_task(
        self, task: int, tasks: int, module: Arrays, backbone: Backbone, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """The arrays with which a task begins.

        Args:
            task: its index, from 0.
            tasks: number of all tasks of the run.
            module: the arrays so far.
        """
        raise NotImplementedError(f"{type(self).__name__}.of_task")

    def prefixes(
        self, arrays: Mapping[str, Tensor], queries: Tensor, blocks: int
    ) -> tuple[Prefixes, dict[str, Tensor]]:
        """Layer -> P_K and P_V for queries, (n, width), and further outputs by name."""
        raise NotImplementedError(f"{type(self).__name__}.prefixes")

    def install(self, network: Any) -> Mapping[str, tuple[nn.Module, str]]:
        """Add slots for prefixes to all layers, and one for the arrays from which prefixes are made.

        Raises:
            ConfigError: a layer has no plain attention.
        """
        from torch import nn

        from fcil.model.prefixes import add_prefix_slots

        add_prefix_slots(network)
        network.prefix_source = nn.Module()
        network.prefix_source.arrays = {}
        return {f"{self.mark}.*": (network.prefix_source, "arrays")}

    def features(self, network: Any, images: Tensor) -> Tensor | tuple[Tensor, Mapping[str, Tensor]]:
        """Features of images, (n, 3, h, w) -> (n, width), pooled as the network does; without arrays its own."""
        from fcil.model.prefixes import prefixed
        from fcil.model.prompt_query import query

        queries, arrays = query(network, images), network.prefix_source.arrays
        if not arrays:
            return queries
        prefixes, further = self.prefixes(arrays, queries, len(network.blocks))
        with prefixed(network, prefixes, self.projected):
            return pooled_features(network, images), further
