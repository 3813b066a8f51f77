"""What cannot be trusted is read: only ValueError comes out, soon, and no more memory is taken than was sent."""

import json
import time
import tracemalloc

import numpy as np
import pytest
from flower_runs import settings
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from fcil.exchange.flower import messages, reply_messages
from fcil.exchange.flower.packing import pack, unpack
from fcil.exchange.introduction import Introduction
from fcil.method import Broadcast, ClientUpdate, Local, Method, Phase, Task
from fcil.server.replies import Failure, Partial
from fcil.server.request import Request

TASK = Task(1, 2, 3)
PHASE = Phase(3, "train", TASK, 1, 0)
ARRAYS = {"w": np.ones((2, 3), np.float32), "b": np.arange(4.0)}
INTRODUCTION = Introduction(1, "c0de", "5e7", "1234", "da7a", {"cat": (3, 1)}, ((3, 1),), {"torch": "2"}, "AVX2", "cpu")
READERS = {
    "update": reply_messages.read_update,
    "reply": reply_messages.read_reply,
    "partial": reply_messages.read_partial,
    "work": messages.read_work,
    "shard": messages.read_shard,
    "correct": lambda content: reply_messages.read_correct(content, 2),
    "hello": messages.read_hello,
    "introduction": reply_messages.read_introduction,
    "problem": reply_messages.read_introduction,
}


def real():
    """A real message for every reader."""
    job = messages.Job.of(settings())
    request = Request(PHASE, Method(), Broadcast(ARRAYS, ARRAYS), {0: 5, 1: 9}, {}, Local())
    update = reply_messages.write_update(
        ClientUpdate(1, 3, 9, ARRAYS, {"gram": np.ones(6)}, {"loss": 0.5, "images": 9.0})
    )
    members = (ClientUpdate(0, 3, 5, {}, {}, {"loss": 1.0}),)
    partial = Partial(3, members, (Failure(1, "a", "b"),), {"sum": np.ones(3)})
    return {
        "update": update,
        "reply": reply_messages.write_failure(Failure(1, "a", "b")),
        "partial": reply_messages.write_partial(partial),
        "work": messages.request_contents(request, job)[1],
        "shard": messages.evaluate_contents(ARRAYS, TASK, 2, job)[1],
        "correct": reply_messages.write_correct(np.array([[3, 4]])),
        "hello": messages.hello_content(job),
        "introduction": reply_messages.write_introduction(INTRODUCTION),
        "problem": reply_messages.write_problem(1, "no weights"),
    }


REAL = real()


def is_read(name, content):
    """Read, and tell whether it was read or refused; whatever is malformed must be a ValueError, and quickly."""
    start, reason = time.monotonic(), None
    try:
        READERS[name](content)
    except ValueError as error:
        reason = str(error)
    assert time.monotonic() - start < 5
    assert reason is None or 0 < len(reason) < 2000
    return reason is None


@pytest.mark.parametrize("name", READERS)
def test_the_real_messages_are_read(name):
    assert READERS[name](REAL[name]) is not None


# ---- structures ------------------------------------------------------------------------------------------------------

SCALARS = st.one_of(
    st.integers(), st.just(10**400), st.floats(), st.booleans(), st.text(max_size=8), st.binary(max_size=8)
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6)),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=6), inner, max_size=5)),
    max_leaves=12,
)
KEYS = st.sampled_from(["index", "client", "phase", "num-examples", "group", "reason", "traceback", "correct",
                        "task", "clients", "summed", "shard", "shards", "partition-id", "config", "store",
                        "sources"])  # fmt: skip
TEXTS = st.one_of(st.text(max_size=20), JSON.map(json.dumps))


def config(values):
    return st.dictionaries(st.one_of(KEYS, st.text(max_size=5)), values, max_size=6).map(ConfigRecord)


METRICS = st.dictionaries(KEYS, st.one_of(st.integers(), st.floats(), st.lists(st.integers(), max_size=3)), max_size=5)
BUFFERS = st.builds(
    Array, st.sampled_from(["float32", "O", "x" * 300]),
    st.lists(st.integers(-2, 2**70), max_size=3).map(tuple), st.sampled_from(["numpy.ndarray", "torch"]),
    st.binary(max_size=300),
)  # fmt: skip
RECORDS = st.one_of(
    config(st.one_of(SCALARS, TEXTS)),
    METRICS.map(MetricRecord),
    st.dictionaries(st.sampled_from(["arrays.float32", "sums.float64", "x", ""]), BUFFERS, max_size=2).map(ArrayRecord),
)
CONTENTS = st.dictionaries(
    st.sampled_from(["arrays", "request", "own", "reply", "metrics", "failure", "other"]), RECORDS, max_size=5
).map(RecordDict)


@pytest.mark.parametrize("name", READERS)
@given(content=CONTENTS)
@profile(max_examples=60)
def test_random_records_are_read_or_refused(name, content):
    assert is_read(name, content) == is_read(name, content)  # whatever came before


def copied(content):
    return RecordDict(dict(content.items()))


