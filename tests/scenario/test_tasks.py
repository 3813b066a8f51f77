"""Classes into tasks, and the order in which they come."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcil.errors import ConfigError
from fcil.scenario.tasks import Tasks, class_order, make_tasks


@given(st.integers(1, 300), st.integers(1, 40))
def test_tasks_cover_every_class_once_or_say_why_not(classes, count):
    each = int(np.ceil(classes / count))
    if classes - each * (count - 1) < 1:
        with pytest.raises(ConfigError, match=f"tasks.count = {count}"):
            make_tasks(classes, Tasks(count=count))
        return
    tasks = make_tasks(classes, Tasks(count=count))
    assert [t.index for t in tasks] == list(range(count))
    assert [c for t in tasks for c in t.positions] == list(range(classes))
    assert {t.size for t in tasks[:-1]} <= {each}
    assert tasks[-1].seen == classes


@pytest.mark.parametrize(
    ("classes", "count", "sizes"), [(196, 10, [20] * 9 + [16]), (10, 5, [2] * 5), (100, 10, [10] * 10), (7, 1, [7])]
)
def test_sizes_of_the_papers(classes, count, sizes):
    assert [t.size for t in make_tasks(classes, Tasks(count=count))] == sizes


def test_sizes_may_be_given_and_must_cover_the_classes():
    tasks = make_tasks(6, Tasks(sizes=(3, 1, 2)))
    assert [(t.first, t.size, t.seen) for t in tasks] == [(0, 3, 3), (3, 1, 4), (4, 2, 6)]
    with pytest.raises(ConfigError, match=r"sum to 5, but the data set has 6"):
        make_tasks(6, Tasks(sizes=(3, 2)))


def test_order_is_natural_or_a_permutation_of_the_seed():
    np.testing.assert_array_equal(class_order("abcdefghi", Tasks(), 3), np.arange(9))
    shuffled = [class_order([str(c) for c in range(50)], Tasks(order="shuffled"), seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(shuffled[0], shuffled[1])
    np.testing.assert_array_equal(np.sort(shuffled[0]), np.arange(50))
    assert not np.array_equal(shuffled[0], shuffled[2])
