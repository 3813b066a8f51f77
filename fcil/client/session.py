"""The objects that a method's client code is given: the client in one phase, and one batch of its training."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fcil.arrays import Arrays
from fcil.client.data import ClientData
from fcil.method import Broadcast, Phase, Store
from fcil.model.adapted import AdaptedModel

__all__ = ["Batch", "Session"]


@dataclass
class Session:
    """One client in one phase: implements `fcil.method.Client`."""

    number: int
    phase: Phase
    model: AdaptedModel
    broadcast: Broadcast
    store: Store
    data: ClientData
    _generators: dict[str, np.random.Generator] = field(default_factory=dict, repr=False)
    _constants: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def samples(self) -> np.ndarray:
        """(n,) the client's samples of this task, as indices into the training part."""
        return self.data.indices

    def generator(self, purpose: str) -> np.random.Generator:
        """The client's randomness of this phase for one purpose; it lasts for the phase."""
        if purpose not in self._generators:
            self._generators[purpose] = self.phase.generator(purpose, self.number)
        return self._generators[purpose]

    def constant(self, name: str) -> Tensor:
        """A reference, or else an array as it was broadcast before training, as a tensor on the model's device."""
        if name not in self._constants:
            references = self.broadcast.references
            array = references[name] if name in references else self.broadcast.arrays[name]
            self._constants[name] = torch.tensor(array, device=self.model.device)
        return self._constants[name]

    def images(self, samples: np.ndarray, augment: bool = False) -> Tensor:
        """(n,) indices -> (n, 3, size, size), under the test view or augmented."""
        return self.data.images(samples, self.generator("method augmentation") if augment else None)

    def labels(self, samples: np.ndarray) -> Tensor:
        """(n,) indices -> (n,) class positions."""
        return self.data.labels(samples)


@dataclass
class Batch:
    """One batch of local training: implements `fcil.method.Step`."""

    client: Session
    images: Tensor
    labels: Tensor
    samples: np.ndarray
    _outputs: tuple[Tensor, Mapping[str, Tensor]] | None = field(default=None, repr=False)

    @property
    def model(self) -> AdaptedModel:
        """The client's model."""
        return self.client.model

    @property
    def phase(self) -> Phase:
        """The phase that the client works for."""
        return self.client.phase

    @property
    def references(self) -> Arrays:
        """The broadcast's read-only arrays."""
        return self.client.broadcast.references

    @property
    def store(self) -> Store:
        """The client's own arrays."""
        return self.client.store

    def generator(self, purpose: str) -> np.random.Generator:
        """The client's randomness of this phase for one purpose."""
        return self.client.generator(purpose)

    def constant(self, name: str) -> Tensor:
        """A reference, or else an array as it was broadcast, as a tensor on the model's device."""
        return self.client.constant(name)

    def _forward(self) -> tuple[Tensor, Mapping[str, Tensor]]:
        if self._outputs is None:
            self._outputs = self.model.outputs(self.images)
        return self._outputs

    @property
    def features(self) -> Tensor:
        """(n, width) features of the batch, computed once."""
        return self._forward()[0]

    @property
    def outputs(self) -> Mapping[str, Tensor]:
        """Further outputs of the adapter's forward pass."""
        return self._forward()[1]

    def cross_entropy(self) -> Tensor:
        """Mean cross-entropy over the current task's classes only: all other logits are left out."""
        task = self.phase.task
        return F.cross_entropy(self.model.logits(self.features, (task.index,)), self.labels - task.first)
