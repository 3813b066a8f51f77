"""Applies the run's filter to a phase's checked updates, and records which were rejected or changed."""

from dataclasses import replace

from fcil.arrays import Arrays
from fcil.errors import ConfigError, RunError
from fcil.filters import parse_filter
from fcil.method import as_broadcast
from fcil.server.plan import Plan, how_to_ask_more, participants
from fcil.server.replies import Emit, Gathered
from fcil.server.request import Request
from fcil.threads import threads
from fcil.words import counted

__all__ = ["check_filter", "filtered"]


def check_filter(plan: Plan) -> None:
    """Check a run's filter against every phase of its plan.

    Raises:
        ConfigError: a phase asks fewer clients than the filter needs, or clients begin with arrays of their own that
            the filter would compare number by number.
    """
    text = plan.config.run.filter
    chosen = parse_filter(text)
    for phase in plan.phases if chosen else ():
        assert chosen is not None
        if complaint := chosen.complaint(asked := len(participants(plan, phase))):
            raise ConfigError(
                f"run.filter = {text!r}: {phase} asks {counted(asked, 'client')}: {complaint}; "
                + how_to_ask_more(plan, "choose another filter")
            )
        if chosen.one_start and plan.method.acting(phase).local(phase).receives is not as_broadcast:
            raise ConfigError(
                f"run.filter = {text!r}: compares the clients' numbers one by one, but with {plan.config.method.label} "
                f"every client begins with arrays of its own ({phase}); norm(factor = 3) looks at each by itself"
            )


def filtered(plan: Plan, request: Request, gathered: Gathered, emit: Emit) -> Gathered:
    """Filter the good updates; the rest of what was gathered stays as it is.

    Every update that is left out becomes an event `filtered`, every one of which something was changed `altered`.

    Raises:
        RunError: so many clients have no good update that the filter is not defined.
    """
    text, updates = plan.config.run.filter, sorted(gathered.updates, key=lambda u: u.client)
    chosen = parse_filter(text)
    if chosen is None or plan.rehearsed:
        return gathered
    if complaint := chosen.complaint(len(updates)):
        raise RunError(
            f"{request.phase}: {len(updates)} of {len(request.num_examples)} clients sent a good update, and "
            f"run.filter = {text!r} is not defined for so few: {complaint}. See `refused` in "
            "metrics.jsonl, mend the cause and go on with `fcil resume`"
        )

    def starts(client: int) -> Arrays:
        return request.local.receives(request.broadcast.arrays, client)

    with threads(plan.config.run.threads):
        result = chosen.apply(updates, starts, request.expected.statistics)
    place = {"phase": request.phase.index, "task": request.phase.task.index, "round": request.phase.round}
    for update in updates:
        client = update.client
        if client in result.left_out:
            emit({"event": "filtered", **place, "client": client, "reason": result.left_out[client]})
        elif client in result.replaced or client in result.scaled:
            shares = {"replaced": result.replaced.get(client, 0.0), "scaled": result.scaled.get(client, 1.0)}
            emit({"event": "altered", **place, "client": client, **shares})
    return replace(gathered, updates=result.updates, left_out=[u for u in updates if u.client in result.left_out])
