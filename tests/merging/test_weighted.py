"""RegMean, Fisher averaging and MaTS as closed forms: literal equations, and what must hold for any input."""

from itertools import pairwise

import numpy as np
import pytest
import reference
import reference_peers as literal
from hypothesis import given
from hypothesis import strategies as st
from problems import close

from fcil.errors import MergeError
from fcil.merging import packed
from fcil.merging.lowrank import LowRank, dense
from fcil.merging.mats import conjugate_gradients, kronecker_match
from fcil.merging.weighted import fisher_mean, gram_mean


class Models:
    """Low-rank changes with Fishers and Grams of full rank, unless there are fewer tokens than inputs."""

    def __init__(self, seed, out, width, clients, tokens=None):
        self.rng = rng = np.random.default_rng(seed)
        ranks = rng.integers(1, 4, clients)
        self.changes = [LowRank(rng.normal(size=(out, r)), rng.normal(size=(r, width))) for r in ranks]
        self.dense = [dense(change) for change in self.changes]
        self.fishers = [rng.exponential(size=(out, width)) for _ in range(clients)]
        self.weights = list(rng.dirichlet(np.ones(clients)))
        self.inputs = [reference.gram(rng.normal(size=(width, tokens or 5 * width))) for _ in range(clients)]
        self.outputs = [reference.gram(rng.normal(size=(out, tokens or 5 * out))) for _ in range(clients)]

    @property
    def grams(self):
        return [literal.half(g) for g in self.inputs]

    @property
    def outers(self):
        return [literal.half(s) for s in self.outputs]


@st.composite
def models(draw, tokens=None, few=1):
    sides = draw(st.integers(2, 6)), draw(st.integers(2, 6))
    return Models(draw(st.integers(0, 2**32 - 1)), *sides, draw(st.integers(few, 4)), tokens)


def solved(m, iterations=1000, tolerance=1e-13):
    return kronecker_match(m.changes, m.grams, m.outers, iterations, tolerance).x


# ---- Fisher ----------------------------------------------------------------------------------------------------------


@given(models(), st.sampled_from([1e-6, 0.1, 1.0]))
def test_fisher_is_the_equation_and_stays_within_the_models(m, floor):
    merged = fisher_mean(m.changes, m.fishers, m.weights, floor)
    close(merged, literal.fisher_mean(m.dense, m.fishers, m.weights, floor))
    assert (merged <= np.max(m.dense, 0) + 1e-9).all()
    assert (merged >= np.min(m.dense, 0) - 1e-9).all()


@given(models(), st.floats(1e-6, 1e6))
def test_fisher_in_another_unit_is_the_same_and_the_same_fisher_for_all_is_the_mean(m, unit):
    merged = fisher_mean(m.changes, m.fishers, m.weights)
    close(fisher_mean(m.changes, [unit * f for f in m.fishers], m.weights), merged)
    equal = fisher_mean(m.changes, [m.fishers[0]] * len(m.changes), [1 / len(m.changes)] * len(m.changes))
    close(equal, np.mean(m.dense, 0))


@given(models(few=2))
def test_fisher_that_dominates_is_that_model_and_none_at_all_is_the_weighted_mean(m):
    huge = [f * (1e12 if i == 0 else 1.0) for i, f in enumerate(m.fishers)]
    close(fisher_mean(m.changes, huge, m.weights, 1e-12), m.dense[0], 1e-6)
    nothing = [np.zeros_like(f) for f in m.fishers]
    mean = sum(w * d for w, d in zip(m.weights, m.dense, strict=True))
    close(fisher_mean(m.changes, nothing, m.weights), mean)
    silent = [*m.fishers[:-1], nothing[-1]]
    without = m.weights[:-1]
    close(
        fisher_mean(m.changes, silent, [*without, 0.0]),
        fisher_mean(m.changes[:-1], m.fishers[:-1], without),
    )


# ---- RegMean ---------------------------------------------------------------------------------------------------------


@given(models(), st.sampled_from([0.0, 0.5, 0.95, 1.0]))
def test_regmean_is_the_equation_in_factors(m, shrink):
    merged = gram_mean(m.changes, m.grams, shrink)
    assert merged.rank == sum(change.rank for change in m.changes)
    close(dense(merged), reference.match(m.dense, [reference.shrunk(g, shrink) for g in m.inputs]), 1e-6)


