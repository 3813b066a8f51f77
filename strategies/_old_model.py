"""Which model of a task becomes the old one of the next (GLFC): its last, or the round's that was right most often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np

from fcil.arrays import Arrays, State, total
from fcil.method import (
    REPORT,
    TRAIN,
    Averaging,
    Broadcast,
    Client,
    ClientUpdate,
    Computed,
    Kind,
    Local,
    Modules,
    NoSum,
    Phase,
    Task,
)
from fcil.method.state import without
from fcil.options import Option

from ._adapters import AdapterAveraging, AdapterSettings
from ._proxy import gradient_size, prototype_gradients, reconstructed
from ._teacher import teacher_of

__all__ = ["BEST", "GRADIENTS", "PROXY", "RIGHT", "ChoosesOldModel"]

BEST, SHARE, RIGHT = "best", "best_share", "right"
"""The state's groups of the task's best model so far and of its share of right answers; of the statistic, (right
answers, samples), by which clients' counts tell it."""
GRADIENTS, PROXY, IMAGES, LABELS = "proxy.gradients", "proxy", "images", "labels"
"""Of the statistic that clients send the proxy; the state's group of what it reconstructs of a client's, and in it
`images.<client>`, (n, 3, side, side), and `labels.<client>`, (n,), positions of their classes."""


@dataclass(frozen=True, kw_only=True)
class ChoosesOldModel(AdapterSettings, Averaging):
    """Averaging that chooses one of a task's models as the old one of the next: see `GLFC`."""

    old_model: Annotated[
        Literal["last", "best", "proxy"],
        Option("last, best by clients' counts, or best on images RECONSTRUCTED of their data"),
    ] = "last"
    proxy_steps: Annotated[
        int, Option("steps of L-BFGS by which the proxy reconstructs an image; 250 in public code", low=1)
    ] = 250

    merges = AdapterAveraging.merges

    @property
    def additive(self) -> bool:
        """Means are sums; the proxy reconstructs client by client."""
        return self.old_model != "proxy"

    @property
    def server_holds_images(self) -> bool:
        """The proxy does."""
        return self.old_model == "proxy"

    def phases(self, task: Task, rounds: int) -> tuple[Kind, ...]:
        """The rounds, and for counts a report of the last."""
        return (TRAIN,) * rounds + ((REPORT,) if self.old_model == "best" else ())

    # ---- client half -------------------------------------------------------------------------------------------------

    def local(self, phase: Phase) -> Local:
        """Train as in averaging; count right answers, or send the proxy gradients after a task's first round."""
        counted = Computed("right answers on own samples, and their number", lambda sent: {RIGHT: (2,)})
        rows = NoSum((phase.task.size, gradient_size(phase.task.size)), "constant")
        encoded = Computed("a small network's gradients, which tell images", lambda sent: {GRADIENTS: rows})
        computed = {"best": (counted,), "proxy": (encoded,) if self._sends_gradients(phase) else ()}
        return replace(super().local(phase), computed=computed.get(self.old_model, ()))

    def _sends_gradients(self, phase: Phase) -> bool:
        return self.old_model == "proxy" and phase.kind == TRAIN and phase.round == 1

    def client_end(self, client: Client) -> None:
        """Send the proxy gradients, under the model that the first round has trained here."""
        if self._sends_gradients(client.phase):
            client.statistics[GRADIENTS] = prototype_gradients(client)

    # ---- server half -------------------------------------------------------------------------------------------------

    def old_model_of(self, state: State) -> Arrays:
        """The model that was chosen of the task that has ended, module and all head rows."""
        return state.get(BEST) or teacher_of(state)

    def without_choice(self, state: State) -> State:
        """The state without what was kept to choose by."""
        for group in (BEST, SHARE, PROXY):
            state = without(state, group)
        return state

    def objection(self, phase: Phase, broadcast: Broadcast, update: ClientUpdate) -> str | None:
        """Say why nobody can have counted so."""
        if self.old_model != "best":
            return None
        correct, samples = update.statistics[RIGHT]
        good = 0 <= correct <= samples == update.num_examples
        return None if good else f"{correct:g} right answers on {samples:g} of {update.num_examples} samples"

    def sums(self, phase: Phase, broadcast: Broadcast, updates: Sequence[ClientUpdate]) -> Arrays:
        """The sums of averaging, and right answers and samples."""
        sums = super().sums(phase, broadcast, updates)
        counted = [{RIGHT: u.statistics[RIGHT]} for u in updates if self.old_model == "best"]
        return {**sums, **total(counted)} if counted else sums

    def merge(self, state: State, phase: Phase, updates: Sequence[ClientUpdate]) -> State:
        """The mean, and for the proxy the images that it reconstructs, client by client."""
        merged = super().merge(state, phase, updates)
        if not self._sends_gradients(phase):
            return merged
        found: dict[str, np.ndarray] = {}
        for update in updates:
            images, labels = reconstructed(update.statistics[GRADIENTS], phase, update.client, self.proxy_steps)
            if len(images):
                found |= {f"{IMAGES}.{update.client}": images, f"{LABELS}.{update.client}": labels.astype(np.float64)}
        return {**merged, PROXY: found}

    def _held(self, state: State, kind: str) -> list[np.ndarray]:
        return [a for name, a in sorted(state.get(PROXY, {}).items()) if name.partition(".")[0] == kind]

    def server_images(self, state: State, phase: Phase) -> np.ndarray | None:
        """What the proxy has reconstructed in this task, after each of its rounds."""
        images = self._held(state, IMAGES)
        return np.concatenate(images) if images and phase.kind == TRAIN else None

    def merge_scores(self, state: State, phase: Phase, scores: np.ndarray) -> State:
        """The state with this round's model as the best, if none before it was right more often."""
        right = scores.argmax(1) == np.concatenate(self._held(state, LABELS))
        return self._with_best(state, teacher_of(state), float(right.mean()))

    def _with_best(self, state: State, model: Arrays, share: float) -> State:
        if SHARE in state and share < state[SHARE][SHARE]:
            return state
        return {**state, BEST: model, SHARE: {SHARE: np.array(share, np.float64)}}

    def merge_sums(self, state: State, phase: Phase, sums: Arrays) -> State:
        """Compare the model that clients have looked at with the best before; then the mean."""
        looked_at = Modules.of(state) if phase.kind == TRAIN else Modules.trained(state)
        if RIGHT in sums and (phase.kind == REPORT or phase.round > 1):  # in round 1 new rows have not trained
            share = float(sums[RIGHT][0] / max(1, sums[RIGHT][1]))
            state = self._with_best(state, {**looked_at.module, **looked_at.head}, share)
        return super().merge_sums(state, phase, sums)

    def merge_report(self, state: State, phase: Phase, sums: Arrays) -> State:
        """The report has been compared, and changes nothing else."""
        return state
