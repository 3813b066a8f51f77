"""The head's calibration: drawn features have the class's moments, and training is plain gradient descent."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fcil.merging.calibration import calibrated, drawn
from fcil.seeding import generator


@pytest.mark.parametrize("diagonal", [False, True])
def test_drawn_features_have_the_moments_that_were_asked_for(diagonal):
    rng = generator(0, "moments")
    factor, mean = rng.normal(size=(4, 4)), rng.normal(size=4)
    covariance = np.diag(np.square(factor[0])) if diagonal else factor @ factor.T
    x = drawn(mean, np.diagonal(covariance) if diagonal else covariance, 40_000, rng)
    np.testing.assert_allclose(x.mean(0), mean, atol=0.06)
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.25)


def test_a_class_without_spread_is_its_mean_and_rounding_below_zero_is_zero():
    mean = np.array([1.0, -2.0])
    for covariance in (np.zeros((2, 2)), np.zeros(2), -1e-12 * np.eye(2), np.full(2, -1e-12)):
        assert (drawn(mean, covariance, 3, generator(0, "x")) == mean).all()


@given(st.booleans(), st.integers(2, 5), st.integers(0, 99), st.sampled_from([1.0, 100.0]))
def test_training_is_that_of_torch(normalise, classes, seed, scale):
    """A literal loss, automatic differentiation and torch's own SGD, in float64."""
    rng = np.random.default_rng(seed)
    rows, biases = rng.normal(size=(classes, 3)), rng.normal(size=classes)
    features, labels = scale * rng.normal(size=(7, 3)), rng.integers(0, classes, 7)
    order = [rng.permutation(7)[:size] for size in (4, 3, 1, 7)]
    w, b = (torch.tensor(a, requires_grad=True) for a in (rows, biases))
    optimizer = torch.optim.SGD([w, b], lr=0.02, momentum=0.9)
    for batch in order:
        logits = torch.tensor(features[batch]) @ w.T + b
        if normalise:
            logits = logits / logits.square().sum(1, keepdim=True).sqrt() / 0.1
        loss = sum(torch.logsumexp(z, 0) - z[y] for z, y in zip(logits, labels[batch], strict=True)) / len(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ours = calibrated(rows, biases, features, labels, order, 0.02, normalise=normalise)
    np.testing.assert_allclose(ours[0], w.detach(), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(ours[1], b.detach(), rtol=1e-9, atol=1e-9)


def test_no_steps_change_nothing():
    rows, biases = np.ones((2, 3)), np.ones(2)
    ours = calibrated(rows, biases, np.ones((4, 3)), np.zeros(4, int), [], 1.0)
    np.testing.assert_array_equal(ours[0], rows)
    np.testing.assert_array_equal(ours[1], biases)
