"""Counts what travels between server and clients, in bytes of payload; pure functions.

Up: every array and statistic of every client's reply. Down: an array is sent to a client when the client does not hold
this very content under this name already; so a teacher or an earlier task's factors cost once per client, and a factor
that no round has changed costs nothing. What grows by little (`Broadcast.patches`) costs what it grew by.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from fcil.arrays import Arrays, digest, nbytes
from fcil.method import Broadcast, ClientUpdate, as_broadcast

__all__ = ["Ledger", "send", "update_bytes"]


@dataclass(frozen=True)
class Ledger:
    """Which client holds which content of every array, so that nothing is sent twice."""

    holders: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """Name -> (digest of the content sent last, bit mask of the clients that hold it)."""


def send(
    ledger: Ledger, broadcast: Broadcast, clients: Iterable[int],
    receives: Callable[[Arrays, int], Arrays] = as_broadcast,
) -> tuple[Ledger, int]:  # fmt: skip
    """The ledger after sending `broadcast` to `clients`, and the bytes that it takes.

    Args:
        receives: what a client is sent of the broadcast's arrays (`Local.receives`).
    """
    clients = list(clients)
    mask, holders, sent = sum(1 << client for client in clients), dict(ledger.holders), 0
    sizes = {client: {n: a.nbytes for n, a in receives(broadcast.arrays, client).items()} for client in clients}
    follows = {_reference(new): (_reference(old), size) for new, (old, size) in broadcast.patches.items()}
    for name, a in {**broadcast.arrays, **{_reference(n): a for n, a in broadcast.references.items()}}.items():
        content = digest({"": a})
        last, owners = holders.get(name, ("", 0))
        owners = owners if last == content else 0
        old, size = follows.get(name, ("", 0))
        patchable = holders.get(old, ("", 0))[1]
        for client in (c for c in clients if not owners >> c & 1):
            whole = sizes[client].get(name, a.nbytes)
            sent += min(size, whole) if patchable >> client & 1 else whole
        holders[name] = (content, owners | mask)
    for old, _ in follows.values():
        holders.pop(old, None)
    return Ledger(holders), sent


def _reference(name: str) -> str:
    return f"reference {name}"


def update_bytes(update: ClientUpdate) -> int:
    """Bytes of a client's reply."""
    return nbytes(update.arrays) + nbytes(update.statistics)
