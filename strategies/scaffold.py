"""SCAFFOLD: federated averaging with control variates against the drift of clients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np

from fcil.arrays import Arrays, State, as_float32, names_matching, weighted_total
from fcil.errors import MergeError
from fcil.method import Backbone, Broadcast, Client, ClientUpdate, Computed, Local, NoSum, Phase, Shapes, Step
from fcil.method.state import without
from fcil.options import Option
from fcil.statistics.training_gradients import MeanGradient, mean_gradient

from ._adapters import AdapterAveraging, of_one_weight

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Scaffold"]

VARIATE, TASK = "variate", "task"
"""The state's group of c; with a slash before names, c among the references and c_i in a client's store. And the task
that a client's c_i belongs to."""
CHUNK = 16
"""Images at a time in the pass of option I."""


@dataclass(frozen=True, kw_only=True)
class Scaffold(AdapterAveraging):
    """Average what trains, each step corrected by control variates.

    Client i holds c_i, the server c, all zero at first, of the shape of what trains. A client steps along
    g_i(y) - c_i + c in place of its gradient g_i(y). After K steps, with x the round's broadcast and N clients in all:

        II      c_i+ = c_i - c + (x - y_i) / (K lr), under SGD the mean over the steps of g_i(y)
        I       c_i+ = g_i(x), over all of the client's samples
        server  x <- x + server_lr mean_S (y_i - x);   c <- c + 1/N sum_S (c_i+ - c_i)

    Karimireddy et al., "SCAFFOLD: stochastic controlled averaging for federated learning", ICML 2020, arXiv 1910.06378,
    Algorithm 1. The correction is the term <c - c_i, y - x> of the loss, whose gradient it is, in any precision. Option
    II is computed as that mean: it is the paper's under SGD without decay, and under AdamW, whose steps are no
    gradients, it still is a gradient. AdamW then scales the corrected gradient as any other, which the paper's theory
    does not cover: `train.optimizer = "sgd"` is the paper's.

    Sent: c and c_i+ - c_i beside the model, twice the traffic of federated averaging both ways; what travels up is
    m_i = c_i+ - c_i + c, the mean of the corrected gradients. Kept by a client: c_i, as large as what trains.

    Unlike the paper: cross-entropy masked to the current task's classes; LoRA by default. Each task is another
    objective, so that variates begin at zero in each, and N counts the clients that hold samples of it. With `weights`
    = "examples" both means are weighted by examples, as in federated averaging, which a task's first round then is.
    Literal transcription: `tests/reference_baselines.py`.
    """

    option: Annotated[
        Literal["II", "I"], Option("c_i: mean of the gradients on the way, or the gradient at the broadcast")
    ] = "II"
    server_lr: Annotated[float, Option("factor of the mean change; eta_g in the paper", above=0)] = 1.0
    weights: Annotated[
        Literal["equal", "examples"], Option("clients count alike, as in the paper, or by their examples")
    ] = "equal"

    @property
    def is_mean(self) -> bool:
        """At server_lr = 1 the clients' mean is put in place."""
        return self.server_lr == 1

    # ---- client half -------------------------------------------------------------------------------------------------

    def local(self, phase: Phase) -> Local:
        """Train as federated averaging does, and report the mean corrected gradient."""
        local = super().local(phase)
        if self.option == "II":
            return replace(local, training=(*local.training, MeanGradient(local.trains)))

        def like_arrays(broadcast: Shapes) -> Shapes:
            return {
                mean_gradient(name): NoSum(broadcast[name], "constant")
                for name in names_matching(broadcast, local.trains)
            }

        return replace(local, computed=(Computed("gradient at the broadcast", like_arrays),))

    def client_begin(self, client: Client) -> None:
        """Make the correction c - c_i; with option I also g_i(x)."""
        own_controls = client.store if self._is_of(client.store, client.phase) else {}
        for name, leaf in client.model.arrays.items():
            key = f"{VARIATE}/{name}"
            controls = [arrays[key] for arrays in (client.broadcast.references, own_controls) if key in arrays]
            if leaf.requires_grad and controls:
                zero = np.zeros_like(controls[0])
                correction = client.broadcast.references.get(key, zero) - own_controls.get(key, zero)
                client.scratch[key] = leaf.new_tensor(correction)
        if self.option == "I":
            client.scratch.update(self._gradient(client))

    @staticmethod
    def _is_of(store: Arrays, phase: Phase) -> bool:
        return TASK in store and int(store[TASK]) == phase.task.index

    @staticmethod
    def _gradient(client: Client) -> dict[str, Tensor]:
        """g_i(x): the gradient of the mean masked cross-entropy of all samples, augmented as in training."""
        import torch
        from torch.nn import functional as F

        leaves = {name: leaf for name, leaf in client.model.arrays.items() if leaf.requires_grad}
        total = {name: torch.zeros_like(leaf, dtype=torch.float64) for name, leaf in leaves.items()}
        task, samples = client.phase.task, client.samples
        for part in np.split(samples, range(CHUNK, len(samples), CHUNK)):
            logits = client.model.logits(client.model.features(client.images(part, augment=True)), (task.index,))
            loss = F.cross_entropy(logits, client.labels(part) - task.first, reduction="sum")
            gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
            for name, g in zip(leaves, gradients, strict=True):
                total[name] += 0.0 if g is None else g
        return {mean_gradient(name): (sum / len(samples)).float() for name, sum in total.items()}

    def loss(self, step: Step) -> Tensor:
        """Masked cross-entropy, and <c - c_i, y - x>."""
        loss, corrections = step.cross_entropy(), step.client.scratch
        for name, leaf in step.model.arrays.items():
            if f"{VARIATE}/{name}" in corrections:
                loss = loss + (corrections[f"{VARIATE}/{name}"] * (leaf - step.constant(name))).sum()
        return loss

    def client_end(self, client: Client) -> None:
        """Keep c_i+; with option I send it with its correction, as training with option II does."""
        for key in [key for key in client.store if key.startswith(VARIATE)]:
            del client.store[key]
        for name in (name for name, leaf in client.model.arrays.items() if leaf.requires_grad):
            key, sent = f"{VARIATE}/{name}", mean_gradient(name)
            correction = client.scratch[key].cpu().numpy() if key in client.scratch else np.float32(0)
            if self.option == "I":
                client.statistics[sent] = client.scratch[sent].cpu().numpy() + correction
            client.store[key] = client.statistics[sent] - correction
        client.store[TASK] = np.array(client.phase.task.index)

    # ---- server half -------------------------------------------------------------------------------------------------

    def begin(self, state: State, phase: Phase, backbone: Backbone) -> State:
        """Begin a task, without variates."""
        return super().begin(without(state, VARIATE), phase, backbone)

    def broadcast(self, state: State, phase: Phase) -> Broadcast:
        """Send the model and, from the second round of a task on, c as references."""
        sent = super().broadcast(state, phase)
        c = {f"{VARIATE}/{name}": a for name, a in state.get(VARIATE, {}).items()}
        return replace(sent, references={**sent.references, **c})

    def sums(self, phase: Phase, broadcast: Broadcast, updates: Sequence[ClientUpdate]) -> Arrays:
        """The sums of federated averaging, and sum_i w_i (m_i - c), which is sum_i w_i (c_i+ - c_i)."""
        if self.weights == "equal":
            updates = of_one_weight(updates)
        sums = super().sums(phase, broadcast, updates)
        names = self.local(phase).trained(list(broadcast.arrays))
        sent = [{mean_gradient(n): u.statistics[mean_gradient(n)] for n in names} for u in updates]
        zero = {n: np.zeros_like(broadcast.arrays[n]) for n in names}
        c = {mean_gradient(n): broadcast.references.get(f"{VARIATE}/{n}", zero[n]) for n in names}
        return {**sums, **weighted_total(sent, [u.num_examples for u in updates], c)}

    def merge_sums(self, state: State, phase: Phase, sums: Arrays) -> State:
        """Step by server_lr along the mean change, and move c by the share of those who answered.

        Raises:
            MergeError: nobody has any examples, or the phase does not say how many clients there are.
        """
        whole = phase.clients if self.weights == "equal" else phase.examples
        if not whole:
            raise MergeError("SCAFFOLD's c is a mean over all clients, and the phase does not say how many there are")
        old, names = state.get(VARIATE, {}), [name for name in sums if mean_gradient(name) in sums]
        after = super().merge_sums(state, phase, {**sums, **{name: self.server_lr * sums[name] for name in names}})
        c = {name: old.get(name, 0) + sums[mean_gradient(name)] / whole for name in names}
        return {**after, VARIATE: as_float32(c)}
