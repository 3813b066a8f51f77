"""Carries out a secure sum over the clients of a phase: the server's steps, the same for every exchange.

Four messages to each client: for its public keys; with the keys of all, for shares of its secrets; with the shares for
it and the phase's work, for its masked numbers; with the names of those whose numbers have arrived, for shares that
undo the masks of their sum. What passes for the server gets keys, locked shares, masked numbers and revealed shares.
Whoever does not answer, or not as the protocol wants, is a dropout.
"""

import math
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial as bound
from typing import Protocol, TypeVar

import numpy as np

from fcil.arrays import Arrays
from fcil.errors import MergeError
from fcil.exchange.secure_party import MASKED, Parties, Sum, answered, context_of
from fcil.exchange.worker import Worker
from fcil.method import ClientUpdate, Shapes
from fcil.secure import Keys, Revealed, decode, told_twice, unmasked, usable
from fcil.secure.shamir import SHARE
from fcil.server.replies import Failure, OnError, Partial, sums_shapes
from fcil.server.request import Request
from fcil.server.validation import Expected, refusal

__all__ = ["BOX_BYTES", "Answers", "Anew", "Carrier", "masked_bytes", "secure_sum", "secure_sums", "threshold_of"]

BOX_BYTES = 12 + 2 * SHARE + 16
"""Bytes of the message that holds two shares: nonce, shares, tag."""
LEFT_OUT = "secure sums: not asked, as shares were asked for before for this phase's sum without it"
SHOWN = 10
"""Clients that a reason names."""

T = TypeVar("T")
Answers = Iterator[tuple[int, T | Failure]]
"""Pairs of a client and its answer, or the reason why there is none."""
Anew = Callable[[bool, Sequence[Failure]], bool]
"""(whether too few are left, the dropouts) -> whether to begin the sum anew with other secrets."""


class Carrier(Protocol):
    """Carries the messages of secure sums, to clients in this process or elsewhere."""

    def keys(self, of: Sum, clients: Collection[int]) -> Answers[Keys]:
        """Ask clients for their public keys."""

    def share(self, of: Sum, keys: Mapping[int, Keys]) -> Answers[dict[int, bytes]]:
        """Tell clients the keys of all; ask for their locked shares, receiver -> message."""

    def masked(self, of: Sum, boxes: Mapping[int, Mapping[int, bytes]]) -> Answers[Partial]:
        """Bring clients the messages of others, sender -> message, and their work; ask for their masked numbers."""

    def reveal(self, of: Sum, arrived: Set[int]) -> Answers[Revealed]:
        """Tell those whose numbers have arrived who they are; ask for their shares that undo the masks."""


def threshold_of(clients: int) -> int:
    """The number of clients without whom no masks can be undone: the least that is more than half."""
    return clients // 2 + 1


def masked_bytes(sums: Arrays, clients: int) -> int:
    """Bytes that as many clients send for a secure sum: masked numbers of 16 bytes, keys, shares, revealed shares."""
    numbers = sum(a.size for a in sums.values())
    return clients * (16 * numbers + 64 + (clients - 1) * BOX_BYTES + clients * SHARE)


def _restored(numbers: np.ndarray, like: Shapes) -> dict[str, np.ndarray]:
    out: dict[str, np.ndarray] = {}
    begin = 0
    for name in sorted(like):
        size = math.prod(like[name])
        out[name] = numbers[begin : begin + size].reshape(tuple(like[name]))
        begin += size
    return {name: out[name] for name in like}


