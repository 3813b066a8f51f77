"""The client's half of the contract: what a method declares of a phase's work, and what its code is given there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from fcil.arrays import Arrays, names_matching
from fcil.method.phases import Backbone, Broadcast, Phase, Shapes

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = [
    "SCORES", "Adapter", "Client", "Collector", "Draw", "Local", "Model", "Pass", "Statistic", "Step", "Store",
    "as_broadcast", "local_model",
]  # fmt: skip

SCORES = "scores."
"""Prefix of deployed arrays that neither head nor adapter knows: what a method's own `scores` needs beside them."""
Store = MutableMapping[str, np.ndarray]
"""A client's own arrays, kept from phase to phase: read and replaced, never sent."""
Draw = Callable[[str], np.random.Generator]
"""purpose -> a generator; streams of different purposes are independent."""


class Adapter(Protocol):
    """Small modules put into the resident backbone: LoRA pairs (`fcil.model.lora`), prompts (`fcil.model.prompts`)."""

    @property
    def trains(self) -> tuple[str, ...]:
        """Glob patterns of the arrays that train unless a method says otherwise."""

    def check(self, backbone: Backbone) -> None:
        """Raise ConfigError where the adapter does not fit this backbone."""

    def initial(self, backbone: Backbone, draw: Draw) -> Arrays:
        """The adapter's arrays at their start, by name; the names are those of `install`."""

    def install(self, network: Any) -> Mapping[str, tuple[nn.Module, str]]:
        """Put the modules in place; array name -> (module, attribute) that holds the tensor, None when absent."""

    def features(self, network: Any, images: Tensor) -> Tensor | tuple[Tensor, Mapping[str, Tensor]]:
        """(n, 3, h, w) -> (n, width), or that and further outputs by name, which `Step.outputs` gives to a loss.

        An adapter with a forward pass of its own (prompts and their query) has it here; a further output spares a
        prompt's pull term a second pass.
        """


class Model(Protocol):
    """The resident model: a frozen backbone, the adapter's arrays and the head's rows (`fcil.model.adapted`)."""

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""

    @property
    def arrays(self) -> Mapping[str, Tensor]:
        """The arrays that are loaded; those that train have `requires_grad`."""

    def features(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) -> (n, width), float32."""

    def outputs(self, images: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """(n, 3, h, w) -> the features, (n, width) float32, and the adapter's further outputs."""

    def logits(self, features: Tensor, tasks: Sequence[int] | None = None) -> Tensor:
        """(n, width) -> (n, classes of `tasks`) from the linear head; all loaded tasks unless given."""

    def using(self, arrays: Arrays) -> AbstractContextManager[None]:
        """Other arrays for the length of a block, for example a teacher's; gradients of the loaded ones survive."""


class Client(Protocol):
    """One client in one phase: what the method's code may see and keep there."""

    @property
    def number(self) -> int:
        """The client's number, from 0."""

    @property
    def phase(self) -> Phase:
        """The phase that it works for."""

    @property
    def model(self) -> Model:
        """The resident model: in `client_begin` with the broadcast's arrays loaded, in `client_end` with the trained.

        Autograd is on, as in training; a hook that only looks at features wants `torch.no_grad()`.
        """

    @property
    def broadcast(self) -> Broadcast:
        """What the client received; see `constant`."""

    @property
    def store(self) -> Store:
        """The client's own arrays, kept from phase to phase: as they were left in the last phase that it took part in.

        What is put here is kept when the phase is done, of any type and shape of NumPy; it never leaves the client, and
        is not counted as traffic.
        """

    @property
    def samples(self) -> np.ndarray:
        """(n,) int64: the client's samples of this task, as indices into the data set's training part."""

    def generator(self, purpose: str) -> np.random.Generator:
        """The client's randomness of this phase for one purpose; it lasts for the phase.

        `client_begin`, every `loss` and `client_end` go on with the same stream. Streams of other purposes, clients and
        phases are independent of it, and so are those of the engine, by which batches are cut and augmented.

        Raises:
            ValueError: the purpose is one of the engine's own.
        """

    def constant(self, name: str) -> Tensor:
        """A reference, or an array as it was broadcast before training, as a tensor on the model's device.

        Raises:
            ValueError: the name stands for both.
        """

    def images(self, samples: np.ndarray, augment: bool = False) -> Tensor:
        """(n,) indices -> (n, 3, h, w): the images as the test view shows them, or augmented as in training.

        They may be samples of earlier tasks, of which the client has kept the indices: they are its own data.

        Raises:
            ValueError: a sample of another client, or of a later task.
        """

    def labels(self, samples: np.ndarray) -> Tensor:
        """(n,) indices -> (n,) int64 class positions, over all tasks.

        Raises:
            ValueError: a sample of another client, or of a later task.
        """


