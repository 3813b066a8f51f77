"""Splits of public code: sample for sample the literal rule, and what every one of them promises."""

from itertools import pairwise

import numpy as np
import pytest
import reference_splits
from hypothesis import given
from hypothesis import strategies as st
from small import dataset

from fcil.errors import ConfigError
from fcil.scenario import published
from fcil.scenario.partition import Partition, split
from fcil.scenario.scenario import make_scenario
from fcil.scenario.tasks import Tasks


def rng(seed=0):
    return np.random.default_rng(seed)


def uneven(seed, most=40):
    """Labels of up to five classes of unequal sizes, in a random order."""
    draw = rng(seed)
    sizes = draw.integers(1, most, draw.integers(1, 6))
    return draw.permutation(np.repeat(2 + np.arange(len(sizes)), sizes))


def same(ours, theirs):
    if theirs is None:
        assert ours is None
        return
    assert [sorted(part) for part in ours] == [sorted(part) for part in theirs]


@given(st.integers(0, 10**6), st.integers(1, 7), st.sampled_from([0.05, 0.3, 1.0, 20.0]))
def test_cuts_with_a_cap_are_the_literal_rule(seed, clients, beta):
    labels = uneven(seed)
    theirs = reference_splits.capped(labels.tolist(), clients, beta, rng(seed))
    same(published.dirichlet_capped(labels, clients, beta, rng(seed)), theirs)


@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(1, 5))
def test_shared_classes_are_the_literal_rule(seed, clients, each):
    labels = uneven(seed)
    each = min(each, len(set(labels)))
    theirs = reference_splits.shared(labels.tolist(), clients, each, rng(seed))
    same(published.shared_classes(labels, clients, each, rng(seed)), theirs)


@given(st.integers(0, 10**6), st.integers(1, 9), st.sampled_from([0.1, 1.0, 10.0]), st.sampled_from([0.01, 0.5, 3.0]))
def test_a_power_law_is_the_literal_rule_and_gives_every_client_about_its_size(seed, clients, beta, exponent):
    labels = uneven(seed)
    parts = published.power_law(labels, clients, beta, exponent, rng(seed))
    same(parts, reference_splits.power_law(labels.tolist(), clients, beta, exponent, rng(seed)))
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    classes, draw = np.unique(labels), rng(seed)
    for c in classes:
        draw.shuffle(np.flatnonzero(labels == c))
    more = np.array([len(part) for part in parts]) - reference_splits.sizes(len(labels), clients, exponent, draw)
    assert more.max() <= len(classes) / 2


def test_nobody_is_given_more_of_a_class_once_it_holds_its_part_of_all():
    """A client with n / K samples gets nothing of later classes, the last one but for a sample left by rounding."""
    labels = np.repeat(np.arange(10), 50)
    left = []
    for seed in range(60):
        parts = published.dirichlet_capped(labels, 12, 0.1, rng(seed))
        for client, part in enumerate(parts or []):
            of_class = np.bincount(labels[part], minlength=10)
            before = np.cumsum(of_class) - of_class
            beyond = of_class[before >= len(labels) / 12]
            assert beyond.max(initial=0) <= (client == 11)
            left.append(beyond.sum())
    assert max(left) > 0


def test_the_cap_makes_sizes_more_equal_than_samples_drawn_one_by_one():
    labels = np.repeat(np.arange(10), 100)

    def spread(kind):
        settings = Partition(kind=kind, clients=5, beta=0.1, min_samples=0)
        return np.mean([np.std([len(p) for p in split(labels, settings, rng(seed))]) for seed in range(30)])

    assert spread("dirichlet_capped") < 0.7 * spread("dirichlet")


def test_sizes_grow_equal_with_the_exponent():
    labels = np.repeat(np.arange(10), 100)

    def spread(exponent):
        return np.mean(
            [np.std([len(p) for p in published.power_law(labels, 8, 1, exponent, rng(s))]) for s in range(20)]
        )

    spreads = [spread(exponent) for exponent in (0.3, 1, 3, 30)]
    assert all(more > less for more, less in pairwise(spreads))


@given(st.sampled_from(["dirichlet_capped", "power_law"]), st.integers(1, 6), st.integers(0, 1000))
def test_every_sample_has_one_owner_and_every_client_enough(kind, clients, seed):
    labels = rng(seed).permutation(np.repeat(np.arange(4), 40))
    settings = Partition(kind=kind, clients=clients, beta=1.0, min_samples=3)
    parts = split(labels, settings, rng(seed))
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    assert all(len(part) >= 3 and (np.diff(part) > 0).all() for part in parts)