@dataclass
class _Attempt:
    """One attempt at a sum: all that the server has of it."""

    request: Request
    of: Sum
    like: Shapes
    asked: Collection[int]
    """All clients of the request, or those of a sum that may have been had before."""
    earlier: Mapping[int, Failure] = field(default_factory=dict)
    """Clients that earlier attempts were without, and why."""
    run: str = ""
    """`Sum.run` as the clients make it."""
    keys: dict[int, Keys] = field(default_factory=dict)
    boxes: dict[int, dict[int, bytes]] = field(default_factory=dict)
    masked: dict[int, np.ndarray] = field(default_factory=dict)
    members: dict[int, ClientUpdate] = field(default_factory=dict)
    lost: list[Failure] = field(default_factory=list)
    """Clients that did not answer, or not as the protocol wants."""
    failures: list[Failure] = field(default_factory=list)
    """Clients that say that they have no good update."""

    def _take(self, answers: Answers[T], objection: Callable[[int, T], str | None]) -> dict[int, T]:
        """The good answers; all others are dropouts."""
        good: dict[int, T] = {}
        for client, answer in answers:
            if isinstance(answer, Failure):
                self.lost.append(answer)
            elif reason := objection(client, answer):
                self.lost.append(Failure(client, reason))
            else:
                good[client] = answer
        return good

    def deliver(self, carrier: Carrier) -> None:
        """Take the first three steps, unless too few are left on the way."""
        keys_by_client = self._take(carrier.keys(self.of, self.asked), _bad_keys)
        twice = told_twice(keys_by_client)
        self.lost += [Failure(client, _same_keys(tellers)) for client, tellers in twice.items()]
        self.keys = {client: keys for client, keys in keys_by_client.items() if client not in twice}
        if len(self.keys) < self.of.threshold:
            return
        self.boxes = self._take(carrier.share(self.of, self.keys), self._bad_boxes)
        if len(self.boxes) < self.of.threshold:
            return
        to_each = {c: {s: box[c] for s, box in self.boxes.items() if s != c} for c in self.boxes}
        counted = replace(self.request.expected, arrays={}, statistics={}, arrays_of={})
        for client, partial in self._take(carrier.masked(self.of, to_each), bound(self._bad_numbers, counted)).items():
            self.failures += partial.failures
            for member in partial.members:
                self.masked[client], self.members[client] = partial.sums[MASKED], member

    def _bad_boxes(self, client: int, boxes: dict[int, bytes]) -> str | None:
        if boxes.keys() != self.keys.keys() - {client} or any(len(box) != BOX_BYTES for box in boxes.values()):
            return "secure sums: its shares are not one for each of the others"
        return None

    def _bad_numbers(self, counted: Expected, client: int, partial: Partial) -> str | None:
        about = {member.client for member in partial.members} | {failure.client for failure in partial.failures}
        if about != {client} or len(partial.members) > 1:
            return "secure sums: its reply is not about itself"
        if not partial.members:
            return None
        words, numbers = partial.sums.get(MASKED), sum(math.prod(shape) for shape in self.like.values())
        if words is None or words.dtype != np.uint64 or words.shape != (numbers, 2):
            return f"secure sums: its masked numbers are not {numbers} of two words each"
        return refusal(partial.members[0], counted, ())

    @property
    def without(self) -> dict[int, Failure]:
        """Clients that are not in the sum, and why."""
        return {failure.client: failure for failure in [*self.lost, *self.failures]}

    @property
    def raised(self) -> bool:
        """Tell whether a client's code has raised an exception, or its disk is full."""
        return any(failure.raised for failure in self.without.values())

    def complete(self, carrier: Carrier) -> Partial:
        """Take the last step; the sum over those whose numbers have arrived, or over nobody."""
        revealed = self._take(carrier.reveal(self.of, self.masked.keys()), _no_objection)
        try:
            shared, threshold = self.boxes.keys(), self.of.threshold
            context = (
                context_of(self.run, self.of.phase, self.request.broadcast) if shared - self.masked.keys() else b""
            )
            words = unmasked(self.masked, shared, self.keys, revealed, self.of.session, threshold, context)
        except MergeError as error:
            return self.partial({}, str(error))
        return self.partial(_restored(decode(words), self.like))

    def partial(self, sums: Mapping[str, np.ndarray], reason: str = "") -> Partial:
        """The reply for all clients: with sums, who is in them; without, the reason for all who are not to blame."""
        failures_by_client = {c: Failure(c, reason if c in self.asked else LEFT_OUT) for c in self.request.num_examples}
        failures_by_client |= {c: failure for c, failure in self.earlier.items() if c not in self.asked}
        failures_by_client |= self.without
        members = [self.members[client] for client in sorted(self.members)] if sums else []
        for member in members:  # who delivered is in the sum, also if it revealed nothing afterwards
            failures_by_client.pop(member.client)
        sent = masked_bytes(sums, len(self.asked)) if sums else 0
        failures = tuple(failures_by_client[client] for client in sorted(failures_by_client))
        return Partial(self.request.phase.index, tuple(members), failures, dict(sums), sent)


def _no_objection(*_: object) -> None:
    return None


def _bad_keys(client: int, keys: Keys) -> str | None:
    return None if usable(keys.pair) and usable(keys.box) else "secure sums: its public keys are of no use"


