"""Declarations of a client's work in a phase: which arrays train, and which statistics are summed.

Declared, not coded, so that the server derives from it which names and shapes a good reply has. What a method's own
code is given on a client is in `fcil.method.client`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from fcil.arrays import Arrays, names_matching
from fcil.method.client import Model
from fcil.method.phases import Backbone, Shapes

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "Adapter", "Collector", "Computed", "Draw", "Local", "Pass", "Statistic", "as_broadcast", "local_model",
    "no_arrays", "pooled_features",
]  # fmt: skip

Draw = Callable[[str], np.random.Generator]
"""purpose -> a generator; streams of different purposes are independent."""


def pooled_features(network: Any, images: Tensor) -> Tensor:
    """Map images (n, 3, h, w) to the backbone's own pooled features (n, width)."""
    features: Tensor = network.forward_head(network.forward_features(images), pre_logits=True)
    return features


class Adapter(Protocol):
    """Modules put into the resident backbone: LoRA pairs (`fcil.model.lora`), prompts (`fcil.model.prompts`).

    A class that inherits from this one says `trains`, `initial` and `install`; it has the rest by default.
    """

    @property
    def trains(self) -> tuple[str, ...]:
        """Glob patterns of the arrays that train unless a method says otherwise."""
        raise NotImplementedError(f"{type(self).__name__}.trains")

    def check(self, backbone: Backbone) -> None:
        """Raise ConfigError where the adapter does not fit this backbone."""
        return None

    def initial(self, backbone: Backbone, draw: Draw) -> Arrays:
        """The adapter's arrays at their start, by name; the names are those of `install`."""
        raise NotImplementedError(f"{type(self).__name__}.initial")

    def install(self, network: Any) -> Mapping[str, tuple[nn.Module, str]]:
        """Put the modules in place; array name -> (module, attribute) that holds the tensor, None when absent.

        A name with `*` stands for all arrays that match it, however many there will be: the attribute then holds those
        that are loaded by name, a dict. So each task may add arrays of its own.
        """
        raise NotImplementedError(f"{type(self).__name__}.install")

    def features(self, network: Any, images: Tensor) -> Tensor | tuple[Tensor, Mapping[str, Tensor]]:
        """Features of images, (n, 3, h, w) -> (n, width), or these and further outputs by name, as in `Step.outputs`.

        An adapter with a forward pass of its own (prompts and their query) has it here; a further output spares a
        prompt's pull term a second pass. By default the network's own, pooled.
        """
        return pooled_features(network, images)

    @property
    def starts_at_zero(self) -> bool:
        """Tell whether the arrays change nothing at their start.

        Where they do change something, every task that begins anew begins with the arrays of the first task's start,
        so that changes have one start from which they are counted.
        """
        return True

    def initial_and_fixed(self, backbone: Backbone, draw: Draw) -> tuple[Arrays, Arrays]:
        """The arrays of `initial`, and others for slots of `install` that are the same in every phase: none by default.

        Fixed arrays, such as quantised weights, are sent once to each client.
        """
        return self.initial(backbone, draw), {}

    @property
    def training_statistics(self) -> tuple[Statistic, ...]:
        """Statistics that clients sum while they train; see `Local.training`."""
        return ()

    def check_rounds(self, rounds: int) -> None:
        """Raise ConfigError where a schedule does not fit into as many rounds of training as a module will have."""
        return None

    def next_round(self, module: Arrays, sums: Arrays, done: int, rounds: int) -> Arrays:
        """The module to begin the next round with: what a schedule changes beside what trains, such as a sparsity.

        Args:
            module: the adapter's arrays, at their start or as merged.
            sums: the training statistics, summed over clients; empty before the first round.
            done: rounds that this module has trained, from 0.
            rounds: rounds that it will have trained in the end, over all tasks if it goes on through them.
        """
        return module


class Collector(Protocol):
    """A statistic being summed on one client: fed by one or several passes over the data, then read."""

    layers: Mapping[str, Callable[[Tensor], None]]
    """Linear layer -> function that is called with the layer's input, (..., in), in every forward pass."""
    gradients: Mapping[str, Callable[[Tensor], None]]
    """Linear layer -> function of the gradient at the layer's output, (..., out), for a pass whose `batch`
    differentiates something; in one pass only one statistic can do so. Empty for most."""

    def batch(self, features: Tensor, labels: Tensor, samples: np.ndarray) -> None:
        """Add one batch's share to the sums; called once a batch.

        Args:
            features: (n, width); of a pass under several models they stand beside each other, (n, models * width).
            labels: (n,) positions in the class order.
            samples: (n,) indices in the data set's training part, the same whoever holds a sample.
        """

    def finish(self) -> Arrays:
        """Return the sums, float32 unless float64 is needed."""


