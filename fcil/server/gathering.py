"""Checks the replies of a phase's clients, and keeps those that may be merged."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fcil.errors import RunError
from fcil.method import Broadcast, ClientUpdate, Method, Phase, Shapes
from fcil.server.replies import Emit, Failure, Gathered, OnError, Partial, Reply, sums_shapes, update_refusal
from fcil.server.traffic import update_bytes
from fcil.server.validation import Expected, arrays_refusal, refusal

__all__ = ["gather"]

REASON = 2000
"""Characters of a reason that are recorded: it may repeat what a client sent."""


def _partial_refusal(partial: Partial, target: Expected, sums: Shapes, already: set[int]) -> str | None:
    """The reason why the sums of a group must not be merged, or None."""
    if partial.phase != target.phase.index:
        return f"stale: answers phase {partial.phase}, not {target.phase.index} ({target.phase})"
    counted_only = replace(target, arrays={}, statistics={}, arrays_of={})
    before = set(already)
    for member in partial.members:
        if reason := refusal(member, counted_only, before):
            return f"sums with client {member.client}: {reason}"
        before.add(member.client)
    return arrays_refusal("sum", partial.sums, sums, np.float64) if partial.members else None


def _harmless(text: str) -> str:
    """The text of a client without characters that would steer a terminal or cannot be written."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def _stopped(phase: Phase, crash: Failure) -> RunError:
    """The error of a run that stops at a client's exception."""
    verb, trace = ("raised ", f"{crash.traceback.rstrip()}\n\n") if crash.traceback else ("", "")
    remedy = (
        "The last checkpoint is good. Mend the cause and go on with `fcil resume RUN` (from a method's own file begin "
        "another run with --output, once it is mended)"
        if phase.index
        else "Nothing has been merged yet. Mend the cause and begin again with the same command, or `fcil resume RUN`"
    )
    return RunError(
        _harmless(f"{phase}: client {crash.client}{' ' if verb else ': '}{verb}{crash.reason[:REASON]}\n\n{trace}")
        + f"{remedy}; or let it cost that client's update only: the same "
        "command with `--set run.on_client_error=skip --output RUN`"
    )


@dataclass
class _Intake:
    """Takes in what a phase's clients sent: each is accepted, refused or failed, which becomes an event."""

    phase: Phase
    emit: Emit
    on_error: OnError
    updates: list[ClientUpdate] = field(default_factory=list)
    clients: set[int] = field(default_factory=set)
    """Clients whose update was accepted."""

    def _tell(self, entries: Mapping[str, Any], event: str, client: int, **more: Any) -> None:
        place = {"phase": self.phase.index, "task": self.phase.task.index, "round": self.phase.round}
        self.emit({**entries, "event": event, **place, "client": client, **more})

    def accept(self, update: ClientUpdate, size: int) -> None:
        """Keep a good update, of `size` bytes."""
        self.updates.append(update)
        self.clients.add(update.client)
        self._tell(update.metrics, "client", update.client, bytes=size)

    def refuse(self, client: int, reason: str, **more: str) -> None:
        """Leave a client's update out."""
        self._tell({}, "refused", client, reason=_harmless(reason[:REASON]), **more)

    def fail(self, failures: Sequence[Failure]) -> None:
        """Refuse clients that failed, and stop the run where one raised an exception and `on_error` says so."""
        for failure in failures:
            self.refuse(
                failure.client, failure.reason, **({"traceback": failure.traceback} if failure.traceback else {})
            )
        for crash in (failure for failure in failures if failure.raised and self.on_error == "stop"):
            raise _stopped(self.phase, crash)


def gather(
    method: Method,
    target: Expected,
    broadcast: Broadcast,
    replies: Iterable[Reply],
    emit: Emit,
    on_error: OnError = "stop",
    check_claims: bool = True,
) -> Gathered:
    """Check the replies to a request and keep the good ones; every client becomes an event, `client` or `refused`.

    Args:
        check_claims: whether the method is asked for its objections; not where replies are imitated.

    Raises:
        RunError: a client's code raised an exception, or its disk is full, and `on_error` is "stop"; names the first
            that arrived.
    """
    intake = _Intake(target.phase, emit, on_error)
    partials: list[Partial] = []
    expected_sums: Shapes | None = None
    for reply in replies:
        if isinstance(reply, Failure):
            intake.fail([reply])
        elif isinstance(reply, ClientUpdate):
            reason = update_refusal(method, target, broadcast, reply, intake.clients, check_claims)
            intake.refuse(reply.client, reason) if reason else intake.accept(reply, update_bytes(reply))
        else:
            intake.fail(reply.failures)
            expected_sums = expected_sums or sums_shapes(method, target, broadcast)
            reason = _partial_refusal(reply, target, expected_sums, intake.clients)
            for position, member in enumerate(reply.members):
                intake.refuse(member.client, reason) if reason else intake.accept(
                    member, 0 if position else reply.nbytes
                )
            partials += [reply] if reply.members and not reason else []
    return Gathered(intake.updates, partials, len(target.num_examples) - len(intake.updates))
