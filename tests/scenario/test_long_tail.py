"""How many training images of each class a long tail leaves, and which."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference_long_tail import nearest_count
from small import dataset

from fcil.config import from_table
from fcil.errors import ConfigError
from fcil.scenario.long_tail import kept_samples, tail_counts
from fcil.scenario.partition import Partition
from fcil.scenario.scenario import make_scenario
from fcil.scenario.tasks import Tasks, class_order

ONE = Partition(clients=1, min_samples=0)


def count(labels, kept, order):
    """Kept images of the class in each position of the order."""
    return np.bincount(labels[kept], minlength=len(order))[order]


def owned(scenario):
    return [np.sort(np.concatenate(parts)) for parts in scenario.parts]


@given(st.integers(1, 600), st.integers(1, 12), st.integers(1, 2000))
def test_counts_are_the_published_rule_in_exact_arithmetic(n_max, classes, rho):
    expected = [nearest_count(n_max, classes, rho, c) for c in range(classes)]
    assert tail_counts(n_max, classes, rho).tolist() == expected


@pytest.mark.parametrize(("n_max", "classes", "rho"), [(48, 7, 64), (400, 7, 64), (135, 3, 100), (5, 2, 2)])
def test_halves_go_up_where_powers_are_not_exact(n_max, classes, rho):
    """48 x 64^(-5/6) is 1.5; in floats it is 1.4999999999999998."""
    assert tail_counts(n_max, classes, rho).tolist() == [nearest_count(n_max, classes, rho, c) for c in range(classes)]


@given(st.integers(1, 10**5), st.integers(2, 300), st.floats(1, 1e6))
def test_counts_fall_from_n_max_to_its_share_and_no_class_is_lost(n_max, classes, rho):
    counts = tail_counts(n_max, classes, rho)
    assert counts.shape == (classes,)
    assert counts[0] == n_max
    assert (np.diff(counts) <= 0).all()
    assert counts[-1] >= 1
    assert counts[-1] == 1 or abs(counts[-1] - n_max / rho) <= 0.5 + 1e-9
    # a geometric series, and at most half an image of rounding a class (a whole one where 1 is the least)
    ratio = rho ** (-1 / (classes - 1))
    series = n_max * (classes if ratio == 1 else sum(ratio**c for c in range(classes)))
    assert -0.5 * classes - 1 <= counts.sum() - series <= classes + 1


@given(st.lists(st.integers(0, 5), min_size=0, max_size=60))
def test_at_one_all_samples_stay(labels):
    kept = kept_samples(np.array(labels, np.int64), np.arange(6), Tasks(), 0)
    np.testing.assert_array_equal(kept, np.arange(len(labels)))


@pytest.mark.parametrize("order", ["natural", "shuffled"])
def test_the_default_gives_every_task_all_samples_of_its_classes(order):
    data, settings = dataset(123, 6), Tasks(count=3, order=order)
    scenario = make_scenario(data, settings, Partition(clients=4, min_samples=1), 0)
    names = class_order("abcdef", settings, 0)
    for task, samples in zip(scenario.tasks, owned(scenario), strict=True):
        of_task = np.isin(data.train.labels, names[task.first : task.seen])
        np.testing.assert_array_equal(samples, np.flatnonzero(of_task))


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=8),
    st.floats(1, 500, exclude_min=True),
    st.sampled_from(["ordered", "shuffled"]),
    st.integers(0, 100),
)
def test_the_first_samples_of_each_class_stay_and_none_has_more_than_it_had(sizes, rho, tail_order, seed):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    order = rng.permutation(len(sizes))
    kept = kept_samples(labels, order, Tasks(long_tail=rho, tail_order=tail_order), seed)
    assert (np.diff(kept) > 0).all()
    whole = set()
    for c, size in enumerate(sizes):
        mine = kept[labels[kept] == c]
        np.testing.assert_array_equal(mine, np.flatnonzero(labels == c)[: len(mine)])
        assert 1 <= len(mine) <= size
        whole.add(len(mine) == size)
    assert True in whole  # the class in position 0 keeps all of its own
    if tail_order == "ordered":
        rule = tail_counts(sizes[order[0]], len(sizes), rho)
        np.testing.assert_array_equal(count(labels, kept, order), np.minimum(rule, np.array(sizes)[order]))


def test_ordered_falls_along_the_order_of_arrival_and_shuffled_permutes_the_same_counts():
    labels, order = np.arange(1000) % 10, np.arange(10)[::-1]
    ordered, shuffled, again, other = (
        count(labels, kept_samples(labels, order, Tasks(long_tail=20, tail_order=tail_order), seed), order)
        for tail_order, seed in (("ordered", 0), ("shuffled", 0), ("shuffled", 0), ("shuffled", 1))
    )
    assert ordered.tolist() == [nearest_count(100, 10, 20, c) for c in range(10)]
    np.testing.assert_array_equal(shuffled, again)
    for drawn in (shuffled, other):
        np.testing.assert_array_equal(np.sort(drawn), np.sort(ordered))
        assert not np.array_equal(drawn, ordered)
    assert not np.array_equal(shuffled, other)


def test_the_tails_draw_is_its_own_the_shuffled_class_order_is_another_permutation():
    """Were both drawn alike, the tail would undo or repeat the class order."""
    labels, natural = np.arange(20_000) % 20, np.arange(20)
    order = class_order([str(c) for c in range(20)], Tasks(order="shuffled"), 3)
    counts = count(labels, kept_samples(labels, natural, Tasks(long_tail=50, tail_order="shuffled"), 3), natural)
    assert len(set(counts)) == 20  # no ties: the counts tell the permutation
    falling = np.argsort(-counts)
    assert not np.array_equal(falling, order)
    assert not np.array_equal(falling, np.argsort(order))


@pytest.mark.parametrize("tail_order", ["ordered", "shuffled"])
def test_every_partition_and_stream_shares_out_the_same_images_and_tests_stay(tail_order):
    data = dataset(240, 6)
    tasks = Tasks(count=3, order="shuffled", long_tail=8, tail_order=tail_order)
    whole = make_scenario(data, Tasks(count=3, order="shuffled"), ONE, 5)
    one = make_scenario(data, tasks, ONE, 5)
    expected = [nearest_count(40, 6, 8, c) for c in range(6)]
    held = np.bincount(data.train.labels[np.concatenate(owned(one))], minlength=6)
    np.testing.assert_array_equal(np.sort(held)[::-1], expected)
    if tail_order == "ordered":
        np.testing.assert_array_equal(held[one.order], expected)
    shared = [(kind, "federated") for kind in ("dirichlet", "quantity", "iid")]
    for kind, stream in [*shared, ("iid", "pooled")]:
        other = make_scenario(data, tasks, Partition(kind=kind, clients=3, min_samples=1), 5, stream)
        for mine, theirs in zip(owned(one), owned(other), strict=True):
            np.testing.assert_array_equal(mine, theirs)
        for test, before in zip(other.tests, whole.tests, strict=True):
            np.testing.assert_array_equal(test, before)
    once = make_scenario(data, tasks, ONE, 5, "at_once")
    np.testing.assert_array_equal(once.parts[2][0], np.sort(np.concatenate(owned(one))))


def test_too_few_images_for_the_clients_say_that_the_tail_took_them():
    data, partition = dataset(240, 6), Partition(clients=4, min_samples=6)
    make_scenario(data, Tasks(count=3), partition, 0)
    with pytest.raises(ConfigError) as caught:
        make_scenario(data, Tasks(count=3, long_tail=20), partition, 0)
    left = sum(nearest_count(40, 6, 20, c) for c in (2, 3))
    for words in ("partition.min_samples = 6", "lower tasks.long_tail = 20", f"leaves task 2 only {left} training"):
        assert words in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        make_scenario(data, Tasks(count=3), Partition(clients=40, min_samples=6), 0)
    assert "long_tail" not in str(caught.value)


def test_a_tail_that_begins_with_a_class_without_images_is_refused():
    with pytest.raises(ConfigError, match=r"tasks.long_tail = 2: class 1 .* has none; raise data.train_limit"):
        kept_samples(np.array([0, 0, 2]), np.array([1, 0, 2]), Tasks(long_tail=2), 0)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"long_tail": 0.5}, "tasks.long_tail = 0.5: must be at least 1"),
        ({"long_tail": float("inf")}, "finite"),
        ({"tail_order": "order"}, "Did you mean 'ordered'?"),
    ],
)
def test_settings_that_mean_nothing_are_refused(entry, message):
    with pytest.raises(ConfigError) as caught:
        from_table([("a.toml", {"tasks": entry})])
    assert message in str(caught.value)


def test_an_order_without_a_tail_is_refused():
    with pytest.raises(ConfigError, match=r'tasks\.tail_order = "shuffled": of which tail'):
        kept_samples(np.zeros(3, np.int64), np.arange(1), Tasks(tail_order="shuffled"), 0)