class Statistic(Protocol):
    """Something a client may report beside weights (see `fcil.statistics`)."""

    def shapes(self, broadcast: Shapes) -> Shapes:
        """Shapes of what is reported, given those of the broadcast's arrays: the server checks them.

        That of a Gram matrix is a `GramShape`, and that of what is no sum over the client's samples a `NoSum`.
        """

    def start(self, arrays: Arrays, model: Model, generator: Draw) -> Collector:
        """Begin to sum, given the client's arrays (the broadcast's, with those that trained in their place).

        `model` is the one that the data go through; a statistic of gradients (Fisher) differentiates its logits.
        `generator` gives the client's own randomness for a purpose, as in `Client`.
        """


def as_broadcast(arrays: Arrays, client: int) -> Arrays:
    """The default of `Local.receives`: every client begins with all of the broadcast's arrays."""
    return arrays


def no_arrays(references: Arrays) -> Arrays:
    """The default of `Local.frozen`: nothing stands beside the broadcast's arrays."""
    return {}


def local_model(arrays: Arrays, references: Arrays) -> Arrays:
    """The default of `Pass.model`: the model as the client has it after training, or as broadcast if nothing trains."""
    return arrays


@dataclass(frozen=True)
class Pass:
    """A pass over the client's data, in eval mode, in which several statistics are summed."""

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
    samples: Callable[[np.ndarray], np.ndarray] | None = None
    """(n,) indices of samples -> whether each is in the pass; None for all of them."""


@dataclass(frozen=True)
class Computed:
    """Declares what a method's own hooks compute and send: they put it into `Client.statistics` by the phase's end."""

    what: str
    """The quantity in words, for `fcil methods`."""
    shapes: Callable[[Shapes], Shapes]
    """Shapes of the broadcast's arrays -> names and shapes of what is sent, as in `Statistic.shapes`."""


@dataclass(frozen=True)
class Local:
    """A client's work in a phase, as the method declares it."""

    trains: tuple[str, ...] = ()
    """Glob patterns of broadcast arrays that train and are sent back; all others are frozen and stay where they are."""
    lr: Mapping[str, float] = field(default_factory=dict)
    """Glob pattern -> learning rate in place of `train.lr`; the first that matches counts."""
    passes: tuple[Pass, ...] = ()
    """Passes over the data that report statistics, after training."""
    receives: Callable[[Arrays, int], Arrays] = as_broadcast
    """(the broadcast's arrays, client) -> what this client is sent of them, begins with and sends back, under the same
    names: smaller pairs, or a new draw from the phase's seed. Cheap: the server calls it to check and to count."""
    training: tuple[Statistic, ...] = ()
    """Statistics that are summed during training: `Collector.batch` is called after every optimiser step, when the
    arrays that train have moved and `grad` is still that of the step; they are reported beside those of passes."""
    frozen: Callable[[Arrays], Arrays] = no_arrays
    """References -> arrays of the model beside those, which never train: earlier changes, folded into the weights."""
    computed: tuple[Computed, ...] = ()
    """What `client_begin`, `loss` and `client_end` compute and send beside those statistics: sums over kept samples."""

    def reported(self, broadcast: Shapes) -> dict[str, tuple[int, ...]]:
        """The shapes of all statistics that are reported, given those of the broadcast's arrays."""
        in_passes = (statistic for data_pass in self.passes for statistic in data_pass.statistics)
        declared: list[Statistic | Computed] = [*self.training, *in_passes, *self.computed]
        return {name: shape for one in declared for name, shape in one.shapes(broadcast).items()}

    def trained(self, names: Sequence[str]) -> list[str]:
        """The names that train, of the broadcast's `names`.

        Raises:
            ValueError: a pattern matches nothing, or a learning rate is not positive: a mistake in the method.
        """
        for pattern in (*self.trains, *self.lr):
            if not names_matching(names, (pattern,)):
                raise ValueError(f"`local` names {pattern!r}, but the broadcast has no such array: {sorted(names)}")
        if any(rate <= 0 for rate in self.lr.values()):
            raise ValueError(f"`local` has a learning rate that is not positive: {dict(self.lr)}")
        return names_matching(names, self.trains)
