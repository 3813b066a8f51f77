"""The replies of a phase's clients: single updates, sums over groups of clients, or failures.

With `run.aggregate_on_worker` the clients of a phase are cut into groups, and the worker of a group sends the sums that
merging needs (`Method.sums`) in place of single updates. Groups depend on who takes part only, never on the number
of workers, so the result has the same bits everywhere.
"""

import math
import traceback
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from fcil.arrays import Arrays, nbytes, shapes, total
from fcil.method import Broadcast, ClientUpdate, GramShape, Method, Shapes
from fcil.server.traffic import update_bytes
from fcil.server.validation import Expected, refusal

__all__ = [
    "TRACEBACK", "Emit", "Failure", "Gathered", "OnError", "Partial", "Reply", "crashed", "groups", "summed",
    "sums_shapes", "update_refusal",
]  # fmt: skip

HELD_BYTES = 1 << 25
"""Bytes of updates that wait to be summed: one call for several clients takes a fraction of one call for each."""
TRACEBACK = 8000
"""Characters of a traceback that travel and are recorded, the last ones: they hold the exception and where it was."""

OnError = Literal["stop", "skip"]
"""What an exception in a client's code does: stops the run, or costs that client's update."""
Emit = Callable[[Mapping[str, Any]], None]
"""Called with every event of a run, in order."""


@dataclass(frozen=True)
class Failure:
    """A client that was asked and has no update, and the reason."""

    client: int
    reason: str
    traceback: str = ""
    """Where the client's code raised an exception; empty where the update is missing for another reason."""
    stops: bool = False
    """Whether it stops the run as an exception does, where its cause can be mended before the run goes on."""

    @property
    def raised(self) -> bool:
        """Tell whether it comes from the client's own process, and not from the way there or back."""
        return self.stops or bool(self.traceback)


def crashed(client: int, error: BaseException) -> Failure:
    """The failure of a client whose code raised `error`."""
    return Failure(client, f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error))[-TRACEBACK:])


@dataclass(frozen=True)
class Partial:
    """The sums over the good updates of a group of clients."""

    phase: int
    members: tuple[ClientUpdate, ...]
    """The clients in the sums: number, examples and metrics; their arrays stayed where they were summed."""
    failures: tuple[Failure, ...] = ()
    sums: Arrays = field(default_factory=dict)
    """The sums, float64; empty where no client of the group has a good update."""
    masked_bytes: int = 0
    """Bytes that its clients sent in place of the sums, where they were masked; 0 where they were not."""

    @property
    def nbytes(self) -> int:
        """Bytes that were sent for these sums."""
        return self.masked_bytes or nbytes(self.sums)


Reply = ClientUpdate | Partial | Failure


@dataclass(frozen=True)
class Gathered:
    """The good replies to a request."""

    updates: list[ClientUpdate] = field(default_factory=list)
    """The good updates; those of clients in groups have no arrays."""
    partials: list[Partial] = field(default_factory=list)
    missing: int = 0
    """Number of clients without a good update."""
    left_out: list[ClientUpdate] = field(default_factory=list)
    """Good updates that the run's filter keeps from the merge."""

    @property
    def good(self) -> int:
        """Number of good updates, those that are left out included."""
        return len(self.updates) + len(self.left_out)

    @property
    def nbytes(self) -> int:
        """Payload of the good replies, in bytes."""
        single = sum(update_bytes(u) for u in [*self.updates, *self.left_out])
        return single + sum(partial.nbytes for partial in self.partials)

    def sums(self) -> dict[str, np.ndarray]:
        """The partial sums of all groups, added in the order of their clients."""
        return total([p.sums for p in sorted(self.partials, key=lambda p: p.members[0].client)])


def groups(clients: Sequence[int]) -> list[list[int]]:
    """Cut clients into groups of neighbours, about as many groups as clients in each."""
    size = math.ceil(math.sqrt(len(clients)))
    return [list(clients[begin : begin + size]) for begin in range(0, len(clients), size)]


def summed(
    method: Method,
    target: Expected,
    broadcast: Broadcast,
    replies: Iterable[ClientUpdate | Failure],
    check_claims: bool = True,
) -> Partial:
    """Add up a group's good updates, holding as many at a time as HELD_BYTES allow, and at least one.

    Args:
        target: the names, shapes and counts of a good reply.
        check_claims: whether the method is asked for its objections.
    """
    members: list[ClientUpdate] = []
    already: set[int] = set()
    failures: list[Failure] = []
    waiting: list[ClientUpdate] = []
    parts: list[Arrays] = []

    def add_up() -> None:
        if waiting:
            parts[:] = [total([*parts, method.sums(target.phase, broadcast, waiting)])]
            waiting.clear()

    for reply in replies:
        if isinstance(reply, Failure):
            failures.append(reply)
            continue
        if reason := update_refusal(method, target, broadcast, reply, already, check_claims):
            failures.append(Failure(reply.client, reason))
            continue
        if (len(waiting) + 1) * update_bytes(reply) > HELD_BYTES:
            add_up()
        waiting.append(reply)
        members.append(replace(reply, arrays={}, statistics={}))
        already.add(reply.client)
    add_up()
    return Partial(target.phase.index, tuple(members), tuple(failures), parts[0] if parts else {})


def update_refusal(
    method: Method, target: Expected, broadcast: Broadcast, update: ClientUpdate, already: Container[int], claims: bool
) -> str | None:
    """The reason why an update must not be merged, or None: its form first, then what the method objects to."""
    reason = refusal(update, target, already)
    return reason or (method.objection(target.phase, broadcast, update) if claims else None)


def sums_shapes(method: Method, target: Expected, broadcast: Broadcast) -> Shapes:
    """The shapes of the sums over any group of clients, found by summing an update of zeros."""

    def zeros(wanted: Shapes) -> dict[str, np.ndarray]:
        return {name: np.zeros([max(n, 0) for n in shape], np.float32) for name, shape in wanted.items()}

    blank = ClientUpdate(0, target.phase.index, 1, zeros(target.arrays), zeros(target.statistics))
    sums, layouts = shapes(method.sums(target.phase, broadcast, [blank])), method.gram_sums(target.phase, broadcast)
    return {name: GramShape(shape, layouts[name]) if name in layouts else shape for name, shape in sums.items()}
