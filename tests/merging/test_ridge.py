"""Closed forms of sums against their definitions on samples."""

from itertools import pairwise
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import close
from sklearn.linear_model import Ridge as Sklearn

from fcil.arrays import symmetric_half
from fcil.errors import MergeError
from fcil.merging import packed
from fcil.merging import ridge as ridge_module
from fcil.merging.ridge import (
    FALLBACK,
    GRID,
    NEVER,
    best_penalty,
    biases,
    class_means,
    held_out_errors,
    ridge_rows,
    transport,
    transported,
)

seeds = st.integers(0, 2**32 - 1)


def problem(seed, samples=40, width=6, classes=3):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((samples, width)), np.eye(classes)[rng.integers(0, classes, samples)]


def half(x):
    return symmetric_half(x.T @ x)


@given(seeds, st.integers(1, 60), st.integers(1, 12), st.floats(1e-2, 1e3))
def test_rows_are_scikit_learns(seed, samples, width, penalty):
    x, y = problem(seed, samples, width)
    close(ridge_rows(half(x), y.T @ x, penalty), Sklearn(alpha=penalty, fit_intercept=False).fit(x, y).coef_)


def test_a_class_without_samples_has_a_zero_row_and_never_wins():
    x, y = problem(0)
    y = np.concatenate([y, np.zeros((len(y), 1))], 1)
    rows, bias = ridge_rows(half(x), y.T @ x, 1.0), biases(y.sum(0))
    np.testing.assert_array_equal(rows[3], 0)
    np.testing.assert_array_equal(bias, [0, 0, 0, NEVER])
    assert ((x @ rows.T + bias).argmax(1) < 3).all()
    assert np.isfinite(np.float32(NEVER))


def test_a_penalty_too_small_for_the_sums_is_told():
    x = np.zeros((3, 4))
    with pytest.raises(MergeError, match=r"raise method\.penalty"):
        ridge_rows(half(x), np.zeros((2, 4)), 0.0)


@given(seeds)
def test_held_out_error_is_the_squared_error_on_the_samples_themselves(seed):
    (x, y), rows = problem(seed), np.random.default_rng([seed, 1]).standard_normal((3, 6))
    errors = held_out_errors([rows, 2 * rows, 0 * rows], half(x), y.T @ x, len(x))
    close(errors, [np.square(share * x @ rows.T - y).sum() for share in (1, 2, 0)])


@given(seeds)
def test_the_best_penalty_is_the_one_with_the_lowest_error_on_held_out_samples(seed):
    (x, y), (x_held, y_held) = problem(seed, 12), problem(seed + 1, 9)
    unit = (np.square(x).sum(0) + np.square(x_held).sum(0)).mean()

    def error(penalty):
        h = Sklearn(alpha=penalty, fit_intercept=False).fit(x, y)
        return np.square(h.predict(x_held) - y_held).sum()

    chosen = best_penalty(half(x), y.T @ x, (half(x_held), y_held.T @ x_held, len(x_held)))
    assert chosen == pytest.approx(unit * min(GRID, key=lambda share: error(unit * share)))


def test_without_held_out_samples_there_is_nothing_to_choose_by():
    x, y = problem(0)
    nothing = np.zeros((0, 6))
    chosen = best_penalty(half(x), y.T @ x, (half(nothing), np.zeros((3, 6)), 0))
    assert chosen == pytest.approx(FALLBACK * np.square(x).sum(0).mean())


def test_class_means_of_a_class_without_samples_are_zero():
    np.testing.assert_array_equal(class_means(np.array([[2.0, 4.0], [0.0, 0.0]]), np.array([2, 0])), [[1, 2], [0, 0]])


# ---- transport -------------------------------------------------------------------------------------------------------


def transport_of(phi, new, strength=1e-9):
    return transport(new.T @ phi, half(phi), strength)


@given(seeds)
def test_a_linear_change_of_features_is_carried_exactly(seed):
    phi, _ = problem(seed, 60)
    old, y_old = problem(seed + 1, 30)
    change = np.random.default_rng([seed, 2]).standard_normal((6, 6))
    gram, q = transported(transport_of(phi, phi @ change.T, 1e-13), half(old), y_old.T @ old)
    moved = old @ change.T
    close(packed.whole(gram), moved.T @ moved, 1e-6)
    close(q, y_old.T @ moved, 1e-6)


@given(seeds, st.floats(1e-6, 1e3))
def test_features_that_have_not_changed_change_nothing(seed, strength):
    phi, _ = problem(seed, 60)
    gram, q = transported(transport_of(phi, phi, strength), half(phi), np.ones((2, 6)))
    close(gram, half(phi))
    close(q, np.ones((2, 6)))


def test_a_strength_towards_infinity_leaves_the_sums_as_they_are():
    phi, y = problem(0)
    new, _ = problem(1)
    distances = [np.abs(transport_of(phi, new, strength) - np.eye(6)).max() for strength in (1.0, 1e3, 1e6, 1e9)]
    assert all(later < 2e-3 * before for before, later in pairwise(distances[1:]))
    gram, q = transported(transport_of(phi, new, 1e12), half(phi), y.T @ phi)
    close(gram, half(phi), 1e-9)
    close(q, y.T @ phi, 1e-9)


def test_transport_is_the_minimiser_of_its_objective():
    """T minimises sum ||T phi - phi'||^2 + mu ||T - I||^2: response matching with the identity as its anchor."""
    phi, _ = problem(0)
    new, _ = problem(1)
    mu = 0.3 * np.square(phi).sum(0).mean()
    t = transport_of(phi, new, 0.3)
    close((t @ phi.T - new.T) @ phi + mu * (t - np.eye(6)), np.zeros((6, 6)))


def test_nobodys_samples_carry_nothing():
    nothing = np.zeros((0, 4))
    np.testing.assert_array_equal(transport_of(nothing, nothing), np.eye(4))


def test_errors_of_many_solutions_are_those_of_each_however_few_are_taken_at_a_time():
    x, y = problem(3, samples=90, width=70)
    solutions = [ridge_rows(half(x), y.T @ x, penalty) for penalty in (100.0, 1.0, 1e-3)]
    expected = [np.square(x @ rows.T - y).sum() for rows in solutions]
    for rows in (1, 6, 1024):
        with patch.object(ridge_module, "ROWS", rows):
            close(held_out_errors(solutions, half(x), y.T @ x, len(x)), expected)


def test_the_memory_that_solutions_share_changes_none_of_them():
    x, y = problem(4, samples=200, width=70)
    space = np.zeros((70, 70))
    for penalty in (1.0, 1e-3, 10.0):
        alone = ridge_rows(half(x), y.T @ x, penalty)
        np.testing.assert_array_equal(ridge_rows(half(x), y.T @ x, penalty, space), alone)
        assert not np.tril(space, -1).any()
    with pytest.raises(MergeError, match="not positive definite"):
        ridge_rows(half(x * 0), y.T @ x, 0.0, space)
    np.testing.assert_array_equal(ridge_rows(half(x), y.T @ x, 1.0, space), ridge_rows(half(x), y.T @ x, 1.0))