@given(models())
def test_regmean_of_diagonals_is_shrunk_to_nothing(m):
    diagonals = [np.diag(g).copy() for g in m.inputs]
    close(dense(gram_mean(m.changes, diagonals)), dense(gram_mean(m.changes, m.grams, 0.0)))


@given(models())
def test_regmean_normal_equations_unit_grams_shift_and_scale(m):
    merged = dense(gram_mean(m.changes, m.grams))
    rest = sum((merged - d) @ g for d, g in zip(m.dense, m.inputs, strict=True))
    assert np.abs(rest).max() <= 1e-8 * max(np.abs(g).max() for g in m.inputs) * max(1, np.abs(m.dense).max())
    unit = [literal.half(np.eye(len(m.inputs[0])))] * len(m.changes)
    close(dense(gram_mean(m.changes, unit)), np.mean(m.dense, 0))
    close(dense(gram_mean(m.changes, [3e5 * g for g in m.grams])), merged, 1e-6)
    shift = m.changes[0]
    moved = [LowRank(np.hstack([c.b, shift.b]), np.vstack([c.a, shift.a])) for c in m.changes]
    close(dense(gram_mean(moved, m.grams)), merged + dense(shift), 1e-6)


@given(models(tokens=1))
def test_regmean_of_copies_is_the_copy_at_any_rank_of_the_grams_and_a_zero_gram_counts_nothing(m):
    copies = [m.changes[0]] * len(m.changes)
    close(dense(gram_mean(copies, m.grams)), m.dense[0], 1e-6)
    silent = [*m.grams, np.zeros_like(m.grams[0])]
    close(dense(gram_mean([*m.changes, m.changes[0].times(9.0)], silent)), dense(gram_mean(m.changes, m.grams)), 1e-6)


@given(st.integers(1, 9), st.floats(0, 1))
def test_a_shrunk_half_is_the_half_of_the_shrunk(n, amount):
    gram = reference.gram(np.random.default_rng(n).normal(size=(n, n)))
    np.testing.assert_allclose(packed.shrunk(literal.half(gram), amount), literal.half(reference.shrunk(gram, amount)))


# ---- MaTS ------------------------------------------------------------------------------------------------------------


@given(models())
def test_mats_solves_the_equation(m):
    close(solved(m), literal.mats(m.dense, m.inputs, m.outputs), 1e-5)


@given(models())
def test_mats_without_gradients_is_regmean_and_without_inputs_too_the_mean(m):
    m.outputs = [np.eye(len(s)) for s in m.outputs]
    close(solved(m), dense(gram_mean(m.changes, m.grams)), 1e-6)
    m.inputs = [np.eye(len(g)) for g in m.inputs]
    close(solved(m), np.mean(m.dense, 0))


@given(models(tokens=1))
def test_mats_of_copies_is_the_copy_at_any_rank_of_the_grams(m):
    m.changes = [m.changes[0]] * len(m.changes)
    close(solved(m), m.dense[0], 1e-6)


@given(models())
def test_mats_moves_with_what_all_models_have_in_common(m):
    merged, shift = solved(m), m.changes[0]
    m.changes = [LowRank(np.hstack([c.b, shift.b]), np.vstack([c.a, shift.a])) for c in m.changes]
    close(solved(m), merged + dense(shift), 1e-5)


@given(models(few=2))
def test_every_step_of_conjugate_gradients_is_nearer_in_the_norm_of_the_equation(m):
    exact = literal.mats(m.dense, m.inputs, m.outputs)

    def error(iterations):
        e = kronecker_match(m.changes, m.grams, m.outers, iterations, 1e-13).x - exact
        return sum(np.sum(e * (s @ e @ g)) for s, g in zip(m.outputs, m.inputs, strict=True))

    errors = [error(k) for k in range(5)]
    scale = sum(np.sum(exact * (s @ exact @ g)) for s, g in zip(m.outputs, m.inputs, strict=True)) + errors[0]
    assert all(later <= earlier + 1e-12 * scale for earlier, later in pairwise(errors))


