"""Refuse groups of a method's own under names by which `Averaging` finds something else in a state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fcil.errors import MethodError
from fcil.method.averaging import FIXED, START, Averaging
from fcil.method.base import Method
from fcil.method.local import Adapter
from fcil.method.phases import REPORT, TRAIN, Phase
from fcil.method.server_optimizer import MOMENTS
from fcil.method.state import TRAINED

__all__ = ["check_groups"]

TAKEN = {
    TRAINED: "what a schedule has changed in `module`, which is put back when the module is deployed",
    START: "the adapter's arrays at their start, with which a fresh task begins",
    FIXED: "the adapter's fixed arrays, which are sent and deployed with every model",
    MOMENTS: "the moments of the server's optimiser, which are dropped where a task begins anew",
}
"""Group -> what the house takes its arrays for."""


def _says(adapter: Adapter | None, name: str) -> bool:
    """Tell whether an adapter has a function of its own in the place of the contract's default."""
    return adapter is not None and getattr(type(adapter), name, None) is not getattr(Adapter, name)


def _fills(method: Averaging) -> set[str]:
    """The groups of TAKEN that the house may fill for this method."""
    adapter = method.adapter
    filled = {
        TRAINED: _says(adapter, "next_round"),
        START: adapter is not None and not adapter.starts_at_zero,
        FIXED: _says(adapter, "initial_and_fixed"),
        MOMENTS: method.server_optimizer is not None,
    }
    return {group for group, fills in filled.items() if fills}


def check_groups(method: Method, state: Mapping[str, object], phase: Phase) -> None:
    """Refuse a group that only the method itself can have put there, and that would be taken for something else.

    Raises:
        MethodError: names the group, and what it would be taken for.
    """
    if not (groups := TAKEN.keys() & state.keys()):
        return
    doing = [method, *(method.acting(replace(phase, kind=kind)) for kind in (TRAIN, REPORT))]
    averaging = [one for one in doing if isinstance(one, Averaging)]
    if averaging and (own := sorted(groups - set().union(*map(_fills, averaging)))):
        raise MethodError(
            f"{phase}: the state has a group {own[0]!r}, a name that is taken: federated averaging finds there "
            f"{TAKEN[own[0]]}. Give the method's own group another name"
        )