class Step(Protocol):
    """One batch of local training, as a method's `loss` sees it."""

    @property
    def client(self) -> Client:
        """Whose batch it is."""

    @property
    def images(self) -> Tensor:
        """(n, 3, h, w), augmented."""

    @property
    def labels(self) -> Tensor:
        """(n,) class positions."""

    @property
    def samples(self) -> np.ndarray:
        """(n,) int64: which training samples these are, as indices into the data set's training part."""

    @property
    def model(self) -> Model:
        """The client's model."""

    @property
    def phase(self) -> Phase:
        """The phase that the client works for."""

    @property
    def references(self) -> Arrays:
        """The broadcast's read-only arrays."""

    @property
    def store(self) -> Store:
        """The client's own arrays."""

    def generator(self, purpose: str) -> np.random.Generator:
        """The client's randomness of this phase for one purpose; see `Client.generator`."""

    def constant(self, name: str) -> Tensor:
        """A reference, or an array as it was broadcast, as a tensor on the model's device."""

    @property
    def features(self) -> Tensor:
        """(n, width) of this batch's images, computed once."""

    @property
    def outputs(self) -> Mapping[str, Tensor]:
        """Further outputs of the adapter's forward pass for this batch."""

    def cross_entropy(self) -> Tensor:
        """Over the current task's classes only: logits of other tasks take no part."""


class Collector(Protocol):
    """A statistic being summed on one client: fed by one or several passes over the data, then read."""

    layers: Mapping[str, Callable[[Tensor], None]]
    """Linear layer -> function that is called with the layer's input, (..., in), in every forward pass."""
    gradients: Mapping[str, Callable[[Tensor], None]]
    """Linear layer -> function of the gradient at the layer's output, (..., out), for a pass whose `batch`
    differentiates something; in one pass only one statistic can do so. Empty for most."""

    def batch(self, features: Tensor, labels: Tensor, samples: np.ndarray) -> None:
        """Called once a batch.

        Args:
            features: (n, width); of a pass under several models they stand beside each other, (n, models * width).
            labels: (n,) positions in the class order.
            samples: (n,) indices in the data set's training part, the same whoever holds a sample.
        """

    def finish(self) -> Arrays:
        """The sums, float32 unless float64 is needed."""


class Statistic(Protocol):
    """Something a client may report beside weights (see `fcil.statistics`)."""

    def shapes(self, broadcast: Shapes) -> Shapes:
        """What arrives, given the shapes of the broadcast's arrays: the server checks it. A Gram's is a `GramShape`."""

    def start(self, arrays: Arrays, model: Model, generator: Draw) -> Collector:
        """Begin to sum, given the client's arrays (the broadcast's, with those that trained in their place).

        `model` is the one that the data go through; a statistic of gradients (Fisher) differentiates its logits.
        `generator` gives the client's own randomness for a purpose, as in `Client`.
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
    model: Callable[[Arrays, Arrays], Arrays] = local_model
    """(the client's arrays, references) -> the model under which the data are seen."""
    transform: Literal["train", "test"] = "test"
    repeats: int = 1
    gradients: tuple[str, ...] = ()
    """Glob patterns of arrays that need a gradient in the pass; without any, the pass runs without autograd."""
    batch: int = 0
    """Batch size; 0 leaves it to the engine. A statistic of single samples' gradients asks for 1."""
    extra_models: tuple[Callable[[Arrays, Arrays], Arrays], ...] = ()
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
    receives: Callable[[Arrays, int], Arrays] = as_broadcast
    """(the broadcast's arrays, client) -> what this client is sent of them, begins with and sends back, under the same
    names: smaller pairs, or a new draw from the phase's seed. Cheap: the server calls it to check and to count."""
    frozen: Callable[[Arrays], Arrays] = no_arrays
    """References -> arrays of the model beside those, which never train: earlier changes, folded into the weights."""

    def reported(self, broadcast: Shapes) -> dict[str, tuple[int, ...]]:
        """The shapes of all statistics that are reported, given those of the broadcast's arrays."""
        statistics = [statistic for one in self.passes for statistic in one.statistics]
        return {name: shape for statistic in statistics for name, shape in statistic.shapes(broadcast).items()}

    def trained(self, names: Sequence[str]) -> list[str]:
        """The names that train.

        Raises:
            ValueError: a pattern matches nothing, or a learning rate is not positive: a mistake in the method.
        """
        for pattern in (*self.trains, *self.lr):
            if not names_matching(names, (pattern,)):
                raise ValueError(f"`local` names {pattern!r}, but the broadcast has no such array: {sorted(names)}")
        if any(rate <= 0 for rate in self.lr.values()):
            raise ValueError(f"`local` has a learning rate that is not positive: {dict(self.lr)}")
        return names_matching(names, self.trains)
