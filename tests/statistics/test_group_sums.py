"""Sums by class and random group, and G as it is estimated from them."""

from types import SimpleNamespace

import numpy as np
import pytest
import reference_baselines3 as literal
import torch
from hypothesis import given
from hypothesis import strategies as st

from fcil.arrays import nbytes
from fcil.merging import packed
from fcil.method import ClientUpdate, Task
from fcil.statistics.feature_map import FeatureMap
from fcil.statistics.features import GRAM, class_sums, counts
from fcil.statistics.group_sums import GroupSums, estimated_gram, group_counts, group_of

TASK = Task(1, 2, 3)
SHAPES = {"head.1.weight": (0, 4)}
MODEL = SimpleNamespace(device=torch.device("cpu"))


def sent_by(statistic, x, labels, samples, cut=2):
    collector = statistic.start({"head.1.weight": np.zeros((0, 4))}, MODEL, None)
    for at in (slice(0, cut), slice(cut, None)):
        collector.batch(torch.tensor(x[at]), torch.tensor(labels[at]) + TASK.first, samples[at])
    return collector.finish()


@pytest.mark.parametrize("all_groups", [True, False], ids=["all", "present"])
@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 4), st.integers(1, 7))
def test_the_estimate_is_the_papers_for_any_clients(all_groups, seed, clients, groups, samples):
    rng, statistic = np.random.default_rng(seed), GroupSums(TASK, groups=groups, all_groups=all_groups)
    held, updates = [], []
    for client in range(clients):
        x, labels = rng.normal(1, 2, (samples, 4)), rng.integers(0, 3, samples)
        numbers = rng.choice(1000, samples, replace=False)
        held.append((x, labels, group_of(0, numbers, groups)))
        updates.append(ClientUpdate(client, 0, samples, {}, sent_by(statistic, x, labels, numbers)))
        assert statistic.objection(updates[-1].statistics, samples) is None
    total = statistic.total(updates)
    wanted = sum(
        literal.grouped_gram([(x[y == c], g[y == c]) for x, y, g in held], groups, all_groups) for c in range(3)
    )
    np.testing.assert_allclose(packed.whole(total[GRAM]), wanted, rtol=1e-9, atol=1e-9)
    x, labels = (np.concatenate([part[i] for part in held]) for i in (0, 1))
    np.testing.assert_allclose(total[class_sums(1)], np.eye(3)[labels].T @ x, atol=1e-12)
    np.testing.assert_array_equal(total[counts(1)], np.bincount(labels, minlength=3))
    assert np.linalg.eigvalsh(packed.whole(total[GRAM])).min() > -1e-9


def test_one_sample_a_group_and_class_gives_g_itself():
    x = np.random.default_rng(0).normal(size=(3, 4, 2, 5))  # clients, groups, classes, M
    for all_groups in (True, False):
        ours = estimated_gram(list(x), [np.ones((4, 2))] * 3, all_groups)
        np.testing.assert_allclose(ours, x.reshape(-1, 5).T @ x.reshape(-1, 5), atol=1e-12)


def test_with_groups_that_lack_the_class_left_out_it_is_right_on_average_and_else_too_small():
    rng, x = np.random.default_rng(1), np.random.default_rng(2).normal(2, 1, (30, 3))
    means = []
    for all_groups in (True, False):
        estimates = []
        for _ in range(2000):
            groups = rng.permutation(np.arange(30) % 6)
            s, n = np.zeros((10, 1, 3)), np.zeros((10, 1))  # of ten groups four have no sample of the class
            np.add.at(s[:, 0], groups, x)
            np.add.at(n[:, 0], groups, 1)
            estimates.append(estimated_gram([s], [n], all_groups))
        means.append(np.mean(estimates, 0))
    outer = np.outer(x.sum(0), x.sum(0)) / 30
    np.testing.assert_allclose(means[1] - outer, x.T @ x - outer, atol=0.15 * np.trace(x.T @ x - outer))
    np.testing.assert_allclose(np.trace(means[0] - outer) / np.trace(means[1] - outer), 5 / 9, rtol=0.05)


@pytest.mark.parametrize(("wire", "size"), [("float64", 8), ("float32", 4)])
def test_what_is_sent_is_as_long_as_the_formula_says(wire, size):
    statistic = GroupSums(TASK, FeatureMap(random=7), groups=5, wire=wire)
    x, labels, numbers = np.ones((6, 4), np.float32), np.array([0, 0, 1, 1, 2, 2]), np.arange(6)
    sent = sent_by(statistic, x, labels, numbers)
    assert nbytes(sent) == size * 5 * 3 * (7 + 1)
    assert {n: a.shape for n, a in sent.items()} == statistic.shapes(SHAPES)
    short = {**sent, group_counts(1): sent[group_counts(1)] * 0}
    assert "add up to 0" in str(statistic.objection(short, 6))


def test_a_samples_group_is_its_own_and_all_groups_are_used_evenly():
    one, other = np.arange(3000), np.arange(3000)[::-1] + 5000
    np.testing.assert_array_equal(group_of(3, np.concatenate([other, one]), 5)[3000:], group_of(3, one, 5))
    assert np.abs(np.bincount(group_of(3, one, 5)) - 600).max() < 100
    assert not np.array_equal(group_of(4, one, 5), group_of(3, one, 5))
