"""Class moments: pooled over any split they are those of all data, and odd ones are refused."""

import numpy as np
import pytest
import reference_gaussians
import torch
from hypothesis import given
from hypothesis import strategies as st

from fcil.arrays import total
from fcil.method import Task
from fcil.statistics.class_moments import COUNTS, MEANS, ClassMoments, scatter_of

TASK = Task(1, 3, 3)
WIDTH = 4


def sent(statistic, features, labels, batch=5):
    """What a client with these features sends."""
    arrays = {"head.1.weight": np.zeros((TASK.size, WIDTH))}
    collector = statistic.start(arrays, type("Model", (), {"device": torch.device("cpu")}), None)
    for begin in range(0, len(labels), batch):
        part = slice(begin, begin + batch)
        collector.batch(torch.tensor(features[part]), torch.tensor(labels[part]) + TASK.first, None)
    return collector.finish()


@given(st.integers(0, 40), st.integers(1, 4), st.integers(0, 99), st.booleans(), st.sampled_from([0.0, 30.0]))
def test_pooled_moments_are_those_of_all_data(samples, clients, seed, diagonal, offset):
    """Classes of one sample, of none, and features far from zero."""
    rng = np.random.default_rng(seed)
    features = (offset + rng.normal(size=(samples, WIDTH))).astype("f4")
    labels, owners = rng.integers(0, rng.integers(1, 4), samples), rng.integers(0, clients, samples)
    statistic = ClassMoments(TASK, diagonal)
    replies = [sent(statistic, features[owners == k], labels[owners == k]) for k in range(clients)]
    for reply, k in zip(replies, range(clients), strict=True):
        assert {n: a.shape for n, a in reply.items()} == dict(statistic.shapes({"head.1.weight": (3, WIDTH)}))
        assert statistic.objection(reply, int((owners == k).sum())) is None
    counts, means, covariances = statistic.pooled(total([statistic.sums(reply) for reply in replies]))
    for c in range(TASK.size):
        own = features[labels == c].astype(float)
        assert counts[c] == len(own)
        if not len(own):
            assert not means[c].any()
            assert not covariances[c].any()
            continue
        parts = [features[(labels == c) & (owners == k)].astype(float) for k in range(clients)]
        _, mean, covariance = reference_gaussians.pooled([reference_gaussians.moments(p) for p in parts if len(p)])
        central = np.cov(own.T) if len(own) > 1 else np.zeros((WIDTH, WIDTH))
        np.testing.assert_allclose(covariance, central, atol=1e-9 * max(1, offset**2))
        tolerance = 1e-5 * max(1.0, offset)  # float32 on the wire
        np.testing.assert_allclose(means[c], mean, atol=tolerance)
        ours = np.diag(covariances[c]) if diagonal else covariances[c]
        theirs = np.diag(np.diagonal(central)) if diagonal else central
        np.testing.assert_allclose(ours, theirs, atol=10 * tolerance * max(1.0, offset))


def test_moments_that_no_samples_have_are_refused():
    statistic, rng = ClassMoments(TASK), np.random.default_rng(0)
    good = sent(statistic, rng.normal(size=(6, WIDTH)).astype("f4"), np.zeros(6, int))
    assert statistic.objection(good, 6) is None
    assert "add up to 6, not to the 7" in str(statistic.objection(good, 7))
    assert "whole numbers" in str(statistic.objection({**good, COUNTS: good[COUNTS] / 4}, 6))
    for name in (MEANS, scatter_of(1)):
        odd = {**good, name: np.ones_like(good[name])}
        assert "class 1 of the task has no samples" in str(statistic.objection(odd, 6))


@pytest.mark.parametrize("diagonal", [False, True])
def test_batches_do_not_matter_and_variances_are_never_below_zero(diagonal):
    statistic = ClassMoments(TASK, diagonal)
    features = np.full((9, WIDTH), 1e4, np.float32) + np.float32(1e-3)
    one, other = (sent(statistic, features, np.zeros(9, int), batch) for batch in (1, 9))
    for name, a in one.items():
        np.testing.assert_allclose(a, other[name], atol=1e-3)
    variances = one[scatter_of(0)] if diagonal else np.diagonal(statistic.pooled(statistic.sums(one))[2][0])
    assert one[scatter_of(0)][0] >= 0
    assert (variances >= -1e-6).all()
