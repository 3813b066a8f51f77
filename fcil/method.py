"""The contract: what a client trains and reports, and how the server merges. All that a method's author must read.

A method is a frozen dataclass whose fields are its settings. It has two halves in one file of `strategies/`:

    server half                                      client half
    init, begin, broadcast, merge, deploy            adapter, local, loss, scores
    pure functions over named arrays                 declarations, and two functions of the model

A run walks through the phases of each task. In a *train* phase clients train what `local` names and may report
statistics; in a *report* phase they only report. Every phase is the same four steps:

    broadcast(state, phase) -> clients do local(phase) -> merge(state, phase, updates) -> deploy(state, phase)

Three sets of weights are distinct on purpose: what the server keeps (`state`), what clients start from (`broadcast`)
and what is evaluated (`deploy`). The server half is pure: states go in and come out, inputs are not mutated, and all
randomness is `phase.generator(...)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np

from fcil.arrays import Arrays, State, matching
from fcil.seeding import generator
from fcil.tasks import Task

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fcil.local import Step
    from fcil.model.adapted import AdaptedModel

__all__ = [
    "Adapter", "Arrays", "Backbone", "Broadcast", "ClientUpdate", "Collector", "Kind", "Local", "Method", "Pass",
    "Phase", "Shapes", "State", "Statistic", "Stream", "Task",
]  # fmt: skip

Kind = Literal["train", "report"]
TRAIN: Kind = "train"
REPORT: Kind = "report"
Stream = Literal["federated", "pooled", "at_once"]
"""Who has the data: the clients, task by task; one client, task by task; or one client, all classes in one task."""
Shapes = Mapping[str, tuple[int, ...]]
"""Array name -> shape; -1 stands for a length that only the client knows."""


@dataclass(frozen=True)
class Backbone:
    """What a method may know of the frozen backbone without holding it."""

    width: int
    """Length of a feature vector."""
    linears: Shapes
    """Linear layer -> (out, in), in the order of the forward pass."""


@dataclass(frozen=True)
class Phase:
    """One exchange with the clients."""

    index: int
    """Position in the whole run, from 0."""
    kind: Kind
    task: Task
    round: int
    """Position within the task, from 1; a report after R rounds of training has round R + 1."""
    seed: int
    left: int = 0
    """Phases of this task that follow: what tells several reports apart."""

    def generator(self, *purpose: str | int) -> np.random.Generator:
        """The randomness of this phase for one purpose, for example `("batches", client)`."""
        return generator(self.seed, self.task.index, self.round, *purpose)

    def __str__(self) -> str:
        return f"task {self.task.index + 1}, {'round' if self.kind == 'train' else 'report'} {self.round}"


@dataclass(frozen=True)
class Broadcast:
    """What all clients of a phase receive."""

    arrays: Arrays
    """Weights that make the model clients start from."""
    references: Arrays = field(default_factory=dict)
    """Read-only things beside them: a teacher, an anchor, earlier tasks' factors. Sent once to each client."""
    follows: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """Reference -> (an earlier one, bytes): whoever holds that one is sent only the bytes that make it this one."""


@dataclass(frozen=True)
class ClientUpdate:
    """What one client sends back. Everything in it is float32 or float64, finite, and declared by `Method.local`."""

    client: int
    phase: int
    """`Phase.index` of the phase that it answers."""
    num_examples: int
    """Training samples the client holds in this task."""
    arrays: Arrays
    """What trained, under the names of the broadcast."""
    statistics: Arrays = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    """For the records: loss, seconds, images."""