def test_conjugate_gradients_stop_when_asked_and_need_no_more_steps_than_unknowns():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 6))
    system, right = x @ x.T + np.eye(6), rng.normal(size=6)

    def jacobi(r):
        return r / np.diag(system)

    result = conjugate_gradients(lambda v: system @ v, right, np.zeros(6), jacobi, 100, 1e-10)
    np.testing.assert_allclose(result.x, np.linalg.solve(system, right), rtol=1e-8)
    assert result.iterations <= 7
    assert result.residual <= 1e-10
    early = conjugate_gradients(lambda v: system @ v, right, np.zeros(6), jacobi, 100, 0.5)
    assert early.iterations < result.iterations
    assert np.linalg.norm(right - system @ early.x) <= 0.5 * np.linalg.norm(right)
    again = conjugate_gradients(lambda v: system @ v, right, result.x, jacobi, 100, 1e-9)
    assert again.iterations == 0  # a warm start that is good enough


def test_conjugate_gradients_on_a_singular_system_end_where_only_what_it_cannot_see_is_left():
    """Half of the right-hand side is in no range. The second direction has no curvature, and no step along it helps."""

    def apply(v):
        return np.diag([1.0, 0.0]) @ v

    result = conjugate_gradients(apply, np.ones(2), np.zeros(2), lambda r: r, 100, 1e-10)
    assert np.isfinite(result.x).all()
    assert result.iterations == 1
    assert result.residual == np.linalg.norm(np.ones(2) - apply(result.x)) / np.sqrt(2)


@given(models(few=2), st.lists(st.floats(0.1, 10), min_size=4, max_size=4))
def test_mats_of_models_with_the_same_grams_takes_a_step(m, factors):
    """The preconditioner then is the inverse, but for its ridge."""
    grams = [f * m.grams[0] for f in factors[: len(m.changes)]]
    result = kronecker_match(m.changes, grams, [m.outers[0]] * len(grams), tolerance=1e-4)
    assert result.iterations <= 1
    close(result.x, np.average(m.dense, 0, factors[: len(m.changes)]), 1e-2)


@pytest.mark.parametrize("seed", range(3))
def test_mats_converges_where_inputs_and_gradients_are_ill_conditioned(seed):
    """As in ViTs: a few directions that all models share hold nearly all energy."""
    rng, m = np.random.default_rng(seed), Models(seed, 24, 20, 4)
    for grams in (m.inputs, m.outputs):
        n = len(grams[0])
        mix = np.linalg.qr(rng.normal(size=(n, n)))[0] * np.logspace(0, -2.5, n)
        grams[:] = [
            reference.gram(mix @ np.diag(np.exp(rng.normal(0, 0.5, n))) @ rng.normal(size=(n, 5 * n))) for _ in grams
        ]
    result = kronecker_match(m.changes, m.grams, m.outers)
    assert result.residual <= 1e-6
    close(result.x, literal.mats(m.dense, m.inputs, m.outputs), 1e-2)


@given(models())
def test_updates_of_zero_and_grams_of_zero_give_a_change_of_zero(m):
    still = [change.times(0.0) for change in m.changes]
    assert not fisher_mean(still, m.fishers, m.weights).any()
    assert not dense(gram_mean(still, m.grams)).any()
    assert not kronecker_match(still, m.grams, m.outers).x.any()
    nothing = [np.zeros_like(g) for g in m.grams]
    assert not dense(gram_mean(m.changes, nothing)).any()
    assert not kronecker_match(m.changes, nothing, m.outers).x.any()


def test_bad_input_is_refused():
    m = Models(0, 4, 3, 2)
    for merge in (fisher_mean, kronecker_match):
        with pytest.raises(MergeError):
            merge([], [], [])
    with pytest.raises(MergeError):
        gram_mean([], [])
    with pytest.raises(MergeError, match="each model"):
        gram_mean(m.changes, m.grams[:1])
    with pytest.raises(MergeError, match="model 1"):
        gram_mean(m.changes, [m.grams[0], m.grams[1][:2]])
    with pytest.raises(MergeError, match="model 0"):
        kronecker_match(m.changes, m.outers, m.grams)
    with pytest.raises(MergeError, match="not negative"):
        fisher_mean(m.changes, [m.fishers[0], -m.fishers[1]], m.weights)
    with pytest.raises(MergeError, match="finite"):
        fisher_mean(m.changes, [m.fishers[0], m.fishers[1] * np.nan], m.weights)
