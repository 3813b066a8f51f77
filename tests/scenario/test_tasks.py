"""Classes into tasks, and the order in which they come."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcil.config import from_table, to_table
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


PUBLISHED = [68, 56, 78, 8, 23, 84, 90, 65, 74, 76, 40, 89, 3, 92, 55, 9, 26, 80, 43, 38, 58, 70, 77, 1, 85, 19, 17, 50,
             28, 53, 13, 81, 45, 82, 6, 59, 83, 16, 15, 44, 91, 41, 72, 60, 79, 52, 20, 10, 31, 54, 37, 95, 14, 71, 96,
             98, 97, 2, 64, 66, 42, 22, 35, 86, 24, 34, 87, 21, 99, 0, 88, 27, 18, 94, 11, 12, 47, 25, 30, 46, 62, 69,
             36, 61, 7, 63, 75, 5, 32, 4, 51, 48, 73, 93, 39, 67, 29, 49, 57, 33]  # fmt: skip
"""The class order of CIFAR-100 that papers of the field print for seed 1993."""


def test_seed_1993_gives_the_order_that_papers_print_whatever_the_runs_seed():
    names = [f"class {c}" for c in range(100)]
    settings = Tasks(order="shuffled", order_seed=1993)
    for seed in (0, 5):
        assert class_order(names, settings, seed).tolist() == PUBLISHED
    declared = Tasks(order="shuffled", order_seed=1993, classes=tuple(reversed(names)))
    assert class_order(names, declared, 0).tolist() == [99 - c for c in PUBLISHED]
    assert class_order(names, Tasks(order="shuffled"), 1993).tolist() != PUBLISHED


@given(st.permutations(["ant", "bee", "cat", "dog", "emu"]), st.booleans(), st.booleans())
def test_a_listed_order_is_of_names_or_of_numbers(listed, by_number, declared):
    names = ["ant", "bee", "cat", "dog", "emu"]
    natural = tuple(reversed(names)) if declared else tuple(names)
    entries = tuple(str(natural.index(name)) for name in listed) if by_number else tuple(listed)
    settings = Tasks(order_list=entries, classes=natural if declared else ())
    assert [names[c] for c in class_order(names, settings, 0)] == listed


def test_names_that_are_numbers_are_names():
    assert class_order(["10", "2", "0"], Tasks(order_list=("0", "10", "2")), 0).tolist() == [2, 0, 1]


@pytest.mark.parametrize(("settings", "message"), [
    ({"order_list": ("0", "1", "1")}, "'1' stands there more than once"),
    ({"order_list": ("0", "1")}, "1 of 3 classes are missing, such as 'cat'"),
    ({"order_list": ("0", "1", "3")}, "'3' is no class and no number from 0 to 2"),
    ({"order_list": ("ant", "bee", "cats")}, "Did you mean 'cat'"),
    ({"order_list": ("ant", "bee", "2")}, "names and numbers; write the one or the other"),
    ({"order_list": ("0", "1", "2"), "order": "shuffled"}, "leave one of the two out"),
    ({"order_list": ("0", "1", "2"), "order_file": "x"}, "two class orders"),
    ({"order_seed": 1993}, 'of which order. Set tasks.order = "shuffled"'),
    ({"order_file": "/nowhere/order.txt"}, "cannot be read .No such file"),
])  # fmt: skip
def test_orders_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        class_order(["ant", "bee", "cat"], Tasks(**settings), 0)


def test_a_file_is_read_with_the_settings_which_then_hold_it(tmp_path):
    path = tmp_path / "order.txt"
    path.write_text("\ufeff# the order of a paper\n2\n\n 0 \n1\n", "utf-8")
    config = from_table([("a.toml", {"tasks": {"order_file": str(path)}})])
    assert (config.tasks.order_file, config.tasks.order_list) == ("", ("2", "0", "1"))
    assert from_table([("again", to_table(config))]) == config
    path.unlink()
    assert class_order(["ant", "bee", "cat"], config.tasks, 0).tolist() == [2, 0, 1]
    path.write_text("# nothing\n")
    with pytest.raises(ConfigError, match="has no class in it"):
        from_table([("a.toml", {"tasks": {"order_file": str(path)}})])
