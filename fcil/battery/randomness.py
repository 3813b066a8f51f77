"""Detect draws from the generators that all code of a process shares, without drawing from them."""

import random
from typing import Any

import numpy as np
import torch

__all__ = ["drawn_from", "global_state"]


def global_state() -> dict[str, Any]:
    """Read the states of the global generators of NumPy, torch and Python."""
    numpy: dict[str, Any] = dict(np.random.get_state(legacy=False))  # noqa: NPY002  (only looks)
    return {
        "np.random": (numpy["state"]["key"].tobytes(), numpy["state"]["pos"], numpy["has_gauss"]),
        "torch's default generator": torch.get_rng_state().numpy().tobytes(),
        "Python's random": random.getstate(),
    }


def drawn_from(before: dict[str, Any]) -> list[str]:
    """Name the global generators whose state is no longer the one of `before`."""
    return [name for name, state in global_state().items() if state != before[name]]