def _same_keys(tellers: Sequence[int]) -> str:
    """Say why these clients, all that told one public key, take no part."""
    if len(tellers) == 1:
        return "secure sums: its two public keys are one; each has to be drawn for its purpose alone"
    shown = " and ".join(map(str, tellers[:SHOWN])) + (" ..." if len(tellers) > SHOWN else "")
    return (
        f"secure sums: clients {shown} told the same public key, and each has to draw its own: one node answers for "
        "several, or a running machine was copied. Start their nodes anew; if it comes again, find out who runs them"
    )


def _never(*_: object) -> bool:
    return False


def _why_short(attempt: _Attempt, needed: int, before: frozenset[int] | None) -> str:
    """Say why no sum is had of those who have delivered."""
    if before is None:
        return f"secure sums: {len(attempt.masked)} of {len(attempt.asked)} clients have delivered, {needed} are needed"
    away = sorted(before - attempt.masked.keys())
    named = ", ".join(map(str, away[:SHOWN])) + (" ..." if len(away) > SHOWN else "")
    return (
        f"secure sums: shares were asked for before for this phase's sum over {needed} clients, and a sum over others "
        f"would tell single clients' numbers; of those client {named} has not delivered: go on when all are back"
    )


def secure_sum(
    request: Request, carrier: Carrier, needed: int = 1, anew: Anew = _never, on_error: OnError = "stop", run: str = ""
) -> Partial:
    """The sums over all clients that deliver, put together from masked ones; of fewer than the threshold, none.

    Two sums of one phase over different clients tell of single ones. So none is had where the run is going to stop, and
    the phase to be asked for again; and for whose sum shares are asked is kept in `request.arrivals` beforehand, and
    asked for again only of the same clients.

    Args:
        needed: clients without whom the run would stop.
        anew: asked before shares are revealed where there are dropouts, and after it where too few have revealed.
        on_error: what an exception in a client's code does; "stop": it stops the run, so no sum is had.
        run: hash of the run, as the clients make it.
    """
    clients = len(request.num_examples)
    like = sums_shapes(request.method, request.expected, request.broadcast)
    phase, threshold = request.phase.index, threshold_of(clients)
    earlier: dict[int, Failure] = {}
    while True:
        before = request.arrivals.of(phase)
        wanted = max(min(needed, clients), threshold) if before is None else len(before)
        clients_asked = [client for client in request.num_examples if before is None or client in before]
        attempt = _Attempt(
            request, Sum("", phase, secrets.token_bytes(16), threshold), like, clients_asked, dict(earlier), run
        )
        attempt.deliver(carrier)
        earlier |= attempt.without
        if on_error == "stop" and attempt.raised:
            return attempt.partial({}, "secure sums: no sum is had, as a client's code has raised an exception")
        short = len(attempt.masked) < wanted
        if attempt.lost and anew(short, attempt.lost):
            continue
        if short:
            return attempt.partial({}, _why_short(attempt, wanted, before))
        request.arrivals.keep(phase, attempt.masked)
        partial = attempt.complete(carrier)
        if partial.members or not (attempt.lost and anew(True, attempt.lost)):
            return partial


class _Here:
    """Carries the messages to clients in this process: a simulation that nobody's secrecy rests on."""

    def __init__(self, worker: Worker, request: Request) -> None:
        self.worker, self.request, self.parties = worker, request, Parties()

    def keys(self, of: Sum, clients: Collection[int]) -> Answers[Keys]:
        for client in clients:
            yield client, answered(client, self.parties.keys, of, client)

    def share(self, of: Sum, keys: Mapping[int, Keys]) -> Answers[dict[int, bytes]]:
        for client in keys:
            yield client, answered(client, self.parties.share, of, client, keys)

    def masked(self, of: Sum, boxes: Mapping[int, Mapping[int, bytes]]) -> Answers[Partial]:
        context = context_of(of.run, of.phase, self.request.broadcast)
        like = sums_shapes(self.request.method, self.request.expected, self.request.broadcast)
        for client, received in boxes.items():
            work = bound(self.worker.work_group, self.request.phase, self.request.broadcast, (client,))
            yield client, answered(client, self.parties.masked, of, client, received, work, like, context)

    def reveal(self, of: Sum, arrived: Set[int]) -> Answers[Revealed]:
        for client in arrived:
            yield client, answered(client, self.parties.reveal, of, client, arrived)


def secure_sums(worker: Worker, request: Request) -> Partial:
    """Carry out a secure sum over clients of this process."""
    run = worker.config.run
    return secure_sum(request, _Here(worker, request), run.min_clients, on_error=run.on_client_error)