class Collector(Protocol):
    """A statistic being summed on one client: fed by one or several passes over the data, then read.

    It may also have `gradients`, layer -> function of the gradient at the layer's output, (..., out), for a pass whose
    `batch` differentiates something; in one pass only one statistic can do so.
    """

    layers: Mapping[str, Callable[[Tensor], None]]
    """Linear layer -> function that is called with the layer's input, (..., in), in every forward pass."""

    def batch(self, features: Tensor, labels: Tensor, samples: np.ndarray) -> None:
        """Called once a batch.

        Args:
            features: (n, width); of a pass under several models they stand side by side, (n, models * width).
            labels: (n,) positions in the class order.
            samples: (n,) indices in the data set's training part, the same whoever holds a sample.
        """

    def finish(self) -> Arrays:
        """The sums, float32 unless float64 is needed."""


class Statistic(Protocol):
    """Something a client may report beside weights (see `fcil.statistics`)."""

    def shapes(self, broadcast: Shapes) -> Shapes:
        """What arrives, given the shapes of the broadcast's arrays: the server checks it."""

    def start(self, arrays: Arrays, model: AdaptedModel, generator: Callable[[str], np.random.Generator]) -> Collector:
        """Begin to sum, given the client's arrays (the broadcast's, with those that trained in their place).

        `model` is the one that the data go through; a statistic of gradients (Fisher) differentiates its logits.
        `generator` gives the client's own randomness for a purpose, as in `Step`.
        """


def as_broadcast(arrays: Arrays, client: int) -> Arrays:
    """Every client begins with all of the broadcast's arrays."""
    return arrays


def no_arrays(references: Arrays) -> Arrays:
    """Nothing is put beside the broadcast's arrays."""
    return {}


def local_model(arrays: Arrays, references: Arrays) -> Arrays:
    """The model as the client has it after training (or as it was broadcast, if nothing trains)."""
    return arrays


@dataclass(frozen=True)
class Pass:
    """Statistics that share forward passes over the client's data, in eval mode."""

    statistics: tuple[Statistic, ...]
    under: Callable[[Arrays, Arrays], Arrays] = local_model
    """(the client's arrays, references) -> the model under which the data are seen."""
    transform: Literal["train", "test"] = "test"
    repeats: int = 1
    gradients: tuple[str, ...] = ()
    """Glob patterns of arrays that need a gradient in the pass; without any, the pass runs without autograd."""
    batch: int = 0
    """Batch size; 0 leaves it to the engine. A statistic of single samples' gradients asks for 1."""
    beside: tuple[Callable[[Arrays, Arrays], Arrays], ...] = ()
    """Further models that see the same batches, without observers: their features stand to the right of the first's."""


@dataclass(frozen=True)
class Local:
    """What a client does in a phase."""

    trains: tuple[str, ...] = ()
    """Glob patterns of broadcast arrays that train and are sent back; all others are frozen and stay where they are."""
    lr: Mapping[str, float] = field(default_factory=dict)
    """Glob pattern -> learning rate in place of `train.lr`; the first that matches counts."""
    passes: tuple[Pass, ...] = ()
    """What is reported, after training."""
    start: Callable[[Arrays, int], Arrays] = as_broadcast
    """(the broadcast's arrays, client) -> what this client is sent of them, begins with and sends back, under the same
    names: smaller pairs, or a new draw from the phase's seed. Cheap: the server calls it to check and to count."""
    frozen: Callable[[Arrays], Arrays] = no_arrays
    """References -> arrays of the model beside those, which never train: earlier changes, folded into the weights."""

    def trained(self, names: Sequence[str]) -> list[str]:
        """The names that train.

        Raises:
            ValueError: a pattern matches nothing, or a learning rate is not positive: a mistake in the method.
        """
        for pattern in (*self.trains, *self.lr):
            if not matching(names, (pattern,)):
                raise ValueError(f"`local` names {pattern!r}, but the broadcast has no such array: {sorted(names)}")
        if any(rate <= 0 for rate in self.lr.values()):
            raise ValueError(f"`local` has a learning rate that is not positive: {dict(self.lr)}")
        return matching(names, self.trains)


