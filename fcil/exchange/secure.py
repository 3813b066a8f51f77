"""Carries out a secure sum over all clients of a phase in one process: a simulation that nobody's secrecy rests on.

The steps are those of the protocol (`fcil.secure`), and what passes for the server in them gets keys, masked numbers
and shares only. Clients share their secrets first, and whoever then fails to deliver is a dropout.
"""

from collections.abc import Mapping

import numpy as np

from fcil.arrays import Arrays
from fcil.errors import MergeError
from fcil.exchange.worker import Worker
from fcil.secure import SecureClient, decode, encode, unmasked
from fcil.secure.shamir import SHARE
from fcil.server.replies import Failure, Partial
from fcil.server.request import Request

__all__ = ["masked_bytes", "secure_sums", "threshold_of"]

BOX_BYTES = 12 + 2 * SHARE + 16
"""Bytes of the message that holds two shares: nonce, shares, tag."""


def threshold_of(clients: int) -> int:
    """The number of clients without whom no masks can be undone: the least that is more than half."""
    return clients // 2 + 1


def masked_bytes(sums: Arrays, clients: int) -> int:
    """Bytes that as many clients send for a secure sum: masked numbers of 16 bytes, keys, shares, revealed shares."""
    numbers = sum(a.size for a in sums.values())
    return clients * (16 * numbers + 64 + (clients - 1) * BOX_BYTES + clients * SHARE)


def _flat(sums: Arrays) -> np.ndarray:
    return np.concatenate([np.reshape(sums[name], -1) for name in sorted(sums)])


def _restored(numbers: np.ndarray, like: Arrays) -> dict[str, np.ndarray]:
    out: dict[str, np.ndarray] = {}
    begin = 0
    for name in sorted(like):
        size = like[name].size
        out[name] = numbers[begin : begin + size].reshape(like[name].shape)
        begin += size
    return {name: out[name] for name in like}


def secure_sums(worker: Worker, request: Request) -> Partial:
    """The sums over all clients that deliver, put together from masked ones; of fewer than the threshold, none."""
    clients, phase = list(request.num_examples), request.phase
    threshold, session = threshold_of(len(clients)), f"{phase.seed}|{phase.index}".encode()
    parties = {client: SecureClient(client, session, threshold) for client in clients}
    keys = {client: party.keys for client, party in parties.items()}
    boxes = {client: party.share(keys) for client, party in parties.items()}
    partials: dict[int, Partial] = {}
    masked: dict[int, np.ndarray] = {}
    failures: list[Failure] = []
    for client in clients:
        partial = worker.work_group(phase, request.broadcast, (client,))
        failures += partial.failures
        if not partial.members:
            continue
        try:
            words = encode(_flat(partial.sums))
        except MergeError as error:
            failures.append(Failure(client, str(error)))
            continue
        masked[client] = parties[client].masked(words, {s: box[client] for s, box in boxes.items() if s != client})
        partials[client] = partial
    if len(masked) < threshold:
        reason = f"secure sums: {len(masked)} of {len(clients)} clients have delivered, {threshold} are needed"
        return Partial(phase.index, (), (*failures, *(Failure(client, reason) for client in masked)))
    revealed = {client: parties[client].reveal(set(masked)) for client in masked}
    total = decode(unmasked(masked, set(boxes), keys, revealed, session, threshold))
    like = next(iter(partials.values())).sums
    members = tuple(member for partial in partials.values() for member in partial.members)
    sums: Mapping[str, np.ndarray] = _restored(total, like)
    return Partial(phase.index, members, tuple(failures), sums, masked_bytes(like, len(clients)))
