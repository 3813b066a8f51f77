"""Bad updates by name: each spoils a good reply, before it is written or on the wire.

A row of the table in docs/reliability.md is one kind, with the reason that the records show. To write the table anew:

    python tests/exchange/flower/bad_updates.py --write
"""

import io
import json
import re
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fcil.arrays import digest, ungrouped
from fcil.battery.trial import CLIENTS, PARTS, trial_of
from fcil.config import Config
from fcil.exchange.flower import reply_messages
from fcil.exchange.flower.internals import identify
from fcil.exchange.flower.settling import settle
from fcil.method import ClientUpdate, GramShape
from fcil.server.gathering import gather
from fcil.server.loop import receive
from fcil.server.plan import Progress
from fcil.server.request import Request

PAGE = Path(__file__).parents[3] / "docs" / "reliability.md"
BEGIN, END = (
    "<!-- bad updates: python tests/exchange/flower/bad_updates.py --write -->\n",
    "<!-- end of bad updates -->",
)
BAD, STRANGER = 1, 99
"""The client whose update is bad, and one that was not asked."""


@dataclass(frozen=True)
class Case:
    """A phase of a method's trial run: what was asked, and the good updates."""

    request: Request
    updates: list[ClientUpdate]

    def outcome(self, replies):
        """The state's SHA-256 after the phase, and client -> reason of the refused."""
        events = []
        request = self.request
        gathered = gather(request.method, request.expected, request.broadcast, replies, events.append)
        plan = SimpleNamespace(config=Config(), method=request.method)
        after = receive(plan, Progress(request.phase.index, request.state), request, gathered)
        reasons = [(e["client"], e["reason"]) for e in events if e["event"] == "refused"]
        return digest(ungrouped(after.state)), reasons, len(gathered.updates)

    def with_in_place(self, *bad):
        """The replies of a phase: good ones, and these in the place of the bad client's."""
        return [*self.updates[:BAD], *bad, *self.updates[BAD + 1 :]]

    @property
    def field(self):
        """Where the update has arrays: `arrays`, or in a report `statistics`."""
        return "arrays" if self.updates[BAD].arrays else "statistics"

    def gram(self):
        """Name of the first statistic that is a Gram matrix, or None."""
        wanted = self.request.expected.statistics
        return next((name for name, shape in wanted.items() if isinstance(shape, GramShape)), None)


@cache
def cases(name):
    """The last training round and the last report of a method's trial run on the tiny ViT, as far as it has them."""
    trial = trial_of(name, {})
    last = {record.phase.kind: record for record in trial.records}
    result = {}
    for kind, record in last.items():
        phase, method = record.phase, trial.method.acting(record.phase)
        counts = {c: len(PARTS[phase.task.index][c]) for c in range(CLIENTS)}
        request = Request(phase, method, record.broadcast, counts, record.before, method.local(phase))
        result[kind] = Case(request, record.updates)
    return result


# ---- updates, as a client's own code might make them -----------------------------------------------------------------


def changed(case, change, pick=None):
    """The bad client's update with one array changed: the first, or the first that `pick` admits."""
    update = case.updates[BAD]
    arrays = getattr(update, case.field)
    name = next((n for n, a in arrays.items() if a.size and (pick is None or pick(a))), None)
    return None if name is None else replace(update, **{case.field: {**arrays, name: change(arrays[name])}})