def places(content):
    """(record, key) of every value."""
    return [(name, key) for name, record in content.items() for key in record]


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
@profile(max_examples=120)
def test_real_messages_with_a_value_replaced_are_read_or_refused(name, data):
    content = copied(REAL[name])
    record, key = data.draw(st.sampled_from(places(content)))
    old = content.pop(record)
    kind = type(old)
    if kind is ArrayRecord:
        value = data.draw(BUFFERS)
    elif kind is MetricRecord:
        value = data.draw(st.one_of(st.integers(), st.floats(), st.lists(st.floats(), max_size=3)))
    else:
        value = data.draw(st.one_of(SCALARS, TEXTS, st.lists(st.integers(), max_size=3)))
    content[record] = kind({**old, key: value})
    assert is_read(name, content) == is_read(name, content)
    content[record] = old  # and nothing of it stays behind in the reader
    assert is_read(name, content)


@given(index=JSON, rows=st.lists(st.tuples(JSON, JSON, JSON, JSON), max_size=4))
@profile(max_examples=300)
def test_any_index_is_read_or_refused(index, rows):
    record, _ = pack({"arrays": ARRAYS})
    for text in (
        json.dumps(index),
        json.dumps(rows),
        json.dumps([["arrays", "w", "float32", shape[3]] for shape in rows]),
    ):
        try:
            unpack(record, text, ("arrays",))
        except ValueError as error:
            assert len(str(error)) < 2000  # noqa: PT017


# ---- bytes -----------------------------------------------------------------------------------------------------------


TEXTS_ALONE = {"reply", "hello", "problem"}
"""Messages of texts that are taken as they are, whatever they say: here the reply is a failure's."""


def mutated(data, rng):
    """Bytes with a few of them changed, cut, doubled or moved."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        at, size = (int(x) for x in rng.integers(0, max(len(data), 1), 2))
        match rng.integers(0, 5):
            case 0 if data:
                data[at] = rng.integers(0, 256)
            case 1:
                del data[at : at + size % 40]
            case 2:
                data[at:at] = data[at : at + size % 40]
            case 3:
                data[at:at] = rng.choice([b"9" * 30, b"[" * 500, b"-", b"1e999", b"\\ud800", b"\x00", b"NaN", b"L"])
            case _ if data:
                data[at] ^= 1 << int(rng.integers(0, 8))
    return bytes(data)


def spoiled(content, rng):
    """A real message with one buffer or one text mutated."""
    content = copied(content)
    record, key = places(content)[rng.integers(len(places(content)))]
    old = content.pop(record)
    value = old[key]
    if isinstance(value, Array):
        value = Array(value.dtype, value.shape, value.stype, mutated(value.data, rng))
    elif isinstance(value, str):
        value = mutated(value.encode(), rng).decode(errors="surrogateescape")
    content[record] = type(old)({**old, key: value})
    return content


@pytest.mark.filterwarnings("ignore:Reading `.npy`")
@pytest.mark.parametrize("name", [name for name in READERS if name != "correct"])
def test_real_messages_with_bytes_changed_are_read_or_refused(name):
    drawn = (np.random.default_rng([seed, len(name)]) for seed in range(400))
    outcomes = [is_read(name, spoiled(REAL[name], rng)) for rng in drawn]
    assert all(outcomes) == (name in TEXTS_ALONE)  # some changes break a message, and are noticed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Reading `.npy`")
@pytest.mark.parametrize("name", [name for name in READERS if name != "correct"])
def test_many_real_messages_with_bytes_changed_are_read_or_refused(name):
    outcomes = [
        is_read(name, spoiled(REAL[name], np.random.default_rng([seed, len(name)]))) for seed in range(400, 20_000)
    ]
    assert all(outcomes) == (name in TEXTS_ALONE)  # some changes break a message, and are noticed


# ---- memory ----------------------------------------------------------------------------------------------------------


def header(shape):
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


SIX = {"arrays.float32": Array(np.ones(6, np.float32))}
EMPTY = {"arrays.float32": Array("float32", (1 << 31,), "numpy.ndarray", header("(2147483648,)"))}
HUGE = {
    "the header of a buffer": (EMPTY, [["arrays", "w", "float32", [1 << 30]]]),
    "the shape in the index": (SIX, [["arrays", "w", "float32", [1 << 30]]]),
    "the same values many times": (SIX, [["arrays", str(i), "float32", [6]] for i in range(1000)]),
    "axes": (SIX, [["arrays", "w", "float32", [1 << 20] * 1000]]),
    "long sides": (SIX, [["arrays", "w", "float32", [10**4000] * 30]]),
    "no values": (SIX, [["arrays", "w", "float32", [0, 1 << 62, 1 << 62]]]),
}


@pytest.mark.parametrize("kind", HUGE)
def test_a_small_message_that_promises_much_takes_little_memory(kind):
    buffers, index = HUGE[kind]
    record, text = ArrayRecord(buffers), json.dumps(index)
    sent = len(text) + sum(len(array.data) for array in record.values())
    tracemalloc.start()
    try:
        start = time.monotonic()
        with pytest.raises(ValueError, match=r"ends before|shape|bytes for"):
            unpack(record, text, ("arrays",))
        assert time.monotonic() - start < 2
        assert tracemalloc.get_traced_memory()[1] < 100_000 + 30 * sent
    finally:
        tracemalloc.stop()


def test_reading_takes_about_the_memory_of_what_was_sent():
    record, text = pack({"arrays": {"w": np.ones(10**6, np.float32)}})
    tracemalloc.start()
    try:
        unpack(record, text, ("arrays",))
        assert tracemalloc.get_traced_memory()[1] < 4.5e6
    finally:
        tracemalloc.stop()
