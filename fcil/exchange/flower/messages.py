"""Writes requests as Flower records, and reads them; `reply_messages` and `secure_messages` do so for other messages.

What all messages of a phase have in common is one object in all of them, so that a grid can carry it once. What arrives
is not trusted: whatever does not fit is a ValueError.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fcil.arrays import Arrays
from fcil.config import Config, to_table
from fcil.exchange.flower.packing import pack, unpack
from fcil.method import Broadcast, Phase, Task
from fcil.registry import build_method, sources
from fcil.server.loop import Request

__all__ = [
    "ARRAYS", "EVALUATE", "HELLO", "REPORT", "SECURE", "TRAIN", "Job", "Shard", "Work", "arrays_of",
    "evaluate_contents", "get", "hello_content", "message_type", "phase_content", "read_hello", "read_identity",
    "read_phase", "read_shard", "read_work", "request_contents", "single_contents", "with_identity",
]  # fmt: skip

TRAIN, REPORT, EVALUATE, HELLO, SECURE = "train", "query.report", "evaluate.shard", "query.hello", "query.secure"
ARRAYS, _REQUEST, _OWN, _IDENTITY = "arrays", "request", "own", "identity"
"""Names of a message's records."""


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


def arrays_of(content: RecordDict) -> ArrayRecord:
    """The packed arrays of a message; raises ValueError where there are none."""
    record = content.get(ARRAYS)
    if not isinstance(record, ArrayRecord):
        raise ValueError(f"no record {ARRAYS!r}")
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


def request_contents(request: Request, job: Job) -> dict[int, RecordDict]:
    """Client, or the first of a group -> content of its message, most samples first; common records are shared."""
    arrays, index = pack({"arrays": request.broadcast.arrays, "references": request.broadcast.references})
    common = ConfigRecord({**asdict(job), "phase": json.dumps(asdict(request.phase)), "index": index})
    groups = request.groups or tuple((client,) for client in request.num_examples)
    longest_first = sorted(groups, key=lambda group: (-sum(request.num_examples[c] for c in group), group))
    summed = bool(request.groups)
    return {
        group[0]: RecordDict({
            ARRAYS: arrays, _REQUEST: common, _OWN: ConfigRecord({"clients": list(group), "summed": summed})
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
        arrays_of(content), get(content, _REQUEST, "index", str), ("arrays", "references")
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
        RecordDict({ARRAYS: packed, _REQUEST: common, _OWN: ConfigRecord({"shard": shard})}) for shard in range(shards)
    ]


def read_shard(content: RecordDict) -> Shard:
    """Read what an evaluating worker is asked to do; raises ValueError where it is malformed."""
    (arrays,) = unpack(arrays_of(content), get(content, _REQUEST, "index", str), ("arrays",))
    task = _task(_table(get(content, _REQUEST, "task", str)))
    shard, shards = get(content, _OWN, "shard", int), get(content, _REQUEST, "shards", int)
    return Shard(_job(content), task, arrays, shard, shards)


def hello_content(job: Job) -> RecordDict:
    """Write the question what a node has of a run."""
    return RecordDict({_REQUEST: ConfigRecord(asdict(job))})


def read_hello(content: RecordDict) -> Job:
    """Read the run that a node is asked about; raises ValueError where it is malformed."""
    return _job(content)