def one_value(value, dtype=None):
    def change(a):
        a = a.astype(dtype) if dtype else a.copy()
        a.flat[a.size // 2] = value
        return a

    return lambda case: changed(case, change)


def as_type(dtype):
    return lambda case: changed(case, lambda a: a.astype(dtype))


def with_arrays(change):
    def build(case):
        update = case.updates[BAD]
        return replace(update, **{case.field: change(dict(getattr(update, case.field)))})

    return build


def without_first(arrays):
    return dict(list(arrays.items())[1:])


def first_renamed(name):
    return with_arrays(lambda arrays: {name: next(iter(arrays.values())), **without_first(arrays)})


def with_field(**fields):
    return lambda case: replace(case.updates[BAD], **fields)


def with_metric(name, value):
    return lambda case: replace(case.updates[BAD], metrics={**case.updates[BAD].metrics, name: value})


def swapped_fields(case):
    update = case.updates[BAD]
    return replace(update, arrays=update.statistics, statistics=update.arrays)


def with_gram(change):
    def build(case):
        name, update = case.gram(), case.updates[BAD]
        if name is None:
            return None
        return replace(update, statistics={**update.statistics, name: change(update.statistics[name])})

    return build


def negative_diagonal(a):
    return np.concatenate([np.full(1, -1e-3, a.dtype), a[1:]])


UPDATES: dict[str, Callable[[Case], object]] = {
    "an array is missing": with_arrays(without_first),
    "all arrays are missing": with_arrays(lambda arrays: {}),
    "an array too many": with_arrays(lambda arrays: {**arrays, "blocks.9.extra": np.zeros(3, np.float32)}),
    "an array under another name": first_renamed("another"),
    "a name with parts of a path": first_renamed("../../etc/passwd"),
    "a name with control characters": first_renamed("\x1b[2J\x00\n\u202e"),
    "a name of a million characters": first_renamed("x" * 10**6),
    "statistics in place of arrays, and the reverse": swapped_fields,
    "type int32": as_type(np.int32),
    "type uint8": as_type(np.uint8),
    "type bool": as_type(bool),
    "type float16": as_type(np.float16),
    "type complex": as_type(np.complex64),
    "type object": as_type(object),
    "text": lambda case: changed(case, lambda a: np.full(a.shape, "1.0")),
    "bytes in the other order": lambda case: changed(case, lambda a: a.astype(a.dtype.newbyteorder())),
    "a list in place of an array": lambda case: changed(case, lambda a: a.tolist()),
    "a row too few": lambda case: changed(case, lambda a: a[:-1]),
    "a row too many": lambda case: changed(case, lambda a: np.concatenate([a, a[:1]])),
    "transposed": lambda case: changed(case, lambda a: a.T, lambda a: a.ndim == 2 and a.shape[0] != a.shape[1]),
    "an axis too many": lambda case: changed(case, lambda a: a[None]),
    "flattened": lambda case: changed(case, np.ravel, lambda a: a.ndim > 1),
    "a single number": lambda case: changed(case, lambda a: np.asarray(a.flat[0])),
    "an empty array": lambda case: changed(case, lambda a: a[:0]),
    "one number repeated in place of an array": lambda case: changed(
        case, lambda a: np.broadcast_to(a.flat[0], (*a.shape, 3))
    ),
    "NaN": one_value(np.nan),
    "infinity": one_value(np.inf),
    "minus infinity": one_value(-np.inf),
    "a double beyond float32": one_value(1e39, np.float64),
    "a Gram with a negative diagonal": with_gram(negative_diagonal),
    "half a Gram of a wrong length": with_gram(lambda a: a[:-1]),
    "all of a Gram in place of its half": with_gram(lambda a: np.outer(a[:9], a[:9])),
    "another client's number": with_field(client=BAD + 1),
    "the number of a client that was not asked": with_field(client=STRANGER),
    "a negative client": with_field(client=-1),
    "stale: an earlier phase": with_field(phase=0),
    "a later phase": with_field(phase=10**6),
    "a count of samples that is one too large": lambda case: replace(
        case.updates[BAD], num_examples=case.updates[BAD].num_examples + 1
    ),
    "no samples": with_field(num_examples=0),
    "a negative count": with_field(num_examples=-3),
    "a huge count": with_field(num_examples=2**62),
    "a metric of the totals is NaN": with_metric("images", float("nan")),
    "a metric of the totals is infinite": with_metric("images", float("inf")),
    "a metric of the totals is negative": with_metric("peak_memory_bytes", -1.0),
    "a metric of the totals is huge": with_metric("images", 1e300),
    "a metric of the totals is text": with_metric("images", "many"),
    "ten thousand metrics": lambda case: replace(case.updates[BAD], metrics={f"m{i}": 1.0 for i in range(10**4)}),
    "a metric with a long name": with_metric("x" * 10**5, 1.0),
}  # fmt: skip
"""Kind -> the bad update of a case, or None where the case has nothing that could be bad in this way."""


# ---- replies on the wire ---------------------------------------------------------------------------------------------


def entries(content):
    return json.loads(content["reply"]["index"])


def with_index(change):
    """Change the index: a text, or a function of its entries."""

    def spoil(content):
        index = change if isinstance(change, str) else json.dumps(change(entries(content)))
        content["reply"] = ConfigRecord({**content["reply"], "index": index})

    return spoil


def first_shape(shape):
    return with_index(lambda rows: [[*rows[0][:3], shape], *rows[1:]])


def with_buffer(change):
    """Change the first buffer: `change` gives its bytes, or a whole `Array`."""

    def spoil(content):
        key, array = next(iter(content["arrays"].items()))
        new = change(array)
        if isinstance(new, bytes):
            new = Array(array.dtype, array.shape, array.stype, new)
        content["arrays"] = ArrayRecord({**content["arrays"], key: new})

    return spoil


def npy(descr, shape, data):
    """Bytes of a .npy file whose header says what it is told to."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue() + data


def archive(array):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        zipped.writestr("a.npy", array.data)
    return file.getvalue()


def without(record):
    return lambda content: content.pop(record)


def put(content, name, record):
    """Put a record in the place of another, without Flower's warning."""
    content.pop(name)
    content[name] = record


def another_record(name, record):
    return lambda content: put(content, name, record)


def with_reply(**values):
    return lambda content: content.__setitem__("reply", ConfigRecord({**content["reply"], **values}))


WIRE: dict[str, Callable[[RecordDict], object]] = {
    "no record of arrays": without("arrays"),
    "no record of the reply": without("reply"),
    "no record of metrics": without("metrics"),
    "nothing at all": lambda content: content.clear(),
    "metrics in place of arrays": another_record("arrays", MetricRecord({"x": 1})),
    "arrays in place of the reply": another_record("reply", ArrayRecord()),
    "text among the metrics": lambda content: put(
        content, "metrics", ConfigRecord({**content["metrics"], "loss": "low"})
    ),
    "a list among the metrics": lambda content: put(
        content, "metrics", MetricRecord({**content["metrics"], "loss": [1.0, 2.0]})
    ),
    "a client's number that is text": with_reply(client="1"),
    "a phase that is a fraction": with_reply(phase=0.5),
    "true as a client's number": with_reply(client=True),
    "an index that is no JSON": with_index('[["arrays",'),
    "an index nested 100,000 deep": with_index("[" * 100_000),
    "an index of numbers": with_index("[1, 2, 3]"),
    "an index that is an object": with_index('{"arrays": 1}'),
    "an array twice in the index": with_index(lambda rows: [*rows, rows[0]]),
    "an array of a group that nobody asked for": with_index(lambda rows: [["state", *rows[0][1:]], *rows[1:]]),
    "an array of a buffer that is not there": with_index(lambda rows: [[*rows[0][:2], "int8", [1]], *rows]),
    "an array left out of the index": with_index(lambda rows: rows[1:]),
    "a huge shape with little data": first_shape([1 << 20, 1 << 20]),
    "a side beyond all numbers": first_shape([10**1000]),
    "a negative side": first_shape([-4, -4]),
    "a side that is a fraction": first_shape([2.0, 2.0]),
    "true as a side": first_shape([True]),
    "a thousand axes": first_shape([1] * 1000),
    "no values and endless sides": with_index(lambda rows: [*rows, [*rows[0][:1], "z", rows[0][2], [0, 10**30]]]),
    "bytes cut off": with_buffer(lambda array: array.data[:-5]),
    "bytes to spare": with_buffer(lambda array: array.data + b"\0" * 8),
    "a header cut off": with_buffer(lambda array: array.data[:30]),
    "no bytes": with_buffer(lambda array: b""),
    "bytes of something else": with_buffer(lambda array: b"\x80\x04\x95" * 40),
    "an archive in place of an array": with_buffer(archive),
    "pickled objects": with_buffer(lambda array: npy("|O", (1,), b"\x80\x04N.")),
    "a header that promises terabytes": with_buffer(
        lambda array: Array(
            array.dtype, (1 << 41,), array.stype, npy(array.numpy().dtype.str, (1 << 41,), array.data[128:])
        )
    ),
    "a buffer of another type than its name says": with_buffer(
        lambda array: Array(array.numpy().astype(np.int64))
    ),
    "a buffer with two axes": with_buffer(lambda array: Array(array.numpy()[None])),
    "big-endian values": with_buffer(lambda array: Array(array.numpy().astype(array.numpy().dtype.newbyteorder()))),
    "a buffer that is said to be shorter": with_buffer(
        lambda array: Array(array.dtype, (1,), array.stype, array.data)
    ),
    "another way of writing arrays": with_buffer(
        lambda array: Array(array.dtype, array.shape, "torch.tensor", array.data)
    ),
}  # fmt: skip
"""Kind -> what it does to the content of a good reply."""


WORDS = {
    "an array is missing": "missing ['", "all arrays are missing": "missing ['", "an array too many": "blocks.9.extra",
    "an array under another name": "not asked for ['another']", "a name with parts of a path": "../../etc/passwd",
    "a name with control characters": r"\x1b[2J\x00\n", "a name of a million characters": "xxxxxxxxxx",
    "statistics in place of arrays, and the reverse": "array: missing", "type int32": "type int32",
    "type uint8": "type uint8", "type bool": "type bool", "type float16": "type float16",
    "type complex": "type complex64", "type object": "type object", "text": "type <U3",
    "bytes in the other order": "type >f", "a list in place of an array": "a list, not an array",
    "a row too few": "shape", "a row too many": "shape", "transposed": "shape", "an axis too many": "shape (1,",
    "flattened": "shape", "a single number": "shape ()", "an empty array": "shape (0",
    "one number repeated in place of an array": ", 3)", "NaN": "1 of", "infinity": "1 of", "minus infinity": "1 of",
    "a double beyond float32": "1 of", "a Gram with a negative diagonal": "diagonal are negative",
    "half a Gram of a wrong length": "shape", "all of a Gram in place of its half": "shape",
    "another client's number": "client", "the number of a client that was not asked": "asked|client 99",
    "a negative client": "asked|client -1", "stale: an earlier phase": "stale: answers phase",
    "a later phase": "answers phase 1000000", "a count of samples that is one too large": "training samples, holds",
    "no samples": "claims 0", "a negative count": "claims -3", "a huge count": "claims 4611686018427387904",
    "a metric of the totals is NaN": "metric images = nan", "a metric of the totals is infinite": "metric images = inf",
    "a metric of the totals is negative": "metric peak_memory_bytes = -1.0",
    "a metric of the totals is huge": "metric images = 1e+300",
    "a metric of the totals is text": "metric images: a str", "ten thousand metrics": "more than 1000",
    "a metric with a long name": "more than 200 characters", "no record of arrays": "'arrays'",
    "no record of the reply": "'reply'", "no record of metrics": "'metrics'", "nothing at all": "no record",
    "metrics in place of arrays": "no record 'arrays'", "arrays in place of the reply": "'reply'",
    "text among the metrics": "metric loss", "a list among the metrics": "metric loss",
    "a client's number that is text": "'client' of type int", "a phase that is a fraction": "'phase' of type int",
    "true as a client's number": "'client' of type int", "an index that is no JSON": "index",
    "an index nested 100,000 deep": "index", "an index of numbers": "index", "an index that is an object": "index",
    "an array twice in the index": "twice", "an array of a group that nobody asked for": "state ",
    "an array of a buffer that is not there": ".int8 ends before", "an array left out of the index": "accounts for",
    "a huge shape with little data": "ends before its 1099511627776 values",
    "a side beyond all numbers": "is not a shape", "a negative side": "[-4, -4] is not a shape",
    "a side that is a fraction": "[2.0, 2.0] is not a shape", "true as a side": "[True] is not a shape",
    "a thousand axes": "is not a shape", "no values and endless sides": "z: [0, 1000", "bytes cut off": " bytes for",
    "bytes to spare": " bytes for", "a header cut off": "holds no array", "no bytes": "holds no array",
    "bytes of something else": "holds no array", "an archive in place of an array": "holds no array",
    "pickled objects": "holds |O", "a header that promises terabytes": "bytes for 2199023255552",
    "a buffer of another type than its name says": "holds <i8", "a buffer with two axes": "of shape (1, ",
    "big-endian values": "holds >f", "a buffer that is said to be shorter": "is said to be",
    "another way of writing arrays": "torch.tensor",
}  # fmt: skip
"""Kind -> what the reason must say, for every method; `|` between two, of which one is enough."""


def settled_as(content):
    """The reply of the bad client, as the server reads the content of its message."""
    identify()
    return settle(Message(content, 1, "train"), BAD)


def bad_replies(case, kind):
    """The ways in which a bad update of a kind reaches the server's check: straight, and over the wire if it can."""
    if kind in WIRE:
        content = reply_messages.write_update(case.updates[BAD])
        WIRE[kind](content)
        return [settled_as(content)]
    bad = UPDATES[kind](case)
    if bad is None:
        return []
    try:
        content = reply_messages.write_update(bad)
    except (TypeError, ValueError, AttributeError):  # objects, text and lists cannot be written
        return [bad]
    travelled = settled_as(content)
    in_order = kind == "bytes in the other order"  # what travels is put into the machine's order
    return [bad] if in_order else [bad, travelled]


def reason(kind, method="lorm"):
    """The reason that the records show for a kind, in a round of a method, or in its report."""
    for case in cases(method).values():
        for bad in bad_replies(case, kind)[-1:]:
            shown = [bad] if not isinstance(bad, ClientUpdate) or bad.client != BAD + 1 else [case.updates[2], bad]
            ((first, *_),) = [case.outcome(case.with_in_place(*shown))[1]]
            return first[1]
    return None


def second_reply():
    (case, *_) = cases("lorm").values()
    return case.outcome([*case.updates, case.updates[BAD]])[1][0][1]


def table():
    """The table of docs/reliability.md: the reasons in a round or a report of `lorm`, shortened."""
    lines = ["| kind | reason in `metrics.jsonl` |", "|---|---|"]
    rows = {kind: reason(kind) for kind in (*UPDATES, *WIRE)} | {"a second reply": second_reply()}
    for kind, why in rows.items():
        text = re.sub(r"\s+", " ", why.replace("|", r"\|"))
        text = text if len(text) <= 100 else f"{text[:97]}..."
        lines.append(f"| {kind} | `{text}` |")
    return "\n".join(lines) + "\n"


def written(page):
    """The page with the table anew."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}{table()}{END}{rest.partition(END)[2]}"


if __name__ == "__main__" and "--write" in sys.argv:
    PAGE.write_text(written(PAGE.read_text()))
