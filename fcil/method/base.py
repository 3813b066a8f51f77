"""The base of all methods: what each half of a method may override."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from fcil.arrays import Arrays, State, shapes
from fcil.method.client import Client, Model, Step
from fcil.method.defaults import check_defaults
from fcil.method.local import Adapter, Local
from fcil.method.phases import (
    TRAIN,
    Backbone,
    Broadcast,
    ClientUpdate,
    GramLayout,
    Kind,
    Phase,
    Stream,
    Task,
    gram_layouts,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SCORES", "Method"]

SCORES = "scores."
"""Prefix of deployed arrays that neither head nor adapter knows: what a method's own `scores` needs beside them."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method: a frozen dataclass whose fields are its settings.

    A subclass adds its settings as annotated fields (see `fcil.options.Option`) and overrides what differs; it has to
    say `broadcast`, `local`, `merge` (or `sums` and `merge_sums`) and `deploy`, which `Averaging` has ready for methods
    that average what trains. Its docstring begins with one line that says what it does, and names its source.
    """

    stream: ClassVar[Stream] = "federated"
    """How the training data reach the method: other than federated are bounds for those that are."""
    refused: ClassVar[Mapping[str, str]] = {}
    """Settings of other methods that are not defined for this one -> the reason, for those who try."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a merge to which an older class's `additive` would be applied, and a new default without effect.

        Raises:
            TypeError: `merge` comes from a class nearer than `additive` does, which speaks of another merge; or a
                setting of a parent is given a value without an annotation, which `dataclass` passes over.
        """
        super().__init_subclass__(**kwargs)
        check_defaults(cls)
        merges, declares = (next(c for c in cls.__mro__ if name in vars(c)) for name in ("merge", "additive"))
        if declares is not Method and cls.__mro__.index(merges) < cls.__mro__.index(declares):
            raise TypeError(
                f"{cls.__name__}: takes its `merge` of {merges.__name__} and its `additive` of {declares.__name__}, "
                "which speaks of another merge: with run.aggregate_on_worker this `merge` might never be called. State "
                "`additive` beside `merge` (False where it needs single updates), or override `sums` and `merge_sums` "
                "in its place"
            )

    def acting(self, phase: Phase) -> Method:
        """The method that does a phase.

        Its `broadcast`, `local`, `loss`, `client_begin`, `client_end`, `merge` and `evaluates` are called in it. A
        method made of others returns the one whose turn it is. Everything else (phases, begin, deploy, scores, the
        adapter) is asked of the whole.
        """
        return self

    @property
    def adapter(self) -> Adapter | None:
        """The modules that this method trains inside the backbone; None leaves it as it is."""
        return None

    @property
    def privacy(self) -> Literal["none", "client", "server"]:
        """Where noise is drawn for the differential privacy of samples; what its account leaves out is refused then."""
        return "none"

    @property
    def merges(self) -> str:
        """Say what the method merges, in the words of `fcil methods`: rounds, tasks, sums, or nothing."""
        if self.stream != "federated":
            return "nothing (one client)"
        return "rounds" if TRAIN in self.phases(Task(0, 0, 1), 1) else "sums, once a task"

    # ---- server half -------------------------------------------------------------------------------------------------

    def check_phases(self, phases: Sequence[Phase]) -> None:
        """Raise ConfigError where settings do not suit the phases of a run; called before anything is done."""

    def phases(self, task: Task, rounds: int) -> tuple[Kind, ...]:
        """The phases of a task, given the protocol's number of training rounds."""
        return (TRAIN,) * rounds

    def init(self, backbone: Backbone, classes: int, seed: int) -> State:
        """The state before the first task. Raises ConfigError where the settings do not fit the backbone."""
        if self.adapter is not None:
            self.adapter.check(backbone)
        return {}

    def begin(self, state: State, phase: Phase, backbone: Backbone) -> State:
        """New arrays at a task's start (head rows, LoRA pairs, prompts); `phase` is the task's first."""
        return state

    def broadcast(self, state: State, phase: Phase) -> Broadcast:
        """Make what clients receive in this phase."""
        raise NotImplementedError(f"{type(self).__name__}.broadcast")

    def objection(self, phase: Phase, broadcast: Broadcast, update: ClientUpdate) -> str | None:
        """Say why no honest client can have sent this update; None where nothing speaks against it.

        Called once names, shapes, types and counts are checked, by whoever merges or sums: what is objected to is
        refused whole. A method that knows bounds on its statistics says them here.
        """
        return None

    def merge(self, state: State, phase: Phase, updates: Sequence[ClientUpdate]) -> State:
        """The state after this phase. `updates` are checked, at least one, and sorted by client.

        A method whose merge needs only sums over clients has `sums` and `merge_sums` instead of this, and says so by
        `additive`. Whoever overrides this where a parent has declared `additive` states `additive` anew beside it.
        """
        return self.merge_sums(state, phase, self.sums(phase, self.broadcast(state, phase), updates))

    @property
    def additive(self) -> bool:
        """Tell whether `merge_sums` of sums over clients equals `merge`: then groups may be summed far away.

        Declared, not guessed: a method with `sums` and `merge_sums` returns True here.
        """
        return False

    def sums(self, phase: Phase, broadcast: Broadcast, updates: Sequence[ClientUpdate]) -> Arrays:
        """Sums over these clients that `merge_sums` needs, in float64: the sums of two groups of clients add."""
        raise NotImplementedError(f"{type(self).__name__}.merge, or .sums and .merge_sums")

    def gram_sums(self, phase: Phase, broadcast: Broadcast) -> Mapping[str, GramLayout]:
        """Which of `sums` are Gram matrices, and in which layout: the server refuses sums with a negative diagonal.

        Unless overridden, those under the names of statistics that are Gram matrices.
        """
        return gram_layouts(self.local(phase).reported(shapes(broadcast.arrays)))

    def merge_sums(self, state: State, phase: Phase, sums: Arrays) -> State:
        """The state after this phase, given the sums over all clients."""
        raise NotImplementedError(f"{type(self).__name__}.merge_sums")

    def evaluates(self, phase: Phase) -> bool:
        """Tell whether there is something to evaluate after a phase that does not end its task."""
        return True

    @property
    def server_holds_images(self) -> bool:
        """Tell whether `server_images` ever gives any: a run warns of it, and across nodes it is refused."""
        return False

    def server_images(self, state: State, phase: Phase) -> np.ndarray | None:
        """Images that the server holds and wants the deployed model to score after this phase; None for none.

        Returns:
            (n, 3, h, w) float32, as the model's inputs are: normalised. They are resized to the model's side.
        """
        return None

    def merge_scores(self, state: State, phase: Phase, scores: np.ndarray) -> State:
        """The state once the deployed model has scored the server's images, (n, classes seen) float32.

        Belongs to `server_images`; what is deployed must not change by it.
        """
        raise NotImplementedError(f"{type(self).__name__}.merge_scores, beside .server_images")

    def notes(self, state: State, phase: Phase) -> Mapping[str, str]:
        """Say what the method has chosen by itself, such as layers: setting -> value, for records and screen."""
        return {}

    def deploy(self, state: State, phase: Phase) -> Arrays:
        """The arrays to evaluate after this phase."""
        raise NotImplementedError(f"{type(self).__name__}.deploy")

    # ---- client half -------------------------------------------------------------------------------------------------

    def local(self, phase: Phase) -> Local:
        """Declare what a client does in this phase."""
        raise NotImplementedError(f"{type(self).__name__}.local")

    def client_begin(self, client: Client) -> None:
        """Prepare a client for a phase; called once, before anything trains, with the broadcast's arrays loaded.

        Called in report phases too, in which nothing trains; `client.phase.kind` tells them apart. A client that is not
        asked in a phase, or has no samples of its task, is not called.
        """

    def loss(self, step: Step) -> Tensor:
        """The local objective on one batch: cross-entropy over the current task's classes only.

        A penalty or a distillation term is added here, never to gradients. `step` gives the batch, the model, the
        references, a generator for each purpose and the client's own store.
        """
        return step.cross_entropy()

    def client_end(self, client: Client) -> None:
        """Conclude a client's phase; called once, after training, with the trained arrays loaded; reports follow.

        What is sent has been read before: nothing done here changes it. Called in report phases too.
        """

    def scores(self, model: Model, images: Tensor) -> Tensor:
        """Class scores of images, (n, 3, h, w) -> (n, classes seen), the highest being the prediction.

        Those of the linear heads, unless overridden.
        """
        return model.logits(model.features(images))
