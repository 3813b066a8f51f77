"""Splits: every sample once, enough for everyone, skewed as asked, the same for the same generator."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcil.errors import ConfigError
from fcil.scenario.partition import Partition, split


def rng(seed=0):
    return np.random.default_rng(seed)


def labels_of(classes, each, seed=0):
    return rng(seed).permutation(np.repeat(np.arange(classes), each))


@given(
    st.sampled_from(["dirichlet", "quantity", "iid"]), st.integers(1, 8), st.integers(1, 6), st.integers(30, 60),
    st.floats(0.3, 10), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_every_sample_has_one_owner_and_every_client_enough(kind, clients, classes, each, beta, seed):
    labels = labels_of(classes, each, seed) + 3
    settings = Partition(kind=kind, clients=clients, beta=beta, classes_per_client=classes, min_samples=2)
    parts = split(labels, settings, rng(seed))
    assert len(parts) == clients
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    for part in parts:
        assert len(part) >= 2
        assert (np.diff(part) > 0).all()
    again = split(labels, settings, rng(seed))
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


def shares(beta, clients=5, classes=400, each=200):
    """(classes, clients) share of each class that each client holds."""
    labels = labels_of(classes, each)
    parts = split(labels, Partition(clients=clients, beta=beta, min_samples=0), rng(1))
    return np.stack([np.bincount(labels[part], minlength=classes) for part in parts], 1) / each


@pytest.mark.parametrize("beta", [0.1, 0.5, 1.0, 5.0])
def test_shares_have_the_moments_of_a_dirichlet_and_a_categorical_draw(beta):
    """E p = 1/K; Var p = (1/K)(1 - 1/K)/(K beta + 1), plus the multinomial part E p(1-p)/n."""
    k, n = 5, 200
    s = shares(beta)
    var = (1 / k) * (1 - 1 / k) / (k * beta + 1)
    multinomial = (1 / k - 1 / k**2 - var) / n
    assert s.mean(0) == pytest.approx(np.full(k, 1 / k), abs=4 * np.sqrt((var + multinomial) / 400))
    assert s.var() == pytest.approx(var + multinomial, rel=0.15)


@pytest.mark.parametrize(("clients", "beta", "least"), [(5, 0.5, 6), (3, 0.1, 0), (1, 1.0, 1)])
def test_a_dirichlet_split_is_the_literal_rule(clients, beta, least):
    """Class by class p ~ Dir(beta), sample by sample the client in whose part of [0, 1) a number falls."""
    labels = labels_of(4, 40, 1)
    ours = split(labels, Partition(clients=clients, beta=beta, min_samples=least), rng(7))
    draws, held = rng(7), [[] for _ in range(clients)]
    while min(map(len, held)) < least or not any(held):
        held = [[] for _ in range(clients)]
        for c in range(4):
            edges = np.cumsum(draws.dirichlet([beta] * clients))
            edges /= edges[-1]
            samples = [place for place, label in enumerate(labels) if label == c]
            for sample, number in zip(samples, draws.random(len(samples)), strict=True):
                held[next(k for k in range(clients) if number < edges[k])].append(sample)
    assert [part.tolist() for part in ours] == [sorted(part) for part in held]


def test_skew_falls_with_beta_and_classes_are_drawn_independently():
    assert shares(0.05).max(1).mean() > shares(0.5).max(1).mean() > shares(50.0).max(1).mean()
    s = shares(0.5)
    assert abs(np.corrcoef(s[:-1, 0], s[1:, 0])[0, 1]) < 0.2


@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 6), st.integers(0, 1000))
def test_quantity_gives_each_client_its_number_of_classes_and_every_class_a_holder(clients, classes, each, seed):
    labels = labels_of(classes, 40, seed)
    settings = Partition(kind="quantity", clients=clients, classes_per_client=each, min_samples=0)
    if clients * min(each, classes) < classes:
        with pytest.raises(ConfigError, match=f"raise it to {int(np.ceil(classes / clients))}"):
            split(labels, settings, rng(seed))
        return
    held = [set(labels[part]) for part in split(labels, settings, rng(seed))]
    assert all(len(h) == min(each, classes) for h in held)
    holders = [sum(c in h for h in held) for c in range(classes)]
    assert min(holders) >= 1
    assert max(holders) - min(holders) <= 1


def test_quantity_breaks_ties_at_random_and_every_class_is_as_likely_for_every_client():
    """Two of six classes are one of 15 pairs: over 300 seeds a client has each, and each class about 100 times."""
    labels, settings = labels_of(6, 12), Partition(kind="quantity", clients=4, classes_per_client=2, min_samples=0)
    held = [[frozenset(labels[part]) for part in split(labels, settings, rng(seed))] for seed in range(300)]
    for of_client in zip(*held, strict=True):
        assert len(set(of_client)) == 15
        times = [sum(c in pair for pair in of_client) for c in range(6)]
        assert max(abs(t - 100) for t in times) < 5 * np.sqrt(300 * 1 / 3 * 2 / 3)
    for of_seed in held:
        assert sorted(sum(c in pair for pair in of_seed) for c in range(6)) == [1, 1, 1, 1, 2, 2]


@given(st.integers(1, 9), st.integers(10, 50))
def test_iid_is_even(clients, n):
    sizes = [len(p) for p in split(np.zeros(n, int), Partition(kind="iid", clients=clients, min_samples=1), rng())]
    assert max(sizes) - min(sizes) <= 1


def test_impossible_splits_say_what_to_change():
    with pytest.raises(ConfigError, match=r"partition.clients = 5.*takes 30"):
        split(np.zeros(29, int), Partition(clients=5), rng())
    with pytest.raises(ConfigError, match=r"partition.beta = 0.001.*raise beta"):
        split(np.zeros(60, int), Partition(clients=10, beta=0.001), rng())
    labels = np.repeat([0, 1], [198, 2])
    with pytest.raises(ConfigError, match=r"partition.min_samples = 6: client \d would hold"):
        split(labels, Partition(kind="quantity", clients=2, classes_per_client=1), rng())
