"""GLFC's proxy server: it reconstructs clients' images out of gradients that they send, and scores models on them.

It is an attack by design ("deep leakage from gradients", Zhu et al., NeurIPS 2019, arXiv 1906.08935): whoever has the
gradient of a small network on one image has the image.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from fcil.method import Client, Phase, Task

from ._exemplars import herded, normalised_features

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SIDE", "gradient_size", "prototype_gradients", "reconstructed"]

SIDE = 32
"""Side of the images that the encoding network sees and the proxy reconstructs, in pixels."""
CHANNELS, KERNEL, WIDTH = 12, 5, 12 * (SIDE // 4) ** 2
PERTURBATION_STEPS, PERTURBATION_RATE, PERTURBATION_DECAY = 50, 0.2, 1e-5
"""Of public code, whose rate is a tenth of its learning rate of 2."""
RATE = 0.1
"""Learning rate of L-BFGS, as in public code; each of its steps has up to 20 iterations, torch's default."""


def _sizes(classes: int) -> list[tuple[int, ...]]:
    """Shapes of the encoding network's parameters: three convolutions and a linear layer, each with its biases."""
    convolutions = [((CHANNELS, width, KERNEL, KERNEL), (CHANNELS,)) for width in (3, CHANNELS, CHANNELS)]
    return [shape for pair in [*convolutions, ((classes, WIDTH), (classes,))] for shape in pair]


def gradient_size(classes: int) -> int:
    """Number of entries of one image's gradient: 8,136 + 769 classes."""
    return sum(math.prod(shape) for shape in _sizes(classes))


def _encoder(phase: Phase) -> list[Tensor]:
    """Draw the encoding network of a task, U(-1/2, 1/2) as in public code: the same for its clients and the proxy."""
    import torch

    rng = phase.generator("gradient encoder")
    drawn = [rng.uniform(-0.5, 0.5, shape) for shape in _sizes(phase.task.size)]
    return [torch.from_numpy(a).requires_grad_() for a in drawn]


def _gradient(encoder: list[Tensor], image: Tensor, label: int, differentiable: bool = False) -> Tensor:
    """The gradient of cross-entropy with respect to all parameters, end to end, float64.

    Args:
        image: (1, 3, SIDE, SIDE).
        label: place of its class within the task.
        differentiable: whether a gradient can be taken of the gradient.
    """
    import torch
    from torch.nn import functional as F

    x = image
    for layer, stride in enumerate((2, 2, 1)):
        x = F.conv2d(x, encoder[2 * layer], encoder[2 * layer + 1], stride, KERNEL // 2).sigmoid()
    loss = F.cross_entropy(F.linear(x.flatten(1), encoder[6], encoder[7]), torch.tensor([label]))
    parts = torch.autograd.grad(loss, encoder, create_graph=differentiable)
    return torch.cat([part.flatten() for part in parts])


def _perturbed(client: Client, image: Tensor, label: int) -> Tensor:
    """Move an image, (1, 3, h, w), by steps down the model's binary cross-entropy over all classes seen."""
    import torch
    from torch.nn import functional as F

    moved = image.detach().clone().requires_grad_()
    optimizer = torch.optim.SGD([moved], lr=PERTURBATION_RATE, weight_decay=PERTURBATION_DECAY)
    for _ in range(PERTURBATION_STEPS):
        logits = client.model.logits(client.model.features(moved))
        target = F.one_hot(torch.tensor([label], device=logits.device), logits.shape[1]).to(logits.dtype)
        (moved.grad,) = torch.autograd.grad(F.binary_cross_entropy_with_logits(logits, target), moved)
        optimizer.step()
    return moved.detach()


def shown(client: Client, sample: np.ndarray, label: int) -> Tensor:
    """What the encoding network sees of a sample, (1,) -> (1, 3, SIDE, SIDE) float64: perturbed, then resized."""
    from torch.nn import functional as F

    image = _perturbed(client, client.images(sample), label).double().cpu()
    if image.shape[-2:] == (SIDE, SIDE):
        return image
    return F.interpolate(image, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)


def prototypes(client: Client) -> dict[int, np.ndarray]:
    """Class position -> the client's sample of it, (1,), whose features are nearest to their mean."""
    labels = client.labels(client.samples).cpu().numpy()
    features = normalised_features(client, client.samples)
    places = {label: np.flatnonzero(labels == label) for label in np.unique(labels).tolist()}
    return {label: client.samples[of[herded(features[of], 1)]] for label, of in places.items()}


def prototype_gradients(client: Client) -> np.ndarray:
    """The encoding network's gradient on one perturbed image of each class of the task, (classes, entries) float32.

    Rows of classes that the client has no sample of are zero.
    """
    task: Task = client.phase.task
    rows = np.zeros((task.size, gradient_size(task.size)), np.float32)
    encoder = _encoder(client.phase)
    for label, sample in prototypes(client).items():
        place = label - task.first
        rows[place] = _gradient(encoder, shown(client, sample, label), place).numpy()
    return rows


def reconstructed(rows: np.ndarray, phase: Phase, client: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Images whose gradients are those that a client has sent, and the positions of their classes.

    Each begins at random and follows L-BFGS down the squared distance of gradients; of its iterates the one with the
    least distance is taken.

    Args:
        rows: (classes, entries), as of `prototype_gradients`.
        steps: of L-BFGS.

    Returns:
        (n, 3, SIDE, SIDE) float32 and (n,) int64, for the n classes whose row is not zero.
    """
    import torch

    places = [place for place, row in enumerate(rows) if row.any()]
    images, encoder = np.zeros((len(places), 3, SIDE, SIDE), np.float32), _encoder(phase)
    for at, place in enumerate(places):
        target = torch.from_numpy(rows[place]).double()
        start = phase.generator("reconstruction", client, place).standard_normal((1, 3, SIDE, SIDE))
        image = torch.from_numpy(start).requires_grad_()
        optimizer = torch.optim.LBFGS([image], lr=RATE)
        least = math.inf

        def distance(image: Tensor = image, target: Tensor = target, place: int = place) -> float:
            apart = (_gradient(encoder, image, place, differentiable=True) - target).square().sum()
            (image.grad,) = torch.autograd.grad(apart, image)
            return apart.item()

        for _ in range(steps):
            optimizer.step(distance)  # type: ignore[no-untyped-call]
            apart = distance()
            if not math.isfinite(apart):
                break
            if apart < least:
                least, images[at] = apart, image.detach()[0].float().numpy()
    return images, phase.task.first + np.array(places, np.int64)
