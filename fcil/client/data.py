"""Serves one client's samples of one task as batches of model inputs."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fcil.data.dataset import Dataset, model_inputs

__all__ = ["ClientData"]

AHEAD = 256
"""Number of images that a GPU renders at once."""


@dataclass(frozen=True)
class ClientData:
    """One client's samples of one task, seen through a transform."""

    dataset: Dataset
    indices: np.ndarray
    """(n,) the samples, as indices into the training part."""
    positions: np.ndarray
    """(labels,) class position of each of the data set's labels."""
    size: int
    """Side of the model's input, in pixels."""
    device: torch.device
    earlier: tuple[np.ndarray, ...] = ()
    """The client's samples of earlier tasks, as far as a method may come back to them."""

    unlabelled: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    """(m,) samples of this task of which the client has the images without their labels."""

    @property
    def held_so_far(self) -> np.ndarray:
        """All samples whose images and labels the client may read, (n,): those of this task and `earlier`."""
        return np.concatenate([self.indices, *self.earlier])

    def __len__(self) -> int:
        return len(self.indices)

    def images(self, samples: np.ndarray, transform: np.random.Generator | None = None, batch: int = 0) -> Tensor:
        """Images of samples, (n,) indices -> (n, 3, size, size), under the test view or augmented by a generator."""
        if not len(samples):
            return torch.zeros((0, 3, self.size, self.size), device=self.device)
        return model_inputs(self.dataset.train.images[samples], self.dataset, self.size, transform, self.device, batch)

    def labels(self, samples: np.ndarray) -> Tensor:
        """Labels of samples, (n,) indices -> (n,) int64 class positions."""
        return torch.from_numpy(self.positions[self.dataset.train.labels[samples]]).to(self.device)

    def batches(
        self, batch: int, order: np.ndarray, transform: np.random.Generator | None
    ) -> Iterator[tuple[Tensor, Tensor, np.ndarray]]:
        """Yield images (n, 3, size, size), class positions (n,) and samples (n,) in this order; the last may be fewer.

        A GPU is given several batches at once to render: it takes hardly longer than one.
        """
        ahead = max(1, AHEAD // batch) if self.device.type == "cuda" else 1
        for begin in range(0, len(order), ahead * batch):
            samples = self.indices[order[begin : begin + ahead * batch]]
            images, labels = self.images(samples, transform, batch), self.labels(samples)
            pieces = [samples[i : i + batch] for i in range(0, len(samples), batch)]
            yield from zip(torch.split(images, batch), torch.split(labels, batch), pieces, strict=True)