@pytest.mark.parametrize(("classes", "settings", "each"), [
    (10, {"classes_per_client": 6}, 6),  # GLFC: 6 of the 10 classes of a task
    (60, {"class_share": 0.6}, 36),  # UOPP: 36 of 60 base classes and 3 of 5 later ones
    (5, {"class_share": 0.6}, 3),
    (100, {"class_share": 0.29}, 29),
    (3, {"classes_per_client": 6}, 3),
])  # fmt: skip
def test_shared_classes_of_the_papers(classes, settings, each):
    labels = np.repeat(np.arange(classes), 4)
    parts = split(labels, Partition(kind="shared_classes", clients=30, min_samples=1, **settings), rng())
    for part in parts:
        np.testing.assert_array_equal(np.unique(labels[part], return_counts=True)[1], [4] * each)
    assert len(np.unique(np.concatenate(parts))) == len(labels)


def test_one_split_over_the_whole_gives_a_client_the_same_shares_before_tasks_are_cut():
    data = dataset(240, 6)
    one, three = (
        make_scenario(
            data, Tasks(count=count), Partition(kind="dirichlet_capped", over="whole", clients=4, min_samples=10), 7
        )
        for count in (1, 3)
    )
    labels = data.train.labels
    for client in range(4):
        of_tasks = [parts[client] for parts in three.parts]
        np.testing.assert_array_equal(np.sort(np.concatenate(of_tasks)), one.parts[0][client])
        assert len(one.parts[0][client]) >= 10
        for task, part in zip(three.tasks, of_tasks, strict=True):
            assert set(three.positions[labels[part]]) <= set(task.positions)
            assert (np.diff(part) > 0).all()
    # the same rule on the whole: whoever is full after the first tasks has nothing of the last
    skewed = make_scenario(
        data, Tasks(count=6), Partition(kind="dirichlet_capped", over="whole", clients=4, beta=0.1, min_samples=10), 7
    )
    sizes = np.array([[len(part) for part in parts] for parts in skewed.parts])
    assert (sizes == 0).any()
    assert (sizes.sum(0) >= 10).all()
    census = skewed.census(data)
    for task in range(6):
        assert census.participants(task, 1, 1.0, 0) == np.flatnonzero(sizes[task]).tolist()


def test_shared_images_are_counted_at_each_holder_and_once():
    data = dataset(120, 6)
    scenario = make_scenario(data, Tasks(count=3), Partition(kind="shared_classes", clients=4, min_samples=1,
                             classes_per_client=1), 0)  # fmt: skip
    census = scenario.census(data)
    for task in range(3):
        assert census.shared(task) == 40
        assert census.train[task].sum() == 80  # four clients with one class of twenty images each
    apart = make_scenario(data, Tasks(count=3), Partition(clients=4, min_samples=1), 0).census(data)
    assert [apart.shared(task) for task in range(3)] == [0, 0, 0]


@given(st.integers(1, 30), st.sampled_from(["iid", "dirichlet_capped"]), st.sampled_from([1, 4]))
def test_few_shots_leave_the_first_images_of_later_classes(shots, kind, rho):
    data = dataset(120, 6)
    one = Partition(kind=kind, clients=1, min_samples=1)
    whole, few = (make_scenario(data, Tasks(sizes=(2, 3, 1), shots=n, long_tail=rho), one, 0) for n in (0, shots))
    np.testing.assert_array_equal(few.parts[0][0], whole.parts[0][0])
    for before, now in zip(whole.parts[1:], few.parts[1:], strict=True):
        kept = [before[0][data.train.labels[before[0]] == c][:shots] for c in np.unique(data.train.labels[before[0]])]
        np.testing.assert_array_equal(now[0], np.sort(np.concatenate(kept)))


@pytest.mark.parametrize(("partition", "tasks", "message"), [
    ({"kind": "dirichlet_capped", "clients": 13, "beta": 0.01, "min_samples": 3}, {}, r"beta = 0.01: in 20 draws"),
    ({"kind": "power_law", "clients": 13, "exponent": 0.01, "min_samples": 3}, {}, r"exponent = 0.01: in 20 draws"),
    ({"kind": "shared_classes", "clients": 3, "classes_per_client": 2}, {"count": 1}, "a class that nobody drew"),
    ({"kind": "shared_classes", "clients": 2, "classes_per_client": 1}, {"count": 1}, "a task of 6 .*raise it to 3"),
    ({"kind": "shared_classes", "clients": 2, "class_share": 0.2}, {"count": 1}, r"share = 0.2.*raise it to 0.5"),
    ({"clients": 4}, {"shots": 3}, r"raise tasks.shots = 3, which leaves task 2 only 6 training images"),
    ({"clients": 30, "over": "whole"}, {}, "a training part with 120 training samples cannot give each"),
])  # fmt: skip
def test_splits_that_cannot_be_say_what_to_change(partition, tasks, message, monkeypatch):
    monkeypatch.setattr("fcil.scenario.partition.ATTEMPTS", 20)
    with pytest.raises(ConfigError, match=message):
        make_scenario(dataset(120, 6), Tasks(**{"count": 3, **tasks}), Partition(**partition), 0)
