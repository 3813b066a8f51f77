"""Refuse what a method's hooks have kept of arrays that train without copying it: it trains on with them."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from fcil.client.session import ClientSession

__all__ = ["check_copied"]


def _kept(session: ClientSession) -> Iterator[tuple[str, Any]]:
    """Yield all that the hooks have kept, and where."""
    places = {"Client.store": session.store, "Client.statistics": session.statistics, "Client.scratch": session.scratch}
    for place, values in places.items():
        for name, value in values.items():
            inside = value.values() if isinstance(value, Mapping) else value
            several = inside if isinstance(value, Mapping | list | tuple) else [value]
            yield from ((f"{place}[{name!r}]", one) for one in several)


def _address(value: object) -> tuple[str, int]:
    """Device and address of the values of an array or of a detached tensor; none for anything else, or without any."""
    if isinstance(value, np.ndarray) and value.size:
        return "cpu", value.ctypes.data
    if isinstance(value, Tensor) and value.numel() and not value.requires_grad:
        return str(value.device), value.data_ptr()
    return "", 0


def _memory_of(value: object, leaves: Mapping[str, Tensor]) -> str | None:
    """Name the array that trains in whose memory a value lies; None where it lies elsewhere."""
    device, address = _address(value)
    for name, leaf in leaves.items():
        if str(leaf.device) == device and leaf.data_ptr() <= address < leaf.data_ptr() + leaf.nbytes:
            return name
    return None


def check_copied(session: ClientSession, leaves: Mapping[str, Tensor]) -> None:
    """Refuse arrays and detached tensors whose memory is that of what has trained: their values have changed since.

    On a GPU, where an array is always a copy, the same code would have kept other values.

    Args:
        leaves: the tensors that trained, by name.

    Raises:
        ValueError: names what is kept, and of what it is the memory.
    """
    for where, value in _kept(session):
        if name := _memory_of(value, leaves):
            copied = "clone it, .detach().clone()" if isinstance(value, Tensor) else "copy it, .numpy().copy()"
            raise ValueError(
                f"{where} is no copy but the memory of {name}, which has trained since it was put there: {copied}; "
                "what was broadcast is client.constant(name)"
            )
