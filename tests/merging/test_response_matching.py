"""Response matching against literal equations and least squares, and what must hold for any input."""

import tracemalloc

import numpy as np
import pytest
import reference
from hypothesis import assume, given
from hypothesis import strategies as st
from problems import Problem, close, problems

from fcil.arrays import symmetric_half
from fcil.errors import MergeError
from fcil.merging import packed
from fcil.merging.response_matching import match, match_diagonal, merge_tasks


@given(problems())
def test_b_round_is_the_equation_and_the_least_squares_solution(p):
    merged = match(np.zeros_like(p.b), p.bs, p.ps)
    close(merged, reference.lorm_b(p.bs, p.a, p.xs))
    close(merged, reference.least_squares_b(p.bs, p.a, p.xs))


@given(problems())
def test_a_round_is_the_equation_and_the_least_squares_solution_for_the_shared_b(p):
    merged = match(p.a, p.as_, p.grams)
    close(merged, reference.lorm_a(p.as_, p.xs))
    close(merged, reference.least_squares_a(p.as_, p.b, p.xs), 1e-6)


@given(problems(), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_head_is_the_equation_at_any_shrink(p, amount):
    grams = [packed.whole(packed.shrunk(symmetric_half(g), amount)) for g in p.grams]
    for actual, g in zip(grams, p.grams, strict=True):
        np.testing.assert_allclose(actual, reference.shrunk(g, amount), rtol=1e-15)
    close(match(p.start, p.thetas, grams), reference.lorm_head(p.thetas, p.xs, amount))


@given(problems())
def test_diagonal_is_the_equation_and_the_full_path_with_diagonal_grams(p):
    merged = match_diagonal(p.a, p.as_, [np.diag(g) for g in p.grams])
    close(merged, reference.lorm_a(p.as_, p.xs, diagonal=True))
    close(merged, match(p.a, p.as_, [reference.diagonal_only(g) for g in p.grams]))


@given(problems())
def test_no_other_point_has_a_smaller_response_error(p):
    merged = match(p.start, p.thetas, p.grams)
    best = reference.response_error(merged, p.thetas, p.xs)
    for _ in range(5):
        other = merged + 0.01 * p.rng.standard_normal(merged.shape)
        assert reference.response_error(other, p.thetas, p.xs) >= best


@given(problems())
def test_normal_equations_hold(p):
    merged = match(p.start, p.thetas, p.grams)
    residue = sum((merged - theta) @ g for theta, g in zip(p.thetas, p.grams, strict=True))
    size = sum(np.abs(theta @ g).max() for theta, g in zip(p.thetas, p.grams, strict=True))
    assert np.abs(residue).max() <= 1e-9 * size


@given(problems(), st.floats(1e-6, 1e6))
def test_a_common_unit_of_all_grams_cancels(p, unit):
    close(match(p.start, p.thetas, [unit * g for g in p.grams]), match(p.start, p.thetas, p.grams))
    diagonals = [np.diag(g) for g in p.grams]
    close(
        match_diagonal(p.start, p.thetas, [unit * g for g in diagonals]), match_diagonal(p.start, p.thetas, diagonals)
    )


@given(problems())
def test_a_client_without_energy_has_no_influence(p):
    stranger, none = p.rng.standard_normal(p.start.shape) * 1e3, np.zeros((p.start.shape[1],) * 2)
    with_it = match(p.start, [*p.thetas, stranger], [*p.grams, none])
    np.testing.assert_array_equal(with_it, match(p.start, p.thetas, p.grams))
    diagonals = [np.diag(g) for g in p.grams]
    with_it = match_diagonal(p.start, [*p.thetas, stranger], [*diagonals, np.diag(none)])
    np.testing.assert_array_equal(with_it, match_diagonal(p.start, p.thetas, diagonals))


@given(problems())
def test_identical_clients_and_a_single_one_are_fixed_points(p):
    same = [p.thetas[0]] * len(p.grams)
    close(match(p.start, same, p.grams), p.thetas[0])
    close(match_diagonal(p.start, same, [np.diag(g) for g in p.grams]), p.thetas[0])
    close(match(p.start, same[:1], p.grams[:1]), p.thetas[0])
    close(match_diagonal(p.start, same[:1], [np.diag(p.grams[0])]), p.thetas[0])


@given(problems(few=2))
def test_order_of_clients_and_the_start_do_not_matter_at_full_rank(p):
    merged = match(p.start, p.thetas, p.grams)
    close(match(p.start, p.thetas[::-1], p.grams[::-1]), merged)
    close(match(5 * p.start + 1, p.thetas, p.grams), merged)


@given(problems(), st.floats(1e-3, 1e3))
def test_equal_isotropic_grams_give_the_plain_mean(p, c):
    eye = c * np.eye(p.start.shape[1])
    mean = np.mean(p.thetas, axis=0)
    close(match(p.start, p.thetas, [eye] * len(p.thetas)), mean)
    close(match_diagonal(p.start, p.thetas, [np.diag(eye)] * len(p.thetas)), mean)


@given(problems())
def test_b_round_does_not_depend_on_the_gauge(p):
    r = np.linalg.qr(p.rng.standard_normal((p.a.shape[0],) * 2))[0] * p.rng.uniform(0.5, 2, p.a.shape[0])
    other_a = np.linalg.inv(r) @ p.a
    # near the cut-off the two may fall on different sides of it
    assume(all(np.linalg.cond(a @ sum(p.grams) @ a.T) < 1e4 for a in (p.a, other_a)))
    merged = match(np.zeros_like(p.b), p.bs, p.ps) @ p.a
    other = match(np.zeros_like(p.b), [b @ r for b in p.bs], [other_a @ g @ other_a.T for g in p.grams]) @ other_a
    close(other, merged, 1e-7)


@given(problems())
def test_a_round_does_not_depend_on_the_gauge(p):
    r = np.linalg.qr(p.rng.standard_normal((p.a.shape[0],) * 2))[0] * p.rng.uniform(0.5, 2, p.a.shape[0])
    inverse = np.linalg.inv(r)
    close(r @ match(inverse @ p.a, [inverse @ a for a in p.as_], p.grams), match(p.a, p.as_, p.grams), 1e-7)


@given(problems(), st.data())
def test_tasks_in_factors_are_the_dense_formula(p, data):
    grams = [np.diag(g).copy() for g in p.grams]
    grams[0][data.draw(st.integers(0, p.a.shape[1] - 1))] = 0
    b, a = merge_tasks(list(zip(p.bs, p.as_, strict=True)), grams)
    assert b.shape[1] == a.shape[0] == p.a.shape[0] * len(p.bs)
    close(b @ a, reference.lorm_tasks(list(zip(p.bs, p.as_, strict=True)), grams))


def test_tasks_without_any_energy_in_a_column_change_nothing_there():
    pairs = [(np.ones((2, 1)), np.ones((1, 3))), (np.ones((2, 1)), np.ones((1, 3)))]
    b, a = merge_tasks(pairs, [np.array([1.0, 0, 3]), np.array([1.0, 0, 1])])
    np.testing.assert_array_equal(b @ a, [[1, 0, 1], [1, 0, 1]])


def test_one_task_is_its_own_module():
    rng = np.random.default_rng(0)
    pair = rng.standard_normal((5, 2)), rng.standard_normal((2, 7))
    b, a = merge_tasks([pair], [rng.uniform(0.1, 1, 7)])
    close(b @ a, pair[0] @ pair[1])


def test_inputs_are_not_changed():
    p = Problem(0, 3, 4, 2, 3)
    before = [x.copy() for x in (p.start, *p.thetas, *p.grams)]
    match(p.start, p.thetas, p.grams)
    match_diagonal(p.start, p.thetas, [np.diag(g) for g in p.grams])
    merge_tasks(list(zip(p.bs, p.as_, strict=True)), [np.diag(g) for g in p.grams])
    for now, then in zip((p.start, *p.thetas, *p.grams), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_diagonal_paths_make_no_square_matrix():
    """At 20,000 inputs a square matrix would take 3.2 GB; the factors themselves take 0.64 MB each."""
    width = 20_000
    rng = np.random.default_rng(0)
    thetas, grams = [rng.standard_normal((4, width)) for _ in range(3)], [rng.uniform(0, 1, width) for _ in range(3)]
    pairs = [(rng.standard_normal((6, 4)), a) for a in thetas]
    tracemalloc.start()
    match_diagonal(thetas[0], thetas, grams)
    merge_tasks(pairs, grams)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


@pytest.mark.parametrize("full", [True, False])
def test_wrong_shapes_and_empty_lists_are_refused(full):
    merge, one = (match, np.eye(3)) if full else (match_diagonal, np.ones(3))
    start = np.zeros((2, 3))
    with pytest.raises(MergeError, match="at least one; got 0, 0"):
        merge(start, [], [])
    with pytest.raises(MergeError, match="one Gram per client"):
        merge(start, [start, start], [one])
    with pytest.raises(MergeError, match=r"client 1: factor \(2, 4\)"):
        merge(start, [start, np.zeros((2, 4))], [one, one])
    with pytest.raises(MergeError, match=r"client 0: .*Gram \(4,"):
        merge(start, [start], [np.eye(4) if full else np.ones(4)])
    with pytest.raises(MergeError, match="one Gram per task"):
        merge_tasks([], [])


def test_the_wrong_kind_of_gram_is_refused():
    """A diagonal where a matrix belongs would broadcast to a wrong answer."""
    start = np.zeros((2, 3))
    with pytest.raises(MergeError):
        match(start, [start + 1], [np.ones(3)])
    with pytest.raises(MergeError):
        match_diagonal(start, [start + 1], [np.eye(3)])
