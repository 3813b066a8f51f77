"""The base of methods that fold changes into the frozen weights: W0 + folded change + B A, of which B A trains.

The folded change stays in `module`, behind the pair that trains: its components from `rank` on. So what is deployed is
the module as it is, and any merge over tasks finds the whole change of a task in one pair. Clients get the folded
components as references, and put their product beside the frozen weight.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from fcil.arrays import Arrays, State, as_float32
from fcil.merging.lowrank import LowRank, dense, stacked
from fcil.method import Averaging, Broadcast, Local, Modules, Phase
from fcil.model.lora import DELTA, A, B, Lora, layers_of
from fcil.model.weight_adapter import WeightAdapter

from ._lora import LoraMethod, Rank
from ._mixed import leading

__all__ = ["FoldingMethod", "compact"]

FOLD, LAST = "fold", "last"
"""The state's group, and in it: how many folds there were, and the rank of the last one."""


def compact(change: LowRank) -> LowRank:
    """Write a change in at most min(out, in) components: beyond those its product and an identity are smaller."""
    out, width = change.shape
    if change.rank <= min(out, width):
        return change
    return LowRank(np.eye(out), dense(change)) if out <= width else LowRank(dense(change), np.eye(width))


def folded_changes(references: Arrays) -> dict[str, np.ndarray]:
    """Form each layer's frozen change, (out, in), from the folded components."""
    folded = {name.partition("/")[2]: a for name, a in references.items()}
    return {layer + DELTA: folded[layer + B] @ folded[layer + A] for layer in layers_of(folded)}


@dataclass(frozen=True, kw_only=True)
class FoldingMethod(Averaging):
    """The base of the methods whose rounds leave a change that their pair of rank `rank` cannot hold.

    A subclass overrides `merge`, and folds there what every client's pair adds to W0.
    """

    refused: ClassVar[Mapping[str, str]] = LoraMethod.refused

    rank: Rank = 16

    @property
    def adapter(self) -> WeightAdapter:
        """A pair on qkv, proj, fc1 and fc2 of every block."""
        return Lora(self.rank)

    @property
    def additive(self) -> bool:
        """Folding needs every client's pair."""
        return False

    def local(self, phase: Phase) -> Local:
        """Train the pair beside the folded change."""
        return replace(super().local(phase), frozen=folded_changes)

    def broadcast(self, state: State, phase: Phase) -> Broadcast:
        """The pair and the head rows; as references the folded components, of which a client may hold all but the last.

        Each fold has a name of its own, `fold<n>/`: a client that has folded the ones before is sent only the new one.
        """
        modules = Modules.of(state)
        arrays = {**leading(modules.module, self.rank), **modules.head_rows(phase.task.index)}
        if FOLD not in state:
            return Broadcast(arrays)
        count, rank = (int(number) for number in state[FOLD][LAST])
        references: dict[str, np.ndarray] = {}
        patches: dict[str, tuple[str, int]] = {}
        for name, a in modules.module.items():
            rest = a[self.rank :] if name.endswith(A) else a[:, self.rank :]
            if rest.size:
                references[f"fold{count}/{name}"] = rest
                length = a.shape[1] if name.endswith(A) else a.shape[0]
                patches[f"fold{count}/{name}"] = (f"fold{count - 1}/{name}", rank * length * a.itemsize)
        return Broadcast(arrays, references, patches)

    def folded(self, state: State, pairs: Arrays, folds: Mapping[str, LowRank], head_rows: Arrays) -> State:
        """The state with new pairs and head rows to train, and a further change of every layer folded in."""
        module: dict[str, np.ndarray] = {}
        old_module = Modules.of(state).module
        for layer, fold in folds.items():
            old = LowRank(old_module[layer + B][:, self.rank :], old_module[layer + A][self.rank :])
            rest = compact(stacked([old, fold]))
            module[layer + B] = np.concatenate([pairs[layer + B], rest.b], 1)
            module[layer + A] = np.concatenate([pairs[layer + A], rest.a])
        count = state[FOLD][LAST][0] + 1 if FOLD in state else 1
        rank = max((fold.rank for fold in folds.values()), default=0)
        after = Modules.of(state).with_module(as_float32(module), head_rows)
        return {**after, FOLD: {LAST: np.array([count, rank], np.float64)}}
