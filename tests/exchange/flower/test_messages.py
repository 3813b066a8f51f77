import json

import numpy as np
import pytest
from flower_runs import settings
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fcil.exchange.flower import messages, reply_messages
from fcil.exchange.flower.packing import pack, unpack
from fcil.method import Broadcast, ClientUpdate, Local, Method, Phase, Task
from fcil.server.loop import Request
from fcil.server.replies import Failure, Partial
from fcil.server.traffic import update_bytes

JOB = messages.Job.of(settings(), "/somewhere")
NAMES = st.text(min_size=1, max_size=12)
ARRAYS = st.dictionaries(
    NAMES,
    st.sampled_from([np.float32, np.float64]).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    ),
    max_size=5,
)


def equal(left, right):
    """Names in the same order, and the same bits."""
    return list(left) == list(right) and all(
        left[n].dtype == right[n].dtype and left[n].shape == right[n].shape and left[n].tobytes() == right[n].tobytes()
        for n in left
    )


@given(ARRAYS, ARRAYS)
def test_arrays_survive_bit_for_bit_in_at_most_one_buffer_per_group_and_type(arrays, references):
    record, index = pack({"arrays": arrays, "references": references})
    assert len(record) <= 4
    back = unpack(record, index, ("arrays", "references"))
    assert equal(back[0], arrays)
    assert equal(back[1], references)


@given(ARRAYS, ARRAYS, st.integers(0, 2**31), st.integers(0, 2**31))
def test_a_request_survives_and_its_common_records_are_one_object(arrays, references, index, seed):
    phase = Phase(index, "report", Task(1, 2, 3), 4, seed)
    request = Request(phase, Method(), Broadcast(arrays, references), {0: 5, 3: 9, 4: 9}, {}, Local())
    contents = messages.request_contents(request, JOB)
    assert list(contents) == [3, 4, 0]  # longest first
    for name in ("arrays", "request"):
        assert len({id(content[name]) for content in contents.values()}) == 1
    for client, content in contents.items():
        work = messages.read_work(content)
        assert (work.phase, work.clients, work.summed, work.job) == (phase, (client,), False, JOB)
        assert equal(work.broadcast.arrays, arrays)
        assert equal(work.broadcast.references, references)


@given(ARRAYS, ARRAYS, st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False), max_size=3))
def test_an_update_survives(arrays, statistics, metrics):
    update = ClientUpdate(2, 7, 31, arrays, statistics, metrics)
    back = reply_messages.read_update(reply_messages.write_update(update))
    assert (back.client, back.phase, back.num_examples, back.metrics) == (2, 7, 31, metrics)
    assert equal(back.arrays, arrays)
    assert equal(back.statistics, statistics)


def test_the_envelope_of_a_reply_is_small():
    """At ViT-B/16 shapes: names and shapes, under 100 bytes an array, and a header of 128 bytes for each buffer."""
    arrays = {f"blocks.{i}.mlp.fc1.lora_B": np.zeros((3072, 16), np.float32) for i in range(48)}
    statistics = {f"blocks.{i}.mlp.fc1.projected_gram": np.zeros(136, np.float32) for i in range(48)}
    update = ClientUpdate(0, 0, 100, arrays, statistics, {"loss": 1.0})
    content = reply_messages.write_update(update)
    buffers = content["arrays"]
    carried = sum(len(array.data) for array in buffers.values()) + len(content["reply"]["index"])
    assert update_bytes(update) < carried <= update_bytes(update) + 128 * len(buffers) + 100 * 96
    assert len(buffers) == 2


@given(ARRAYS)
def test_sums_of_a_group_survive_with_its_members_and_failures(sums):
    phase = Phase(3, "train", Task(0, 0, 2), 1, 0)
    local = Request(phase, Method(), Broadcast({}), {0: 5, 1: 9, 2: 9}, {}, Local(), ((0,), (1, 2)))
    contents = messages.request_contents(local, JOB)
    assert list(contents) == [1, 0]  # the group with most samples first
    work = messages.read_work(contents[1])
    assert (work.clients, work.summed) == ((1, 2), True)
    members = (ClientUpdate(1, 3, 9, {}, {}, {"loss": 0.5}),)
    partial = Partial(3, members, (Failure(2, "ValueError: a\nb"), Failure(4, "c", "Traceback\n  ...\nc\n")), sums)
    back = reply_messages.read_partial(reply_messages.write_partial(partial))
    assert (back.phase, back.members, back.failures) == (3, members, partial.failures)
    assert equal(back.sums, sums)


