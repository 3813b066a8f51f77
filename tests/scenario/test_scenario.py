"""Who has what, when; who takes part."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import dataset

from fcil.config import from_table
from fcil.engine.checks import check_settings
from fcil.errors import ConfigError
from fcil.method import Task
from fcil.scenario.census import Census
from fcil.scenario.partition import Partition
from fcil.scenario.scenario import make_scenario
from fcil.scenario.tasks import Tasks


def scenario(seed=0, clients=4, order="shuffled", **partition):
    return make_scenario(
        dataset(120, 6), Tasks(count=3, order=order), Partition(clients=clients, min_samples=1, **partition), seed
    )


def census(seed=0, **options):
    return scenario(seed, **options).census(dataset(120, 6))


@given(st.integers(0, 1000))
def test_a_census_counts_what_a_scenario_assigns(seed):
    s, data = scenario(seed), dataset(120, 6)
    counts = s.census(data)
    assert counts.classes == tuple(data.classes[c] for c in s.order)
    assert counts.totals == [len(t) for t in s.tests]
    for t, (task, parts) in enumerate(zip(s.tasks, s.parts, strict=True)):
        for client, part in enumerate(parts):
            assert counts.train[t, client] == len(part) == s.num_examples(t, client)
            of_classes = [int((data.train.labels[part] == s.order[p]).sum()) for p in task.positions]
            assert counts.by_class[client, task.first : task.seen].tolist() == of_classes


@given(st.integers(0, 1000))
def test_every_sample_is_in_its_classs_task_and_with_one_client(seed):
    s, data = scenario(seed), dataset(120, 6)
    np.testing.assert_array_equal(s.positions[s.order], np.arange(6))
    owned = np.concatenate([part for parts in s.parts for part in parts])
    np.testing.assert_array_equal(np.sort(owned), np.arange(120))
    np.testing.assert_array_equal(np.sort(np.concatenate(s.tests)), np.arange(120))
    for task, parts, test in zip(s.tasks, s.parts, s.tests, strict=True):
        for indices, labels in ((np.concatenate(parts), data.train.labels), (test, data.test.labels)):
            assert set(s.positions[labels[indices]]) == set(task.positions)
        assert all((np.diff(part) > 0).all() for part in (*parts, test))


def test_scenario_is_the_seeds_alone():
    one, two, other = scenario(0), scenario(0), scenario(1)
    assert all(
        np.array_equal(a, b) for p, q in zip(one.parts, two.parts, strict=True) for a, b in zip(p, q, strict=True)
    )
    assert not all(
        np.array_equal(a, b) for p, q in zip(one.parts, other.parts, strict=True) for a, b in zip(p, q, strict=True)
    )


@given(st.floats(0.01, 1), st.integers(0, 50), st.integers(1, 20))
def test_share_of_participants_is_sorted_distinct_and_at_least_one(share, seed, round):
    s = census(clients=8, kind="iid")
    chosen = s.participants(0, round, share, seed)
    assert chosen == sorted(set(chosen))
    assert abs(len(chosen) - share * 8) <= 0.5 or len(chosen) == 1
    assert chosen == s.participants(0, round, share, seed)


@given(st.integers(1, 12), st.integers(0, 50))
def test_a_number_of_participants_takes_the_place_of_the_share(number, seed):
    s = census(clients=8, kind="iid")
    chosen = s.participants(1, 2, 1.0, seed, number)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(number, 8)
    if number < 8:  # the same draw as of a share that makes as many
        assert chosen == s.participants(1, 2, number / 8, seed)


@pytest.mark.parametrize(("sections", "message"), [
    ({"train": {"participants": 3, "participation": 0.5}}, "leave one of the two out"),
    ({"train": {"participants": 11}}, "there are only partition.clients = 10"),
    ({"partition": {"class_share": 0.5}}, 'no meaning with kind = "dirichlet"'),
    ({"partition": {"kind": "sites", "over": "whole"}, "data": {"name": "folder"}}, "sites have the images"),
    ({"tasks": {"order_seed": 1993}}, "of which order"),
])  # fmt: skip
def test_settings_that_contradict_are_refused_before_anything_is_read(sections, message):
    with pytest.raises(ConfigError, match=message):
        check_settings(from_table([("a.toml", sections)]))


def test_participants_are_drawn_anew_each_round_and_evenly():
    s = census(clients=8, kind="iid")
    rounds = [s.participants(0, r, 0.5, 0) for r in range(400)]
    assert len({tuple(r) for r in rounds}) > 50
    counts = np.bincount(np.concatenate(rounds), minlength=8)
    assert np.abs(counts - 200).max() < 5 * np.sqrt(400 * 0.25)


def test_all_take_part_at_one_and_clients_without_samples_never_do():
    assert census(kind="iid").participants(1, 1, 1.0, 0) == [0, 1, 2, 3]
    # each class of a task has one holder, so two clients of four hold nothing
    s = make_scenario(
        dataset(8, 4), Tasks(count=2), Partition(kind="dirichlet", beta=0.001, clients=12, min_samples=0), 0
    )
    counts = s.census(dataset(8, 4))
    for task in range(2):
        able = [c for c in range(12) if len(s.parts[task][c])]
        assert 0 < len(able) < 12
        assert counts.participants(task, 1, 1.0, 0) == able
        assert all(set(counts.participants(task, r, 0.1, 0)) <= set(able) for r in range(20))


def test_a_task_without_images_is_refused():
    data = dataset(3, 4)  # the fourth class has no images
    with pytest.raises(ConfigError, match=r"task 4 \(d\) has 0 training and 0 test"):
        make_scenario(data, Tasks(count=4), Partition(clients=1, min_samples=0), 0)


@given(data=st.data(), clients=st.integers(1, 4), told=st.booleans())
def test_a_census_is_the_same_when_it_is_read_back(data, clients, told):
    sizes = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    ends = np.cumsum(sizes)
    tasks = tuple(Task(t, int(end) - size, size) for t, (end, size) in enumerate(zip(ends, sizes, strict=True)))
    rng = np.random.default_rng(sum(sizes))
    shapes = [(len(sizes), clients), (2, len(sizes)), (clients, ends[-1]), (2, ends[-1]), (len(sizes),)]
    arrays = [rng.integers(0, 9, shape) for shape in shapes]
    census = Census(tasks, tuple(f"class {c}" for c in range(ends[-1])), *arrays[: 5 if told else 2])
    again = Census.from_table(json.loads(json.dumps(census.to_table())))
    assert (again.tasks, again.classes) == (census.tasks, census.classes)
    for name in ("train", "test", "by_class", "test_by_class", "distinct"):
        one, other = getattr(again, name), getattr(census, name)
        assert (one is None) == (other is None)
        if one is not None:
            assert one.dtype == np.int64
            np.testing.assert_array_equal(one, other)
