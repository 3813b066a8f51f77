"""A client's buffer of its own earlier samples: which ones it keeps, and draws from them.

It holds indices into the client's own data, eight bytes each, and stands for as many images that a client has to keep,
un-augmented: h x w x 3 bytes each, as they are stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from fcil.method import Client, Store

__all__ = ["BUFFER", "Rule", "close", "drawn", "insert"]

Rule = Literal["reservoir", "balanced"]
"""reservoir: every sample that was ever offered is kept with the same probability (Vitter, ACM TOMS 1985, algorithm R).
balanced: a class that has less than its share takes the place of a random sample of the largest class (GDumb, Prabhu et
al., ECCV 2020, algorithm 1)."""
BUFFER, SEEN, TASK, OFFERED = "buffer", "buffer.seen", "buffer.task", "buffer offered"
"""Names in a client's store: the samples, (kept,) int64; how many were offered; the last task whose samples were. In
its scratch: how many were offered in this phase."""


def kept(store: Store) -> np.ndarray:
    """The samples in the buffer, (kept,) int64."""
    return store.get(BUFFER, np.zeros(0, np.int64))


def drawn(client: Client, count: int, purpose: str) -> np.ndarray:
    """Draw places in the buffer without replacement, (n,) int64: `count` of them, or all where there are fewer."""
    places = len(kept(client.store))
    return client.generator(purpose).choice(places, min(count, places), replace=False)


def insert(client: Client, samples: np.ndarray, size: int, rule: Rule) -> dict[int, int]:
    """Offer a batch of the current task to the buffer; each sample is offered once, in its first epoch on this client.

    Args:
        samples: (n,) indices of the batch, in their order.
        size: most samples that are kept.

    Returns:
        Place in the buffer -> position in the batch of the sample that has now come there.
    """
    store, offered = client.store, client.scratch.get(OFFERED, 0)
    if TASK in store and int(store[TASK]) == client.phase.task.index:
        return {}  # in an earlier round
    fresh = samples[: max(0, len(client.samples) - offered)]  # an epoch goes once through all samples
    client.scratch[OFFERED] = offered + len(fresh)
    put = _reservoir if rule == "reservoir" else _balanced
    buffer, places = kept(store).tolist(), put(client, fresh, kept(store), size)
    for place, position in places.items():
        buffer[place : place + 1] = [int(fresh[position])]
    store[BUFFER] = np.array(buffer, np.int64)
    store[SEEN] = np.array(int(store.get(SEEN, 0)) + len(fresh))
    return places


def close(client: Client) -> None:
    """Note at a phase's end that the task's samples have been offered."""
    if OFFERED in client.scratch:
        client.store[TASK] = np.array(client.phase.task.index)


def _reservoir(client: Client, fresh: np.ndarray, buffer: np.ndarray, size: int) -> dict[int, int]:
    rng, count, filled = client.generator("reservoir"), int(client.store.get(SEEN, 0)), len(buffer)
    places: dict[int, int] = {}
    for position in range(len(fresh)):
        count += 1
        place = filled if filled < size else int(rng.integers(count))
        if place < size:
            places[place] = position
            filled = max(filled, place + 1)
    return places


def _balanced(client: Client, fresh: np.ndarray, buffer: np.ndarray, size: int) -> dict[int, int]:
    rng = client.generator("balance")
    labels: list[int] = client.labels(buffer).tolist()
    incoming: Sequence[int] = client.labels(fresh).tolist()
    places: dict[int, int] = {}
    for position, label in enumerate(incoming):
        if labels.count(label) >= size / len({*labels, label}):
            continue
        if len(labels) < size:
            places[len(labels)] = position
            labels.append(label)
            continue
        largest = max(sorted(set(labels)), key=labels.count)
        place = int(rng.choice([i for i, other in enumerate(labels) if other == largest]))
        places[place], labels[place] = position, label
    return places
