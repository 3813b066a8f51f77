"""Generalised cross-validation from sums against its definition on samples, and the search for its least."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference_features import gcv_of_samples, one_hot

from fcil.arrays import symmetric_half
from fcil.merging import packed
from fcil.merging.cross_validation import STEPS, generalised_error, least_generalised_error
from fcil.merging.ridge import FALLBACK

seeds = st.integers(0, 2**32 - 1)


def problem(seed, samples, width, classes=4, rank=None, offset=0.0, decay=0.0):
    """Samples about one point per class; `offset` is shared by all, and entry i is scaled by (i + 1)^-decay."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, samples)
    x = rng.standard_normal((classes, width))[labels] + rng.standard_normal((samples, width)) + offset
    x *= (1.0 + np.arange(width)) ** -decay
    if rank is not None:
        x = x @ rng.standard_normal((width, rank)) @ rng.standard_normal((rank, width))
    return x, one_hot(labels, classes)


def from_sums(x, y, penalty):
    return generalised_error(packed.upper(symmetric_half(x.T @ x)), y.T @ x, len(x), penalty)


def chosen(x, y):
    return least_generalised_error(symmetric_half(x.T @ x), y.T @ x, len(x))


def unit_of(x):
    return np.square(x).sum(0).mean()


def loss_of_digits(x, y, penalty):
    """The share of (residual, degrees of freedom left) that float64 may get wrong, in relative terms, from samples.

    RSS and tr(I - S) are differences of n and of M: with fewer samples than features both shrink with the penalty,
    while rounding, eps times the condition, grows.
    """
    n, width = x.shape
    values = np.linalg.eigvalsh(x @ x.T).clip(0)
    left = float((penalty / (values + penalty)).sum())
    residual = gcv_of_samples(x, y, penalty) * left**2 / n
    rounding = 4 * np.finfo(float).eps * np.square(x).sum() / penalty
    return rounding * n / residual, rounding * width / left


def assert_from_sums_as_from_samples(x, y, penalty):
    """Equal as far as digits are left; infinite where, and only where, as much may be rounding as there is."""
    of_residual, of_left = loss_of_digits(x, y, penalty)
    error = from_sums(x, y, penalty)
    if max(of_residual, of_left) < 0.5:
        assert error == pytest.approx(gcv_of_samples(x, y, penalty), rel=1e-5 + of_residual + 2 * of_left)
    elif max(of_residual, of_left) > 2:
        assert error == np.inf


@given(seeds, st.integers(1, 60), st.integers(1, 40), st.sampled_from(STEPS[:13]))
def test_from_sums_it_is_what_the_hat_matrix_gives_with_more_samples_than_features_or_fewer(seed, n, width, share):
    x, y = problem(seed, n, width)
    assert_from_sums_as_from_samples(x, y, share * unit_of(x))


def test_one_sample_whose_residual_is_less_than_rounding_has_an_infinite_error():
    """lambda / (v + lambda) of it is left, here 1e-5: its square is 1e-10 of the target, as much as rounding may be."""
    x, y = problem(0, 1, 11)
    assert loss_of_digits(x, y, 1e-4 * unit_of(x))[0] > 1
    assert from_sums(x, y, 1e-4 * unit_of(x)) == np.inf
    assert_from_sums_as_from_samples(x, y, 1e-2 * unit_of(x))


@given(seeds, st.integers(1, 5), st.sampled_from(STEPS[:13]), st.sampled_from([1e-6, 1.0, 1e6]))
def test_features_without_full_rank_and_of_any_scale_are_no_exception(seed, rank, share, scale):
    x, y = problem(seed, 30, 12, rank=rank)
    x = x * scale
    assert_from_sums_as_from_samples(x, y, share * unit_of(x))


@given(seeds, st.sampled_from([1e-3, 1.0, 1e3]))
def test_the_scale_of_features_only_moves_the_penalty(seed, scale):
    x, y = problem(seed, 60, 10)
    (small, error), (large, again) = chosen(x, y), chosen(scale * x, y)
    assert large == pytest.approx(scale**2 * small, rel=1e-9)
    assert again == pytest.approx(error, rel=1e-9)


def test_features_that_are_zero_say_nothing():
    x, y = np.zeros((9, 4)), one_hot(np.arange(9) % 3, 3)
    assert from_sums(x, y, 0.7) == pytest.approx(1.0)  # n sum |y|^2 / n^2
    assert np.isfinite(chosen(x, y)).all()


