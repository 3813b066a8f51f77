"""Averaging with a report at a task's end: its phases, what clients do in it, and what the server is given."""

from dataclasses import dataclass

import numpy as np
import pytest
from small import phase
from toys import ClassSums

from fcil.errors import MergeError
from fcil.method import EXAMPLES, Averaging, Broadcast, ClientUpdate, Pass, Task

TASK = Task(0, 0, 2)
SUMS = {"gram": np.eye(3), "sums": np.ones((2, 3)), "counts": np.array([2.0, 1.0])}


@dataclass(frozen=True, kw_only=True)
class Reporting(Averaging):
    """Keeps the sums of its report."""

    def task_report(self, task):
        return (Pass((ClassSums(task),)),)

    def merge_report(self, state, phase, sums):
        return {**state, "report": sums}


def updates(*counts):
    return [ClientUpdate(client, 0, n, {}, SUMS) for client, n in enumerate(counts)]


def test_without_a_report_there_are_rounds_alone():
    assert Averaging().phases(TASK, 3) == ("train",) * 3


def test_with_one_it_follows_the_rounds_and_nothing_trains_in_it():
    method = Reporting()
    assert method.phases(TASK, 3) == ("train", "train", "train", "report")
    assert method.local(phase(4, "report")).trains == ()
    assert method.local(phase(4, "report")).passes == method.task_report(TASK)
    assert method.local(phase(3)).passes == ()
    assert method.local(phase(3)).trains == ("head.0.*",)


def test_the_server_is_given_sums_over_the_clients_and_the_number_of_examples():
    at, state = phase(4, "report"), {"module": {}, "head": {"head.0.bias": np.ones(2, np.float32)}}
    after = Reporting().merge(state, at, updates(3, 4))
    assert after["report"][EXAMPLES] == 7
    for name, a in SUMS.items():
        assert after["report"][name].dtype == np.float64
        np.testing.assert_array_equal(after["report"][name], 2 * a)
    assert after["head"] is state["head"]
    parts = [Reporting().sums(at, Broadcast({}), [u]) for u in updates(3, 4)]
    for name, a in after["report"].items():
        np.testing.assert_array_equal(parts[0][name] + parts[1][name], a)


def test_a_report_without_anybodys_examples_is_an_error():
    with pytest.raises(MergeError, match="needs some"):
        Reporting().merge({}, phase(4, "report"), updates(0, 0))


def test_a_report_that_nobody_reads_is_a_mistake_in_the_method():
    class Unread(Averaging):
        def task_report(self, task):
            return (Pass((ClassSums(task),)),)

    with pytest.raises(NotImplementedError, match=r"Unread\.merge_report, beside \.task_report"):
        Unread().merge({}, phase(4, "report"), updates(1))