class Adapter(Protocol):
    """Small modules put into the resident backbone (see `fcil.model.lora`)."""

    def check(self, backbone: Backbone) -> None:
        """Raise ConfigError where the adapter does not fit this backbone."""

    def install(self, network: nn.Module) -> Mapping[str, tuple[nn.Module, str]]:
        """Put the modules in place; array name -> (module, attribute) that holds the tensor, None when absent."""

    def features(self, network: Any, images: Tensor) -> Tensor:
        """(n, 3, h, w) -> (n, width). An adapter with its own forward pass (prompts and their query) has it here."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """The base of all methods; its defaults are those of federated averaging of a linear head.

    A subclass adds its settings as annotated fields (see `fcil.options.Option`) and overrides what differs. Its
    docstring begins with one line and names its source.
    """

    stream: ClassVar[Stream] = "federated"
    """How the training data reach the method: other than federated are bounds for those that are."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a merge to which an older class's `additive` would be applied.

        Raises:
            TypeError: `merge` comes from a class nearer than `additive` does, which speaks of another merge.
        """
        super().__init_subclass__(**kwargs)
        merges, declares = (next(c for c in cls.__mro__ if name in vars(c)) for name in ("merge", "additive"))
        if declares is not Method and cls.__mro__.index(merges) < cls.__mro__.index(declares):
            raise TypeError(
                f"{cls.__name__}: takes its `merge` of {merges.__name__} and its `additive` of {declares.__name__}, "
                "which speaks of another merge: with run.aggregate_on_worker this `merge` might never be called. State "
                "`additive` beside `merge` (False where it needs single updates), or override `sums` and `merge_sums` "
                "in its place"
            )

    @property
    def adapter(self) -> Adapter | None:
        """The modules that this method trains inside the backbone; None leaves it as it is."""
        return None

    # ---- server half -------------------------------------------------------------------------------------------------

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
        """What clients receive in this phase."""
        raise NotImplementedError(f"{type(self).__name__}.broadcast")

    def merge(self, state: State, phase: Phase, updates: Sequence[ClientUpdate]) -> State:
        """The state after this phase. `updates` are checked, at least one, and sorted by client.

        A method whose merge needs only sums over clients has `sums` and `merge_sums` instead of this, and says so by
        `additive`. Whoever overrides this where a parent has declared `additive` states `additive` anew beside it.
        """
        return self.merge_sums(state, phase, self.sums(phase, self.broadcast(state, phase), updates))

    @property
    def additive(self) -> bool:
        """Whether `merge_sums` of sums over clients is the same as `merge`: then groups may be summed far away.

        Declared, not guessed: a method with `sums` and `merge_sums` returns True here.
        """
        return False

    def sums(self, phase: Phase, broadcast: Broadcast, updates: Sequence[ClientUpdate]) -> Arrays:
        """All that `merge_sums` needs of these clients, in float64: the sums of two groups of clients add."""
        raise NotImplementedError(f"{type(self).__name__}.merge, or .sums and .merge_sums")

    def merge_sums(self, state: State, phase: Phase, sums: Arrays) -> State:
        """The state after this phase, given the sums over all clients."""
        raise NotImplementedError(f"{type(self).__name__}.merge_sums")

    def deploy(self, state: State, phase: Phase) -> Arrays:
        """The arrays to evaluate after this phase."""
        raise NotImplementedError(f"{type(self).__name__}.deploy")

    # ---- client half -------------------------------------------------------------------------------------------------

    def local(self, phase: Phase) -> Local:
        """What a client does in this phase."""
        raise NotImplementedError(f"{type(self).__name__}.local")

    def loss(self, step: Step) -> Tensor:
        """The local objective on one batch: cross-entropy over the current task's classes only.

        A penalty or a distillation term is added here, never to gradients. `step` gives the batch, the model, the
        references, a generator for each purpose and the client's own store.
        """
        return step.cross_entropy()

    def scores(self, model: AdaptedModel, images: Tensor) -> Tensor:
        """(n, 3, h, w) -> (n, classes seen): the highest is the prediction. The linear heads, unless overridden."""
        return model.logits(model.features(images))
