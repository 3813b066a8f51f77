"""Many short messages to Ray workers: several go in one call, and a bad one still costs its own reply only."""

from collections import deque

import echo_app
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fcil.exchange.flower import ray_grid
from fcil.exchange.flower.internals import identify
from fcil.exchange.flower.ray_calls import CALL_SECONDS, Letter, portion
from fcil.threads import cores

COUNT = 60


def waiting(count, **common):
    return deque(Letter(None, {"number": k}, common) for k in range(count))


def numbers(taken):
    return [letter.own["number"] for letter in taken]


@given(st.integers(1, 300), st.integers(1, 8), st.floats(1e-6, 10) | st.just(float("inf")))
def test_all_messages_go_once_and_in_their_order(count, workers, seconds):
    left, gone = waiting(count), []
    while left:
        taken = portion(left, workers, seconds)
        assert len(taken) == 1 or len(taken) * seconds <= CALL_SECONDS
        assert len(taken) == 1 or len(taken) * workers * 2 <= count - len(gone)  # the last ones go one by one
        gone += numbers(taken)
    assert gone == list(range(count))


def test_long_messages_and_the_first_one_go_alone():
    assert numbers(portion(waiting(1000), 2, float("inf"))) == [0]
    assert numbers(portion(waiting(1000), 2, 0.6 * CALL_SECONDS)) == [0]
    assert numbers(portion(waiting(1000), 2, 0.25 * CALL_SECONDS)) == [0, 1, 2, 3]


def test_a_message_that_may_be_to_blame_goes_alone():
    left = waiting(100)
    left[2].alone = True
    assert [numbers(portion(left, 1, 1e-3)) for _ in range(3)][:2] == [[0, 1], [2]]


def test_only_messages_with_the_same_common_records_go_together():
    left = waiting(100, arrays="old")
    left[3].common = {"arrays": "new"}
    assert numbers(portion(left, 1, 1e-3)) == [0, 1, 2]


@pytest.fixture(scope="module")
def grid():
    with ray_grid.RayGrid(COUNT, workers=min(2, cores()), app=f"{echo_app.__name__}:app", retries=1) as grid:
        grid.pids()
        yield grid


def send(grid, faults, timeout=None):
    """Number -> its reply's number, or the reason why there is none; every message has one reply."""
    identify()
    contents = [ConfigRecord({"number": k, "fault": faults.get(k, "")}) for k in range(COUNT)]
    sent = [Message(RecordDict({"own": own}), k + 1, "train") for k, own in enumerate(contents)]
    results = {}
    for reply in grid.stream(sent, timeout=timeout):
        number = reply.metadata.src_node_id - 1
        assert number not in results
        results[number] = reply.error.reason if reply.has_error() else reply.content["own"]["number"]
    assert sorted(results) == list(range(COUNT))
    return results


@pytest.mark.slow
def test_short_messages_share_calls(grid, monkeypatch):
    sizes = []

    def watched(*args):
        taken = portion(*args)
        sizes.append(len(taken))
        return taken

    monkeypatch.setattr(ray_grid, "portion", watched)
    assert send(grid, {}) == {k: k for k in range(COUNT)}
    assert sum(sizes) == COUNT
    assert max(sizes) > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "reason", "timeout"),
    [("raises", "RuntimeError: boom", None), ("dies", "its worker died 2 times", None), ("hangs", "took longer", 5.0)],
)
def test_a_bad_message_among_short_ones_costs_its_own_reply_only(grid, fault, reason, timeout):
    result = send(grid, {25: fault}, timeout)
    assert reason in result.pop(25)
    assert result == {k: k for k in range(COUNT) if k != 25}
    assert len(grid.pids()) == grid.workers
