"""The objects that a method's client code is given: the client in one phase, and one batch of its training."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fcil.arrays import Arrays
from fcil.client.data import ClientData
from fcil.method import Broadcast, Phase, Store
from fcil.model.adapted import AdaptedModel

__all__ = ["ENGINE_STREAMS", "Batch", "ClientSession"]

ENGINE_STREAMS = ("order", "augmentation", "method augmentation", "statistics augmentation")
"""Purposes that the engine draws for. A method that drew from one of them would change its own batches and views."""


@dataclass
class ClientSession:
    """One client in one phase: implements `fcil.method.Client`."""

    number: int
    phase: Phase
    model: AdaptedModel
    broadcast: Broadcast
    store: Store
    data: ClientData
    scratch: dict[str, Any] = field(default_factory=dict, repr=False)
    """What the method keeps for this phase alone."""
    statistics: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    """What is sent beside arrays: sums over training, what hooks have computed, and then those of passes."""
    _generators: dict[str, np.random.Generator] = field(default_factory=dict, repr=False)
    _constants: dict[str, Tensor] = field(default_factory=dict, repr=False)
    _known: frozenset[int] = field(default=frozenset(), repr=False)

    @property
    def samples(self) -> np.ndarray:
        """The client's samples of this task, (n,), as indices into the training part."""
        return self.data.indices

    @property
    def unlabelled(self) -> np.ndarray:
        """Samples of this task that the client holds without labels, (m,), as indices into the training part."""
        return self.data.unlabelled

    def generator(self, purpose: str) -> np.random.Generator:
        """The client's randomness of this phase for one of the method's purposes; it lasts for the phase.

        Raises:
            ValueError: the purpose is one of ENGINE_STREAMS.
        """
        if purpose in ENGINE_STREAMS:
            raise ValueError(
                f"generator({purpose!r}): the engine draws from this stream, so that drawing from it here would change "
                "the client's batches; choose another purpose"
            )
        return self.stream(purpose)

    def stream(self, purpose: str) -> np.random.Generator:
        """The client's randomness as `generator` gives it, for the engine's purposes too."""
        if purpose not in self._generators:
            self._generators[purpose] = self.phase.generator(purpose, self.number)
        return self._generators[purpose]

    def constant(self, name: str) -> Tensor:
        """A reference, or an array as it was broadcast before training, as a tensor on the model's device.

        Raises:
            KeyError: neither has this name.
            ValueError: both have it.
        """
        if name not in self._constants:
            arrays, references = self.broadcast.arrays, self.broadcast.references
            if name in arrays and name in references:
                raise ValueError(
                    f"constant({name!r}): it is the name of an array and of a reference; give references a prefix"
                )
            array = references[name] if name in references else arrays[name]
            self._constants[name] = torch.tensor(np.asarray(array, order="C"), device=self.model.device)
        return self._constants[name]

    def check_constants(self) -> None:
        """Refuse what a method's code has written into a constant: all later steps would have read it.

        Raises:
            ValueError: names the constant.
        """
        for name, tensor in self._constants.items():
            if tensor._version:
                raise ValueError(
                    f"constant({name!r}) was changed in place: it stands for what was broadcast; clone it before you "
                    "write, or make a new tensor"
                )

    def images(self, samples: np.ndarray, augment: bool = False) -> Tensor:
        """Images of samples, (n,) indices -> (n, 3, size, size), under the test view or augmented.

        Raises:
            ValueError: a sample that the client does not hold.
        """
        self._check_held(samples, self.data.unlabelled)
        return self.data.images(samples, self.stream("method augmentation") if augment else None)

    def labels(self, samples: np.ndarray) -> Tensor:
        """Labels of samples, (n,) indices -> (n,) class positions.

        Raises:
            ValueError: a sample that the client does not hold, or holds without its label.
        """
        self._check_held(samples)
        return self.data.labels(samples)

    def _check_held(self, samples: np.ndarray, unlabelled: np.ndarray | None = None) -> None:
        """Refuse what another client holds and what arrives later: in a federation nobody could read it here."""
        self._known = self._known or frozenset(self.data.held_so_far.tolist())
        foreign = sorted(set(samples.tolist()) - self._known - set([] if unlabelled is None else unlabelled.tolist()))
        if hidden := sorted(set(foreign) & set(self.data.unlabelled.tolist())):
            raise ValueError(
                f"client {self.number} asks for labels of training samples {', '.join(map(str, hidden[:3]))}, which it "
                f"holds without labels in {self.phase} (tasks.label_share): only their images can be read"
            )
        if foreign:
            raise ValueError(
                f"client {self.number} asks for training samples {', '.join(map(str, foreign[:3]))}, which it does not "
                f"hold in {self.phase}: only its own samples of this task and of earlier ones can be read"
            )


@dataclass
class Batch:
    """One batch of local training: implements `fcil.method.Step`."""

    client: ClientSession
    images: Tensor
    labels: Tensor
    samples: np.ndarray
    _outputs: tuple[Tensor, Mapping[str, Tensor]] | None = field(default=None, repr=False)

    @property
    def model(self) -> AdaptedModel:
        """Return the model that the client works with."""
        return self.client.model

    @property
    def phase(self) -> Phase:
        """The phase that the client works for."""
        return self.client.phase

    @property
    def references(self) -> Arrays:
        """Return the read-only arrays of the broadcast."""
        return self.client.broadcast.references

    @property
    def store(self) -> Store:
        """Return the arrays that the client keeps for itself."""
        return self.client.store

    def generator(self, purpose: str) -> np.random.Generator:
        """The client's randomness of this phase for one purpose."""
        return self.client.generator(purpose)

    def constant(self, name: str) -> Tensor:
        """A reference, or an array as it was broadcast, as a tensor on the model's device."""
        return self.client.constant(name)

    def _forward(self) -> tuple[Tensor, Mapping[str, Tensor]]:
        if self._outputs is None:
            if self.model.is_using:
                raise ValueError(
                    "step.features are kept for the whole batch, and `model.using` has other arrays loaded: ask for "
                    "them before that block, and in it for step.model.features(step.images)"
                )
            with torch.enable_grad():  # whoever asks first may only want to look
                self._outputs = self.model.outputs(self.images)
        return self._outputs

    @property
    def features(self) -> Tensor:
        """Features of the batch, (n, width), computed once."""
        return self._forward()[0]

    @property
    def outputs(self) -> Mapping[str, Tensor]:
        """Further outputs of the adapter's forward pass."""
        return self._forward()[1]

    def cross_entropy(self) -> Tensor:
        """Mean cross-entropy over the current task's classes only: all other logits are left out."""
        task = self.phase.task
        return F.cross_entropy(self.model.logits(self.features, (task.index,)), self.labels - task.first)
