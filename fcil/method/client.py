"""Protocols of what a method's client code is given: the resident model, the client in a phase, a batch.

These are protocols: `fcil.client.session` and `fcil.model.adapted` implement them. What a method declares in place of
code is in `fcil.method.local`.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fcil.arrays import Arrays
from fcil.method.phases import Broadcast, Phase

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Client", "Model", "Step", "Store"]

Store = MutableMapping[str, np.ndarray]
"""A client's own arrays, kept from phase to phase: read and replaced, never sent."""


class Model(Protocol):
    """The resident model: a frozen backbone, the adapter's arrays and the head's rows (`fcil.model.adapted`)."""

    @property
    def device(self) -> torch.device:
        """The device that the model's tensors are on."""

    @property
    def arrays(self) -> Mapping[str, Tensor]:
        """The arrays that are loaded; those that train have `requires_grad`."""

    def features(self, images: Tensor) -> Tensor:
        """Features of images: (n, 3, h, w) -> (n, width), float32."""

    def outputs(self, images: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Features of images, (n, 3, h, w) -> (n, width) float32, and the adapter's further outputs by name."""

    def logits(self, features: Tensor, tasks: Sequence[int] | None = None) -> Tensor:
        """Logits of features, (n, width) -> (n, classes of `tasks`), by the linear head; by default of all tasks."""

    def using(self, arrays: Arrays | Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """Load other arrays for a block, for example a teacher's; gradients of the loaded ones survive.

        Tensors, such as those of `constant`, are taken as they are: nothing is copied to the device again.
        """


class Client(Protocol):
    """One client in one phase: what the method's code may see and keep there."""

    @property
    def number(self) -> int:
        """The client's number, from 0."""

    @property
    def phase(self) -> Phase:
        """The phase that the client works for."""

    @property
    def model(self) -> Model:
        """The resident model: in `client_begin` with the broadcast's arrays loaded, in `client_end` with the trained.

        Autograd is on, as in training; a hook that only looks at features wants `torch.no_grad()`.
        """

    @property
    def broadcast(self) -> Broadcast:
        """Return what the client received; see `constant`."""

    @property
    def store(self) -> Store:
        """The client's own arrays, kept from phase to phase: as they were left in the last phase that it took part in.

        What is put here is kept when the phase is done, of any type and shape of NumPy; it never leaves the client, and
        is not counted as traffic.
        """

    @property
    def scratch(self) -> dict[str, Any]:
        """Whatever a method needs in this phase alone, tensors or counts: empty at its start, neither kept nor sent."""

    @property
    def statistics(self) -> dict[str, np.ndarray]:
        """Hold what the client sends beside the arrays that trained.

        In `client_end` the sums of `Local.training` are in it, to be read. What `Local.computed` declares is put here.
        """

    @property
    def samples(self) -> np.ndarray:
        """The client's samples of this task, (n,) int64, as indices into the data set's training part."""

    @property
    def unlabelled(self) -> np.ndarray:
        """Samples of this task whose images the client holds without labels, (m,) int64; see `tasks.label_share`.

        They are in no batch and no statistic: a method that learns from them reads them with `images`.
        """

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
        """Images of samples, (n,) indices -> (n, 3, h, w), as the test view shows them or augmented as in training.

        They may be samples of earlier tasks, of which the client has kept the indices: they are its own data.

        Raises:
            ValueError: a sample of another client, or of a later task.
        """

    def labels(self, samples: np.ndarray) -> Tensor:
        """Labels of samples, (n,) indices -> (n,) int64 class positions, over all tasks.

        Raises:
            ValueError: a sample of another client, or of a later task, or one without a label.
        """


class Step(Protocol):
    """One batch of local training, as a method's `loss` sees it."""

    @property
    def client(self) -> Client:
        """The client whose batch it is."""

    @property
    def images(self) -> Tensor:
        """The batch's images, (n, 3, h, w), augmented."""

    @property
    def labels(self) -> Tensor:
        """The batch's labels, (n,) class positions."""

    @property
    def samples(self) -> np.ndarray:
        """The batch's samples, (n,) int64, as indices into the data set's training part."""

    @property
    def model(self) -> Model:
        """Return the model that the client works with."""

    @property
    def phase(self) -> Phase:
        """The phase that the client works for."""

    @property
    def references(self) -> Arrays:
        """Return the read-only arrays of the broadcast."""

    @property
    def store(self) -> Store:
        """Return the arrays that the client keeps for itself."""

    def generator(self, purpose: str) -> np.random.Generator:
        """The client's randomness of this phase for one purpose; see `Client.generator`."""

    def constant(self, name: str) -> Tensor:
        """A reference, or an array as it was broadcast, as a tensor on the model's device."""

    @property
    def features(self) -> Tensor:
        """Features of this batch's images, (n, width), computed once."""

    @property
    def outputs(self) -> Mapping[str, Tensor]:
        """Further outputs of the adapter's forward pass for this batch."""

    def cross_entropy(self) -> Tensor:
        """Mean cross-entropy over the current task's classes only: logits of other tasks take no part."""
