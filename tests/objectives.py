"""A batch made of given tensors, for the objectives of methods: no network, and a loss of one's own."""

from types import SimpleNamespace

import numpy as np
import torch
from small import phase

from fcil.method import Task


def tensors(arrays, trains=True):
    return {name: torch.tensor(np.asarray(a), dtype=torch.float64, requires_grad=trains) for name, a in arrays.items()}


def step_of(arrays, constants=None, cross_entropy=0.0, at=None, frozen=(), **more):
    """What `loss` reads of a step: `arrays` train but for the `frozen`, in float64; constants are references too."""
    leaves = tensors({n: a for n, a in arrays.items() if n not in frozen})
    leaves |= tensors({n: a for n, a in arrays.items() if n in frozen}, trains=False)
    known = {**arrays, **(constants or {})}
    at = at or phase(task=Task(0, 0, 2))
    return SimpleNamespace(
        model=SimpleNamespace(arrays=leaves), references=constants or {}, phase=at, store={},
        constant=lambda name: torch.tensor(np.asarray(known[name]), dtype=torch.float64),
        cross_entropy=lambda: cross_entropy(leaves) if callable(cross_entropy) else torch.tensor(cross_entropy), **more,
    )  # fmt: skip


def gradients(loss, step):
    """The gradient of the loss in every array that trains; zero where it has none."""
    names = [name for name, leaf in step.model.arrays.items() if leaf.requires_grad]
    found = torch.autograd.grad(loss, [step.model.arrays[n] for n in names], allow_unused=True)
    return {
        n: np.zeros(step.model.arrays[n].shape) if g is None else g.numpy() for n, g in zip(names, found, strict=True)
    }
