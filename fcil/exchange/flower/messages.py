"""Writes requests and replies as Flower records, and reads them; `secure_messages` does so for secure sums.

What all messages of a phase have in common is one object in all of them, so that a grid can carry it once. What arrives
is not trusted: whatever does not fit is a ValueError.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, replace
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fcil.arrays import Arrays
from fcil.config import Config, to_table
from fcil.exchange.flower.packing import pack, unpack
from fcil.exchange.introduction import Introduction
from fcil.method import Broadcast, ClientUpdate, Phase, Task
from fcil.registry import build_method, sources
from fcil.server.loop import Request
from fcil.server.replies import TRACEBACK, Failure, Partial

__all__ = [
    "EVALUATE", "HELLO", "REPORT", "SECURE", "TRAIN", "Job", "Shard", "Work", "evaluate_contents", "get",
    "hello_content", "message_type", "phase_content", "read_correct", "read_failure", "read_hello", "read_identity",
    "read_introduction", "read_partial", "read_phase", "read_reply", "read_shard", "read_update", "read_work",
    "request_contents", "single_contents", "write_correct", "write_failure", "write_introduction", "with_identity",
    "write_partial", "write_problem", "write_update",
]  # fmt: skip

TRAIN, REPORT, EVALUATE, HELLO, SECURE = "train", "query.report", "evaluate.shard", "query.hello", "query.secure"
_ARRAYS, _REQUEST, _OWN, _REPLY, _METRICS = "arrays", "request", "own", "reply", "metrics"
_EXAMPLES, _FAILURE, _IDENTITY = "num-examples", "failure", "identity"


@dataclass(frozen=True)
class Job:
    """A job tells a node all that it has to know of a run in order to work for it."""

    config: str
    """The resolved settings, as JSON."""
    store: str = ""
    """Folder of the clients' own arrays, where nodes share the server's disk."""
    sources: str = "[]"
    """The files outside fcil that define the method, JSON: [name, path inside the app, SHA-256] of each."""
    shared: str = ""
    """Where updates and features are kept, as JSON; only workers of ours look there."""

    @classmethod
    def of(cls, config: Config, store: str = "", shared: str = "") -> "Job":
        """The job of a run with these settings."""
        files = sources(build_method(config.method.name, config.method.settings))
        text = json.dumps([[file.name, file.inside, file.sha256] for file in files])
        return cls(json.dumps(to_table(config)), store, text, shared)


@dataclass(frozen=True)
class Work:
    """One client's part of a phase, or several clients' parts, as a node receives it."""

    job: Job
    phase: Phase
    broadcast: Broadcast
    clients: tuple[int, ...]
    summed: bool
    """Whether the sums over these clients are asked for, or the one client's update."""


@dataclass(frozen=True)
class Shard:
    """A share of an evaluation, as a worker receives it."""

    job: Job
    task: Task
    arrays: Arrays
    shard: int
    shards: int


def message_type(phase: Phase) -> str:
    """The message type of a phase, which names its handler in the ClientApp."""
    return TRAIN if phase.kind == "train" else REPORT


def get(content: RecordDict, record: str, key: str, kind: type) -> Any:
    """One value of a record of settings or metrics; raises ValueError, which says what is missing."""
    entries = content.get(record)
    value = entries.get(key) if isinstance(entries, ConfigRecord | MetricRecord) else None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"record {record!r} has no {key!r} of type {kind.__name__}")
    return value


def _arrays(content: RecordDict) -> ArrayRecord:
    record = content.get(_ARRAYS)
    if not isinstance(record, ArrayRecord):
        raise ValueError(f"no record {_ARRAYS!r}")
    return record


def _task(entries: Mapping[str, Any]) -> Task:
    try:
        values = [entries[key] for key in ("index", "first", "size")]
    except (KeyError, TypeError, AttributeError):
        values = []
    if not values or not all(type(value) is int and value >= 0 for value in values):
        raise ValueError("the task cannot be read")
    return Task(*values)


def _table(text: str) -> dict[str, Any]:
    """A JSON object, or a ValueError."""
    try:
        table = json.loads(text)
    except RecursionError:
        table = None
    if not isinstance(table, dict):
        raise ValueError("what should be a JSON object is none")
    return table


def _number(name: str, value: object) -> float:
    """A metric as a float, or a ValueError that names it."""
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    except OverflowError:
        pass
    raise ValueError(f"metric {name[:80]}: not a number")


