"""Writes replies as Flower records, and reads them. Nothing that arrives is trusted: what is odd is a ValueError."""

import json
from dataclasses import asdict, astuple

import numpy as np
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from fcil.exchange.flower.messages import ARRAYS, arrays_of, get
from fcil.exchange.flower.packing import pack, unpack
from fcil.exchange.introduction import Introduction
from fcil.method import ClientUpdate
from fcil.server.replies import TRACEBACK, Failure, Partial

__all__ = [
    "read_correct", "read_failure", "read_introduction", "read_partial", "read_reply", "read_update", "write_correct",
    "write_failure", "write_introduction", "write_partial", "write_problem", "write_update",
]  # fmt: skip

REPLY, METRICS, FAILURE, EXAMPLES = "reply", "metrics", "failure", "num-examples"
"""Names of a reply's records, and of the metric that Flower's strategies weigh by."""


def _number(name: str, value: object) -> float:
    """A metric as a float, or a ValueError that names it."""
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    except OverflowError:
        pass
    raise ValueError(f"metric {name[:80]}: not a number")


def write_update(update: ClientUpdate) -> RecordDict:
    """Write a client's update."""
    arrays, index = pack({"arrays": update.arrays, "statistics": update.statistics})
    reply = ConfigRecord({"client": update.client, "phase": update.phase, "index": index})
    numbers = {name: float(value) for name, value in update.metrics.items()}
    return RecordDict({
        ARRAYS: arrays, REPLY: reply, METRICS: MetricRecord({**numbers, EXAMPLES: int(update.num_examples)})
    })  # fmt: skip


def read_update(content: RecordDict) -> ClientUpdate:
    """Read a client's update, well formed but not yet checked against what was asked.

    Raises:
        ValueError: says what is malformed.
    """
    arrays, statistics = unpack(arrays_of(content), get(content, REPLY, "index", str), ("arrays", "statistics"))
    count = get(content, METRICS, EXAMPLES, int)
    numbers = {name: _number(name, value) for name, value in content[METRICS].items() if name != EXAMPLES}
    client, phase = get(content, REPLY, "client", int), get(content, REPLY, "phase", int)
    return ClientUpdate(client, phase, count, arrays, statistics, numbers)


def write_failure(failure: Failure) -> RecordDict:
    """Write the reply of a client whose code raised an exception."""
    return RecordDict({FAILURE: ConfigRecord(asdict(failure))})


def read_reply(content: RecordDict) -> ClientUpdate | Failure:
    """Read a client's update, not yet checked against what was asked, or its failure.

    Raises:
        ValueError: says what is malformed.
    """
    return read_failure(content) or read_update(content)


def read_failure(content: RecordDict) -> Failure | None:
    """Read a client's failure, or None where the reply is something else; ValueError says what is malformed."""
    if FAILURE not in content:
        return None
    reason, trace = (get(content, FAILURE, key, str) for key in ("reason", "traceback"))
    stops = get(content, FAILURE, "stops", bool)
    return Failure(get(content, FAILURE, "client", int), reason, trace[-TRACEBACK:], stops)


def write_partial(partial: Partial) -> RecordDict:
    """Write the reply for a group of clients: their sums and failures."""
    arrays, index = pack({"sums": partial.sums})
    members = [{"client": m.client, "examples": m.num_examples, "metrics": dict(m.metrics)} for m in partial.members]
    group = {"members": members, "failures": [astuple(f) for f in partial.failures]}
    reply = ConfigRecord({"phase": partial.phase, "index": index, "group": json.dumps(group)})
    return RecordDict({ARRAYS: arrays, REPLY: reply})


def read_partial(content: RecordDict) -> Partial:
    """Read what `write_partial` wrote; not yet checked against what was asked.

    Raises:
        ValueError: says what is malformed.
    """

    def whole(value: object) -> int:
        if type(value) is not int:
            raise TypeError(value)
        return value

    (sums,) = unpack(arrays_of(content), get(content, REPLY, "index", str), ("sums",))
    phase = get(content, REPLY, "phase", int)
    try:
        group = json.loads(get(content, REPLY, "group", str))
        members = [
            ClientUpdate(
                whole(m["client"]),
                phase,
                whole(m["examples"]),
                {},
                {},
                {name: _number(name, value) for name, value in m["metrics"].items()},
            )
            for m in group["members"]
        ]
        failures = [
            Failure(whole(client), str(reason), str(trace)[-TRACEBACK:], bool(stops))
            for client, reason, trace, stops in group["failures"]
        ]
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"the group's members are malformed ({type(error).__name__})") from None
    return Partial(phase, tuple(members), tuple(failures), sums)


def write_correct(correct: np.ndarray) -> RecordDict:
    """Write the numbers of correct answers, (places, groups): by class or by task."""
    return RecordDict({METRICS: MetricRecord({"correct": [int(n) for n in correct.ravel()]})})


def read_correct(content: RecordDict, groups: int, places: int = 1) -> np.ndarray:
    """Read what `write_correct` wrote; raises ValueError where it does not fit the numbers of groups and places."""
    correct = get(content, METRICS, "correct", list)
    if len(correct) != places * groups or not all(type(n) is int and 0 <= n < 1 << 53 for n in correct):
        raise ValueError(
            f"{len(correct)} correct answers, {str(correct[:8])[:80]} ..., do not fit {groups} classes or tasks in "
            f"{places} places"
        )
    return np.asarray(correct, np.int64).reshape(places, -1)


def write_introduction(introduction: Introduction) -> RecordDict:
    """Write what a node tells of itself."""
    return RecordDict({REPLY: ConfigRecord({"introduction": introduction.write()})})


def write_problem(client: int, problem: str) -> RecordDict:
    """Write why a node cannot work for a run."""
    return RecordDict({FAILURE: ConfigRecord(asdict(Failure(client, problem)))})


def read_introduction(content: RecordDict) -> Introduction | Failure:
    """Read what a node tells of itself, or why it cannot work for the run; ValueError says what is malformed."""
    if FAILURE in content:
        return Failure(get(content, FAILURE, "client", int), get(content, FAILURE, "reason", str)[:2000])
    return Introduction.read(get(content, REPLY, "introduction", str))
