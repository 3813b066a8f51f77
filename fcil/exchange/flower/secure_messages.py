"""Writes the messages of secure sums as Flower records, and reads them; what does not fit is a ValueError.

A step's record names the sum and the client. Beside it come, in the four steps: nothing; the keys of all; the phase's
work and the messages of others; the clients whose numbers have arrived.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flwr.app import ConfigRecord, RecordDict

from fcil.exchange.flower.messages import Job, Work, get, read_hello, read_phase, read_work
from fcil.exchange.secure_party import Sum
from fcil.secure import Keys, Revealed
from fcil.secure.shamir import SHARE

__all__ = [
    "ARRIVED", "KEYS", "MASK", "SHARES", "Step", "read_boxes", "read_keys", "read_revealed",
    "read_step", "with_arrived", "with_boxes", "with_keys", "with_step", "write_boxes", "write_keys",
    "write_revealed",
]  # fmt: skip

KEYS, SHARES, MASK, ARRIVED = "keys", "shares", "mask", "arrived"
"""The steps."""
_STEP, _ALL, _BOXES, _REPLY = "secure", "secure-keys", "secure-boxes", "secure-reply"
_KEY = 32
"""Bytes of a public key."""


@dataclass(frozen=True)
class Step:
    """A step of a secure sum, as a client is asked to take it."""

    name: str
    of: Sum
    client: int
    job: Job
    keys: dict[int, Keys] = field(default_factory=dict)
    boxes: dict[int, bytes] = field(default_factory=dict)
    work: Work | None = None
    arrived: frozenset[int] = frozenset()


def _columns(content: RecordDict, record: str, numbers: str, *columns: str) -> dict[int, list[bytes]]:
    """Client -> its bytes in each column; raises ValueError where they are no such table."""
    clients = _numbers(content, record, numbers)
    values = [get(content, record, column, list) for column in columns]
    if any(len(column) != len(clients) or not all(type(v) is bytes for v in column) for column in values):
        raise ValueError(f"record {record!r}: not one value for each client")
    return {client: [column[i] for column in values] for i, client in enumerate(clients)}


def _numbers(content: RecordDict, record: str, key: str) -> list[int]:
    clients = get(content, record, key, list)
    if not all(type(c) is int and 0 <= c < 1 << 62 for c in clients) or len(set(clients)) != len(clients):
        raise ValueError(f"record {record!r}: {key} are not numbers of clients, once each")
    return list(clients)


def _sized(values: list[bytes], size: int) -> list[bytes]:
    if any(len(value) != size for value in values):
        raise ValueError(f"keys or shares that have not {size} bytes")
    return values


# ---- requests --------------------------------------------------------------------------------------------------------


def with_step(content: RecordDict, name: str, of: Sum, client: int) -> RecordDict:
    """Add to the records that messages have in common which step of which sum a client is asked to take."""
    step: dict[str, Any] = {"step": name, "client": client, "session": of.session, "threshold": of.threshold}
    return RecordDict({**content, _STEP: ConfigRecord(step)})


def with_keys(content: RecordDict, keys: Mapping[int, Keys]) -> RecordDict:
    """Add the public keys of all clients."""
    pairs, boxes = ([getattr(k, part) for k in keys.values()] for part in ("pair", "box"))
    return RecordDict({**content, _ALL: ConfigRecord({"clients": list(keys), "pair": pairs, "box": boxes})})


def with_boxes(content: RecordDict, boxes: Mapping[int, bytes]) -> RecordDict:
    """Add the messages of other clients to this one."""
    return RecordDict({**content, _BOXES: _boxes(boxes)})


def with_arrived(content: RecordDict, arrived: Collection[int]) -> RecordDict:
    """Add the clients whose masked numbers have arrived."""
    return RecordDict({**content, _ALL: ConfigRecord({"clients": sorted(arrived)})})


def _boxes(boxes: Mapping[int, bytes]) -> ConfigRecord:
    return ConfigRecord({"clients": list(boxes), "boxes": list(boxes.values())})


def read_step(content: RecordDict) -> Step:
    """Read a step; raises ValueError where it is malformed."""
    name, client, session, threshold = (
        get(content, _STEP, key, kind)
        for key, kind in (("step", str), ("client", int), ("session", bytes), ("threshold", int))
    )
    job, of = read_hello(content), Sum("", read_phase(content).index, session, threshold)
    step = Step(name, of, client, job)
    if name == KEYS:
        return step
    if name == SHARES:
        table = _columns(content, _ALL, "clients", "pair", "box")
        return replace(step, keys={c: Keys(*_sized(pair, _KEY)) for c, pair in table.items()})
    if name == MASK:
        work, boxes = read_work(content), _columns(content, _BOXES, "clients", "boxes")
        if work.clients != (client,) or not work.summed:
            raise ValueError(f"the work of clients {work.clients[:3]} in a message to client {client}")
        return replace(step, work=work, boxes={c: box for c, (box,) in boxes.items()})
    if name == ARRIVED:
        return replace(step, arrived=frozenset(_numbers(content, _ALL, "clients")))
    raise ValueError(f"{name[:20]!r} is no step of a secure sum")


# ---- replies ---------------------------------------------------------------------------------------------------------


def write_keys(keys: Keys) -> RecordDict:
    """Write a client's public keys."""
    return RecordDict({_REPLY: ConfigRecord({"pair": keys.pair, "box": keys.box})})


def read_keys(content: RecordDict) -> Keys:
    """Read a client's public keys; raises ValueError where they are malformed."""
    return Keys(*_sized([get(content, _REPLY, part, bytes) for part in ("pair", "box")], _KEY))


def write_boxes(boxes: Mapping[int, bytes]) -> RecordDict:
    """Write a client's messages to the others."""
    return RecordDict({_REPLY: _boxes(boxes)})


def read_boxes(content: RecordDict) -> dict[int, bytes]:
    """Read a client's messages to the others; raises ValueError where they are malformed."""
    return {c: box for c, (box,) in _columns(content, _REPLY, "clients", "boxes").items()}


def write_revealed(revealed: Revealed) -> RecordDict:
    """Write the shares that a client reveals."""
    own_masks, pair_keys = revealed.own_mask, revealed.pair_key
    table: dict[str, Any] = {
        "own-of": list(own_masks), "own": list(own_masks.values()),
        "pair-of": list(pair_keys), "pair": list(pair_keys.values()),
    }  # fmt: skip
    return RecordDict({_REPLY: ConfigRecord(table)})


def read_revealed(content: RecordDict) -> Revealed:
    """Read the shares that a client reveals; raises ValueError where they are malformed."""

    def shares(of: str, column: str) -> dict[int, bytes]:
        table = _columns(content, _REPLY, of, column)
        return {c: _sized(values, SHARE)[0] for c, values in table.items()}

    own_masks, pair_keys = shares("own-of", "own"), shares("pair-of", "pair")
    if own_masks.keys() & pair_keys.keys():
        raise ValueError("shares of both secrets of one client")
    return Revealed(own_masks, pair_keys)