# ---- requests --------------------------------------------------------------------------------------------------------


def request_contents(request: Request, job: Job) -> dict[int, RecordDict]:
    """Client, or the first of a group -> content of its message, most samples first; common records are shared."""
    arrays, index = pack({"arrays": request.broadcast.arrays, "references": request.broadcast.references})
    common = ConfigRecord({**asdict(job), "phase": json.dumps(asdict(request.phase)), "index": index})
    groups = request.groups or tuple((client,) for client in request.num_examples)
    longest_first = sorted(groups, key=lambda group: (-sum(request.num_examples[c] for c in group), group))
    summed = bool(request.groups)
    return {
        group[0]: RecordDict({
            _ARRAYS: arrays, _REQUEST: common, _OWN: ConfigRecord({"clients": list(group), "summed": summed})
        })
        for group in longest_first
    }  # fmt: skip


def single_contents(request: Request, job: Job) -> dict[int, RecordDict]:
    """Client -> content of a message that asks for its sums alone; common records are shared."""
    return request_contents(replace(request, groups=tuple((client,) for client in request.num_examples)), job)


def with_identity(content: RecordDict, sha256: str) -> RecordDict:
    """Add to a request what its node must have (`Introduction.identity`); the other records stay shared."""
    return RecordDict({**content, _IDENTITY: ConfigRecord({"sha256": sha256})})


def read_identity(content: RecordDict) -> str:
    """Read what a node must have in order to answer; empty where nothing is said."""
    return str(get(content, _IDENTITY, "sha256", str)) if _IDENTITY in content else ""


def _job(content: RecordDict) -> Job:
    return Job(*(get(content, _REQUEST, key, str) for key in ("config", "store", "sources", "shared")))


def read_phase(content: RecordDict) -> Phase:
    """Read the phase of a request; raises ValueError where it is malformed."""
    entries = _table(get(content, _REQUEST, "phase", str))
    try:
        return Phase(**{**entries, "task": _task(entries["task"])})
    except (KeyError, TypeError):
        raise ValueError("the phase cannot be read") from None


def phase_content(phase: Phase, job: Job) -> RecordDict:
    """Write the part of a request that all clients of a phase have in common, without arrays."""
    return RecordDict({_REQUEST: ConfigRecord({**asdict(job), "phase": json.dumps(asdict(phase))})})


def read_work(content: RecordDict) -> Work:
    """Read what a client is asked to do; raises ValueError where it is malformed."""
    arrays, references = unpack(
        _arrays(content), get(content, _REQUEST, "index", str), ("arrays", "references")
    )  # fmt: skip
    phase = read_phase(content)
    clients, summed = tuple(get(content, _OWN, "clients", list)), get(content, _OWN, "summed", bool)
    if not clients or not all(type(client) is int for client in clients):
        raise ValueError(f"clients {clients[:3]} are not numbers of clients")
    return Work(_job(content), phase, Broadcast(arrays, references), clients, summed)


def evaluate_contents(arrays: Arrays, task: Task, shards: int, job: Job) -> list[RecordDict]:
    """The content of one message per shard of an evaluation."""
    packed, index = pack({"arrays": arrays})
    common = ConfigRecord({**asdict(job), "task": json.dumps(asdict(task)), "index": index, "shards": shards})
    return [
        RecordDict({_ARRAYS: packed, _REQUEST: common, _OWN: ConfigRecord({"shard": shard})}) for shard in range(shards)
    ]


def read_shard(content: RecordDict) -> Shard:
    """Read what an evaluating worker is asked to do; raises ValueError where it is malformed."""
    (arrays,) = unpack(_arrays(content), get(content, _REQUEST, "index", str), ("arrays",))
    task = _task(_table(get(content, _REQUEST, "task", str)))
    shard, shards = get(content, _OWN, "shard", int), get(content, _REQUEST, "shards", int)
    return Shard(_job(content), task, arrays, shard, shards)


# ---- replies ---------------------------------------------------------------------------------------------------------


def write_update(update: ClientUpdate) -> RecordDict:
    """Write a client's update."""
    arrays, index = pack({"arrays": update.arrays, "statistics": update.statistics})
    reply = ConfigRecord({"client": update.client, "phase": update.phase, "index": index})
    numbers = {name: float(value) for name, value in update.metrics.items()}
    return RecordDict({
        _ARRAYS: arrays, _REPLY: reply, _METRICS: MetricRecord({**numbers, _EXAMPLES: int(update.num_examples)})
    })  # fmt: skip


