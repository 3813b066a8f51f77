"""What travels, in bytes of payload. Pure.

Up: every array and statistic of every client's reply. Down: an array is sent to a client when the client does not hold
this very content under this name already; so a teacher or an earlier task's factors cost once per client, and a factor
that no round has changed costs nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fcil.arrays import digest, nbytes
from fcil.method import Broadcast, ClientUpdate

__all__ = ["Ledger", "send", "update_bytes"]


@dataclass(frozen=True)
class Ledger:
    """Who holds what: name -> (digest of the content last sent, bit mask of the clients that hold it)."""

    held: Mapping[str, tuple[str, int]] = field(default_factory=dict)


def send(ledger: Ledger, broadcast: Broadcast, clients: Iterable[int]) -> tuple[Ledger, int]:
    """The ledger after sending `broadcast` to `clients`, and the bytes that it takes."""
    asked = sum(1 << client for client in clients)
    held = dict(ledger.held)
    sent = 0
    for name, a in {**broadcast.arrays, **{f"reference {n}": a for n, a in broadcast.references.items()}}.items():
        content = digest({"": a})
        known, owners = held.get(name, ("", 0))
        owners = owners if known == content else 0
        sent += a.nbytes * (asked & ~owners).bit_count()
        held[name] = (content, owners | asked)
    return Ledger(held), sent


def update_bytes(update: ClientUpdate) -> int:
    """Bytes of a client's reply."""
    return nbytes(update.arrays) + nbytes(update.statistics)