def test_a_failure_survives_and_keeps_the_end_of_its_traceback():
    failure = Failure(2, "ValueError: a\nb", "Traceback\n  ...\nValueError: a\nb\n")
    assert reply_messages.read_reply(reply_messages.write_failure(failure)) == failure
    endless = reply_messages.read_reply(reply_messages.write_failure(Failure(2, "a", "x" * 10**6 + "end")))
    assert (len(endless.traceback), endless.traceback[-4:]) == (8000, "xend")
    group = Partial(0, (), (Failure(2, "a", "x" * 10**6 + "end"),), {})
    assert reply_messages.read_partial(reply_messages.write_partial(group)).failures == (endless,)
    update = ClientUpdate(2, 7, 31, {}, {}, {})
    assert reply_messages.read_reply(reply_messages.write_update(update)) == update


@pytest.mark.parametrize("message", [{}, {"client": "2"}, {"client": 2, "reason": 3}, {"client": 2, "reason": "a"}])
def test_a_malformed_failure_is_told(message):
    with pytest.raises(ValueError, match="record 'failure' has no"):
        reply_messages.read_reply(RecordDict({"failure": ConfigRecord(message)}))


def test_malformed_groups_are_told():
    content = reply_messages.write_partial(Partial(0, (), (), {}))
    endless = '{"members": [{"client": 0, "examples": 1e999, "metrics": {}}], "failures": []}'
    for group in (
        "[",
        "{}",
        "[" * 200_000,
        endless,
        endless.replace("1e999", "true"),
        '{"members": [{}], "failures": []}',
        '{"members": [], "failures": [[1]]}',
    ):
        content["reply"] = ConfigRecord({**content["reply"], "group": group})
        with pytest.raises(ValueError, match="members are malformed"):
            reply_messages.read_partial(content)


def test_evaluation_survives():
    task = Task(1, 2, 3)
    contents = messages.evaluate_contents({"w": np.ones(3, np.float32)}, task, 2, JOB)
    assert [messages.read_shard(c).shard for c in contents] == [0, 1]
    assert messages.read_shard(contents[1]).task == task
    assert reply_messages.read_correct(reply_messages.write_correct(np.array([3, 4])), 2).tolist() == [[3, 4]]
    at_sites = np.array([[3, 4], [0, 9]])
    np.testing.assert_array_equal(reply_messages.read_correct(reply_messages.write_correct(at_sites), 2, 2), at_sites)
    with pytest.raises(ValueError, match="do not fit"):
        reply_messages.read_correct(reply_messages.write_correct(np.array([3])), 2)


def good():
    update = ClientUpdate(2, 7, 31, {"w": np.ones((2, 3), np.float32), "b": np.ones(2, np.float64)}, {}, {"loss": 1.0})
    return reply_messages.write_update(update)


def index_of(*entries):
    return json.dumps(entries)


@pytest.mark.parametrize(
    "index",
    [
        "", "{", "7", "[1]", '["abc"]', "[" * 100_000,
        index_of(["arrays", "w", "float32", [2, 4]]),
        index_of(["arrays", "w", "float32", [2]]),
        index_of(["arrays", "w", "float32", [-1, -6]]),
        index_of(["arrays", "w", "float32", ["2", 3]]),
        index_of(["arrays", "w", "float32", [10**30]]),
        index_of(["elsewhere", "w", "float32", [2, 3]]),
        index_of(["arrays", "w", "float32", [3]], ["arrays", "w", "float32", [3]]),
        index_of(["arrays", "w", "int8", [6]]),
    ],
)  # fmt: skip
def test_an_index_that_does_not_fit_is_refused(index):
    content = good()
    content["reply"] = ConfigRecord({**content["reply"], "index": index})
    with pytest.raises(ValueError, match=r"index|shape|buffer|not expected"):
        reply_messages.read_update(content)


@pytest.mark.parametrize("record", ["arrays", "reply", "metrics"])
def test_a_missing_record_is_refused(record):
    content = good()
    del content[record]
    with pytest.raises(ValueError, match=record):
        reply_messages.read_update(content)
    with pytest.raises(ValueError, match="record"):
        reply_messages.read_update(RecordDict())


def test_a_record_of_another_kind_is_refused():
    content = good()
    content["arrays"] = MetricRecord({"x": 1})
    with pytest.raises(ValueError, match="arrays"):
        reply_messages.read_update(content)


@pytest.mark.parametrize(
    "array",
    [
        Array("float32", (6,), "numpy.ndarray", b""),
        Array("float32", (6,), "numpy.ndarray", b"\x93NUMPY garbage"),
        Array("float32", (6,), "something", b"abc"),
        Array(np.ones(6)),
        Array(np.ones((2, 3), np.float32)),
    ],
)
def test_a_damaged_buffer_is_refused(array):
    content = good()
    content["arrays"] = ArrayRecord({**content["arrays"], "arrays.float32": array})
    with pytest.raises(ValueError, match="buffer"):
        reply_messages.read_update(content)


def test_objects_do_not_travel():
    with pytest.raises(TypeError, match="do not travel"):
        pack({"arrays": {"x": np.array([{}], object)}})