def read_update(content: RecordDict) -> ClientUpdate:
    """Read a client's update, well formed but not yet checked against what was asked.

    Raises:
        ValueError: says what is malformed.
    """
    arrays, statistics = unpack(_arrays(content), get(content, _REPLY, "index", str), ("arrays", "statistics"))
    count = get(content, _METRICS, _EXAMPLES, int)
    numbers = {name: _number(name, value) for name, value in content[_METRICS].items() if name != _EXAMPLES}
    client, phase = get(content, _REPLY, "client", int), get(content, _REPLY, "phase", int)
    return ClientUpdate(client, phase, count, arrays, statistics, numbers)


def write_failure(failure: Failure) -> RecordDict:
    """Write the reply of a client whose code raised an exception."""
    return RecordDict({_FAILURE: ConfigRecord(asdict(failure))})


def read_reply(content: RecordDict) -> ClientUpdate | Failure:
    """Read a client's update, not yet checked against what was asked, or its failure.

    Raises:
        ValueError: says what is malformed.
    """
    return read_failure(content) or read_update(content)


def read_failure(content: RecordDict) -> Failure | None:
    """Read a client's failure, or None where the reply is something else; ValueError says what is malformed."""
    if _FAILURE not in content:
        return None
    reason, trace = (get(content, _FAILURE, key, str) for key in ("reason", "traceback"))
    stops = get(content, _FAILURE, "stops", bool)
    return Failure(get(content, _FAILURE, "client", int), reason, trace[-TRACEBACK:], stops)


def write_partial(partial: Partial) -> RecordDict:
    """Write the reply for a group of clients: their sums and failures."""
    arrays, index = pack({"sums": partial.sums})
    members = [{"client": m.client, "examples": m.num_examples, "metrics": dict(m.metrics)} for m in partial.members]
    group = {"members": members, "failures": [astuple(f) for f in partial.failures]}
    reply = ConfigRecord({"phase": partial.phase, "index": index, "group": json.dumps(group)})
    return RecordDict({_ARRAYS: arrays, _REPLY: reply})


def read_partial(content: RecordDict) -> Partial:
    """Read what `write_partial` wrote; not yet checked against what was asked.

    Raises:
        ValueError: says what is malformed.
    """

    def whole(value: object) -> int:
        if type(value) is not int:
            raise TypeError(value)
        return value

    (sums,) = unpack(_arrays(content), get(content, _REPLY, "index", str), ("sums",))
    phase = get(content, _REPLY, "phase", int)
    try:
        group = json.loads(get(content, _REPLY, "group", str))
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
    return RecordDict({_METRICS: MetricRecord({"correct": [int(n) for n in correct.ravel()]})})


def read_correct(content: RecordDict, groups: int, places: int = 1) -> np.ndarray:
    """Read what `write_correct` wrote; raises ValueError where it does not fit the numbers of groups and places."""
    correct = get(content, _METRICS, "correct", list)
    if len(correct) != places * groups or not all(type(n) is int and 0 <= n < 1 << 53 for n in correct):
        raise ValueError(
            f"{len(correct)} correct answers, {str(correct[:8])[:80]} ..., do not fit {groups} classes or tasks in "
            f"{places} places"
        )
    return np.asarray(correct, np.int64).reshape(places, -1)


def hello_content(job: Job) -> RecordDict:
    """Write the question what a node has of a run."""
    return RecordDict({_REQUEST: ConfigRecord(asdict(job))})


def read_hello(content: RecordDict) -> Job:
    """Read the run that a node is asked about; raises ValueError where it is malformed."""
    return _job(content)


def write_introduction(introduction: Introduction) -> RecordDict:
    """Write what a node tells of itself."""
    return RecordDict({_REPLY: ConfigRecord({"introduction": introduction.write()})})


def write_problem(client: int, problem: str) -> RecordDict:
    """Write why a node cannot work for a run."""
    return RecordDict({_FAILURE: ConfigRecord(asdict(Failure(client, problem)))})


def read_introduction(content: RecordDict) -> Introduction | Failure:
    """Read what a node tells of itself, or why it cannot work for the run; ValueError says what is malformed."""
    if _FAILURE in content:
        return Failure(get(content, _FAILURE, "client", int), get(content, _FAILURE, "reason", str)[:2000])
    return Introduction.read(get(content, _REPLY, "introduction", str))
