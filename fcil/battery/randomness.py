"""Whether somebody has drawn from the generators that all code of a process shares. Looks, and draws nothing."""

import random
from typing import Any

import numpy as np
import torch

__all__ = ["drawn_from", "global_state"]


def global_state() -> dict[str, Any]:
    """Where the global generators of NumPy, torch and Python stand."""
    numpy: dict[str, Any] = dict(np.random.get_state(legacy=False))  # noqa: NPY002  (only looks)
    return {
        "np.random": (numpy["state"]["key"].tobytes(), numpy["state"]["pos"], numpy["has_gauss"]),
        "torch's default generator": torch.get_rng_state().numpy().tobytes(),
        "Python's random": random.getstate(),
    }


def drawn_from(before: dict[str, Any]) -> list[str]:
    """The global generators that stand elsewhere now."""
    return [name for name, state in global_state().items() if state != before[name]]