def test_without_samples_the_penalty_is_the_fallback_and_the_error_infinite():
    assert chosen(np.zeros((0, 4)), np.zeros((0, 3))) == (FALLBACK, np.inf)


def test_a_matrix_that_is_no_gram_has_no_error():
    indefinite = np.triu(np.array([[1.0, 2.0], [2.0, 1.0]]))
    assert generalised_error(indefinite, np.zeros((1, 2)), 5, 0.5) == np.inf
    assert np.isfinite(generalised_error(indefinite, np.zeros((1, 2)), 5, 1.5))


def test_the_sums_are_left_as_they_are():
    x, y = problem(0, 20, 5)
    matrix, q = packed.upper(symmetric_half(x.T @ x)), y.T @ x
    kept = matrix.copy(), q.copy()
    generalised_error(matrix, q, 20, 1.0)
    np.testing.assert_array_equal(matrix, kept[0])
    np.testing.assert_array_equal(q, kept[1])


@given(seeds, st.integers(5, 80), st.integers(1, 30), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 1.0]))
def test_the_choice_is_a_penalty_of_the_steps_whose_neighbours_are_no_better(seed, n, width, decay, offset):
    x, y = problem(seed, n, width, decay=decay, offset=offset)
    unit = unit_of(x)
    penalty, error = chosen(x, y)
    step = int(np.argmin([abs(np.log(penalty / unit / share)) for share in STEPS]))
    assert penalty == pytest.approx(unit * STEPS[step], rel=1e-9)
    if step >= 14:
        return  # so weak that rounding speaks; see below
    of_residual, of_left = loss_of_digits(x, y, penalty)
    tolerance = 1e-5 + of_residual + 2 * of_left
    assert error == pytest.approx(gcv_of_samples(x, y, penalty), rel=tolerance)
    for near in {max(step - 1, 0), min(step + 1, len(STEPS) - 1)}:
        assert gcv_of_samples(x, y, unit * STEPS[near]) >= error * (1 - 4 * tolerance)


def scanned(x, y):
    """(the least error of all penalties, the error at the one that was chosen), both from samples."""
    unit = unit_of(x)
    return min(gcv_of_samples(x, y, unit * share) for share in STEPS), gcv_of_samples(x, y, chosen(x, y)[0])


def test_on_typical_features_the_search_ends_at_the_least_of_all_penalties():
    """GCV may have several minima: of 60 problems the search may miss the least one rarely, and never by much."""
    worse = []
    for seed in range(60):
        n, width = (30, 90, 300)[seed % 3], (10, 40, 120)[seed // 3 % 3]
        least, got = scanned(*problem(seed, n, width, decay=(0.0, 0.7)[seed % 2], offset=(0.0, 2.0)[seed // 2 % 2]))
        worse.append(got / least - 1)
    assert max(worse) < 0.05
    assert sum(excess > 1e-4 for excess in worse) <= 3


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("n", "width"), [(40, 300), (120, 500)])
def test_more_features_than_samples_of_which_one_direction_is_strong_do_not_lead_to_rounding_errors(seed, n, width):
    """As a ViT's: all features share a large mean. The unit is large then, and good penalties are weak ones."""
    x, y = problem(seed, n, width, offset=30.0)
    penalty, error = chosen(x, y)
    least, _ = scanned(x, y)
    assert error == pytest.approx(gcv_of_samples(x, y, penalty), rel=0.05)
    assert error >= 0.9 * least


@pytest.mark.parametrize("share", STEPS)
def test_an_error_that_rounding_has_made_is_never_lower_than_the_true_one_by_much(share):
    """Where more is lost than is left, the error may be infinite; it must not look like a good one."""
    for seed, (n, width) in enumerate([(30, 60), (200, 600), (60, 500)]):
        x, y = problem(seed, n, width)
        penalty = share * unit_of(x)
        assert from_sums(x, y, penalty) >= 0.9 * gcv_of_samples(x, y, penalty)


def test_where_weak_penalties_are_unknown_the_search_begins_at_a_stronger_one():
    """A sum of low rank that is not that of the targets: errors from a tenth of the unit on are infinite."""
    x, y = problem(3, 400, 80)
    w, v = np.linalg.eigh(x.T @ x)
    low = (v[:, -6:] * w[-6:]) @ v[:, -6:].T
    matrix, q, unit = packed.upper(symmetric_half(low)), y.T @ x, np.trace(low) / 80
    errors = [generalised_error(matrix, q, 400.0, unit * share) for share in STEPS]
    assert np.isinf(errors[5:8]).all()
    assert least_generalised_error(symmetric_half(low), q, 400.0)[1] == min(errors)
