"""Response matching where it gets hard: Grams without full rank, features of odd units, float32, columns of zeros."""

import numpy as np
import reference
from hypothesis import given
from hypothesis import strategies as st
from problems import Problem, close, problems

from fcil.merging.response_matching import match, match_diagonal


@given(st.integers(0, 2**32 - 1))
def test_rank_deficient_grams_agree_with_the_pseudo_inverse_wherever_there_are_data(seed):
    p = Problem(seed, 5, 12, 3, 3, tokens=2)  # together 6 of 12 dimensions
    merged = match(p.start, p.thetas, p.grams)
    literal = reference.match(p.thetas, p.grams)
    data = np.concatenate(p.xs, 1)
    close(merged @ data, literal @ data, 1e-6)
    # What the data leave open stays as the diagonal solution has it: the correction of least norm, with features in
    # units of their own root mean square, is orthogonal in that metric to every direction without data.
    energy = np.diag(sum(p.grams))
    diagonal = match_diagonal(p.start, p.thetas, [np.diag(g) for g in p.grams])
    without_data = np.linalg.svd(data.T)[2][np.linalg.matrix_rank(data) :]
    assert np.abs((merged - diagonal) * energy @ without_data.T).max() < 1e-6 * energy.max()


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_identical_clients_are_a_fixed_point_and_one_client_is_unchanged_at_any_rank(seed, tokens):
    p = Problem(seed, 5, 12, 3, 3, tokens=tokens)
    close(match(p.start, [p.thetas[0]] * 3, p.grams), p.thetas[0], 1e-9)
    close(match(p.start, p.thetas[:1], p.grams[:1]), p.thetas[0], 1e-9)


@given(st.integers(0, 2**32 - 1), st.sampled_from([6, 12, 80]))
def test_one_client_and_copies_of_one_are_returned_to_the_last_digits_however_ill_conditioned_grams_are(seed, width):
    """A correction would divide by eigenvalues of 1e-5 what is rounding alone, and lose five digits of sixteen."""
    rng = np.random.default_rng(seed)
    theta, start = rng.standard_normal((2, 5, width))
    gram = reference.gram(np.linalg.qr(rng.standard_normal((width, width)))[0] * 10 ** -np.linspace(0, 2.4, width))
    for begin in (start, np.zeros_like(start)):
        np.testing.assert_allclose(match(begin, [theta], [gram]), theta, rtol=0, atol=5e-15)
        np.testing.assert_allclose(match(begin, [theta] * 3, [gram, 2 * gram, 3 * gram]), theta, rtol=0, atol=5e-15)


@given(st.integers(0, 2**32 - 1))
def test_what_float32_makes_of_a_singular_gram_is_not_taken_for_data(seed):
    """Rounding gives directions without data eigenvalues of about 1e-7 of the largest, of either sign."""
    p = Problem(seed, 5, 24, 3, 3, tokens=4)  # together 12 of 24 dimensions
    rounded = match(p.start, p.thetas, [g.astype(np.float32) for g in p.grams])
    exact = match(p.start, p.thetas, p.grams)
    assert np.abs(rounded - exact).max() < 1e-3 * np.abs(exact).max()


def test_a_feature_without_energy_keeps_the_start_and_an_unseen_direction_the_diagonal_solution():
    direction = np.array([1.0, 1.0, 0.0]) / np.sqrt(2)
    gram = np.outer(direction, direction)
    start, theta = np.array([[5.0, 1.0, 9.0]]), np.array([[0.0, 2.0, -1.0]])
    merged = match(start, [theta], [gram])
    unseen = np.array([1.0, -1.0, 0.0])
    close(merged @ unseen, theta @ unseen)  # the only client's own, not the start's
    close(merged @ direction, theta @ direction)
    assert merged[0, 2] == 9.0


@given(problems(tokens=2), st.integers(0, 2**32 - 1))
def test_units_of_single_features_cancel_even_without_full_rank(p, seed):
    units = 10.0 ** np.random.default_rng(seed).uniform(-4, 4, p.start.shape[1])
    plain = match(p.start, p.thetas, p.grams)
    scaled = match(p.start / units, [t / units for t in p.thetas], [units[:, None] * g * units for g in p.grams])
    close(scaled * units, plain, 1e-5)


@given(problems(), st.integers(0, 2**32 - 1))
def test_badly_scaled_features_keep_the_normal_equations(p, seed):
    units = 10.0 ** np.random.default_rng(seed).uniform(-4, 4, p.start.shape[1])
    xs = [units[:, None] * x for x in p.xs]
    merged = match(p.start, p.thetas, [reference.gram(x) for x in xs])
    stacked = np.concatenate(xs, 1)
    responses = np.concatenate([t @ x for t, x in zip(p.thetas, xs, strict=True)], 1)
    plain = (stacked / units[:, None]).T
    exact = (np.linalg.lstsq(plain, responses.T, rcond=None)[0].T) / units
    bound = max(1e-7, 1e-13 * np.linalg.cond(plain) ** 2)  # inputs that are nearly dependent whatever their units
    assert (np.abs(merged - exact).max(0) <= bound * np.abs(exact).max(0)).all()


@given(st.integers(0, 2**32 - 1), st.floats(0, 5.5))  # below 6, where the smallest eigenvalue meets the cut-off
def test_grams_rounded_to_float32_cost_next_to_nothing_in_responses(seed, decades):
    """Also where eigenvalues spread over many decades, in directions that no scaling of features separates."""
    p = Problem(seed, 4, 8, 2, 3)
    mixing = np.linalg.qr(p.rng.standard_normal((8, 8)))[0] * 10 ** -np.linspace(0, decades / 2, 8)
    xs = [mixing @ x for x in p.xs]
    grams = [reference.gram(x).astype(np.float32) for x in xs]
    merged = match(p.start, p.thetas, grams)
    stacked = np.concatenate(xs, 1)
    best = np.linalg.lstsq(
        stacked.T, np.concatenate([t @ x for t, x in zip(p.thetas, xs, strict=True)], 1).T, rcond=None
    )[0].T
    scale = reference.response_error(p.start, p.thetas, xs)
    excess = reference.response_error(merged, p.thetas, xs) - reference.response_error(best, p.thetas, xs)
    assert -1e-9 * scale <= excess <= 1e-4 * scale


@given(problems(), st.data())
def test_columns_without_energy_keep_the_start_and_are_never_nan(p, data):
    column = data.draw(st.integers(0, p.start.shape[1] - 1))
    for x in p.xs:
        x[column] = 0
    grams = [reference.gram(x) for x in p.xs]
    for merged in (match(p.start, p.thetas, grams), match_diagonal(p.start, p.thetas, [np.diag(g) for g in grams])):
        assert np.isfinite(merged).all()
        np.testing.assert_array_equal(merged[:, column], p.start[:, column])


def test_nothing_but_zeros_keeps_the_start():
    start, theta = np.ones((2, 3)), np.full((2, 3), 7.0)
    np.testing.assert_array_equal(match(start, [theta], [np.zeros((3, 3))]), start)
    np.testing.assert_array_equal(match_diagonal(start, [theta], [np.zeros(3)]), start)
