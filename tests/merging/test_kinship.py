"""Greedy merging by kinship: SLERP and the search against literal ones on dense models, and what they must keep to."""

from itertools import pairwise

import numpy as np
import pytest
import reference_peers as literal
from hypothesis import given
from hypothesis import strategies as st
from test_similarity import flat, in_another_basis, models

from fcil.errors import MergeError
from fcil.merging.expert import Expert
from fcil.merging.kinship import evolve, slerp
from fcil.merging.lowrank import dense
from fcil.merging.similarity import grams, kinships
from fcil.registry import build_method

seeds = st.integers(0, 2**32 - 1)


def merged(experts, **settings):
    result = dict(build_method("kinship", {"rank": 2, **settings}).combine(experts, lambda *p: None))
    return {layer: dense(change) for layer, change in result.items()}


def experts(many):
    return [Expert(changes) for changes in many]


def least_akin(change, many):
    v = np.concatenate([c.ravel() for c in change.values()])
    return min(v @ flat(m) / np.linalg.norm(v) / np.linalg.norm(flat(m)) for m in many)


@given(seeds)
def test_slerp_is_the_formula_with_sines_at_one_half(seed):
    many = models(seed)[:2]
    each = grams(many)
    result = slerp(np.tile([1.0, 0], (2, 1)), np.tile([0.0, 1], (2, 1)), np.array(list(each.values())))
    for row, layer in zip(result, each, strict=True):
        a, b = (dense(m[layer]).ravel() for m in many)
        angle = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        np.testing.assert_allclose(row, np.sin(angle / 2) / np.sin(angle), rtol=1e-9)


def test_slerp_of_orthogonal_equals_keeps_their_length_and_of_parallel_ones_is_the_mean():
    left, right = np.array([[1.0, 0]]), np.array([[0, 1.0]])
    np.testing.assert_allclose(slerp(left, right, np.eye(2)[None] * 4), [[np.sqrt(0.5)] * 2])
    for gram in ([[1, 2], [2, 4]], [[1, -1], [-1, 1]], [[0, 0], [0, 0]]):
        np.testing.assert_array_equal(slerp(left, right, np.array([gram], float)), [[0.5, 0.5]])


@given(seeds, st.integers(2, 6), st.integers(2, 4), st.integers(0, 6), st.sampled_from([0.3, 0.8, 0.95, 1.0]))
def test_the_search_is_the_literal_one_on_dense_models(seed, n, top, generations, near):
    many = models(seed, n, (1, 2, 3, 1, 2, 3))
    result = merged(experts(many), top=top, generations=generations, near=near)
    wanted = literal.evolve([[dense(c) for c in m.values()] for m in many], top, generations, near)
    for layer, change in zip(many[0], wanted, strict=True):
        np.testing.assert_allclose(result[layer], change, rtol=1e-7, atol=1e-9)


def test_the_best_model_is_merged_with_a_stranger_even_if_that_is_not_among_the_best():
    """Of three the last is like neither of the others, so the two others are the parents."""
    gram = np.array([[1, 0.5, 0.1], [0.5, 1, 0.05], [0.1, 0.05, 1]])
    rows = np.linalg.cholesky(gram)
    wanted = literal.evolve([[row[None]] for row in rows], 2, 1, 0.95)
    np.testing.assert_allclose(evolve(gram[None], 2, 1, 0.95) @ rows, wanted[0], rtol=1e-9)
    np.testing.assert_allclose(wanted[0], literal.slerp([rows[:1]], [rows[2:]])[0], rtol=1e-9)


@given(seeds, st.integers(2, 5))
def test_the_smallest_kinship_never_falls_from_one_generation_to_the_next(seed, top):
    many = models(seed, 5, (1, 2, 3, 1, 2))
    gram = np.array(list(grams(many).values()))

    def score(generations):
        rows = dict(zip(many[0], evolve(gram, top, generations, 0.99), strict=True))
        whole = {n: sum(w * dense(m[n]) for w, m in zip(row, many, strict=True)) for n, row in rows.items()}
        return least_akin(whole, many)

    scores = [score(generations) for generations in range(5)]
    assert all(after >= before - 1e-9 for before, after in pairwise(scores))
    assert scores[0] == pytest.approx(max(kinships(many).min(1)), abs=1e-9)


def test_of_two_that_are_each_others_least_akin_the_better_mean_decides():
    """Two such pairs; one of each is also akin to one of the other pair."""
    gram = np.array([[1, -0.5, 0.3, 0], [-0.5, 1, 0, 0], [0.3, 0, 1, -0.5], [0, 0, -0.5, 1]])
    assert np.flatnonzero(evolve(gram[None], 2, 0, 0.95)[0])[0] in (0, 2)


@given(seeds)
def test_two_equally_long_models_of_one_layer_meet_half_way(seed):
    many = [{"first": m["first"].times(1 / np.linalg.norm(dense(m["first"])))} for m in models(seed)[:2]]
    result = merged(experts(many))
    for layer in result:
        a, b = (dense(m[layer]) for m in many)
        cosine = np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)
        np.testing.assert_allclose(result[layer], (a + b) / 2 / np.sqrt((1 + cosine) / 2), rtol=1e-8, atol=1e-10)


@given(seeds, st.integers(1, 4))
def test_copies_of_one_model_are_that_model(seed, n):
    one = models(seed)[0]
    result = merged(experts([one] * n))
    for layer, change in one.items():
        np.testing.assert_allclose(result[layer], dense(change), rtol=1e-12)


@given(seeds)
def test_order_scale_and_basis_are_respected(seed):
    many = models(seed)
    first = merged(experts(many))
    other = merged(experts([in_another_basis(m, seed) for m in many[::-1]]))
    tripled = merged(experts([{layer: c.times(3.0) for layer, c in m.items()} for m in many]))
    for layer, change in first.items():
        np.testing.assert_allclose(other[layer], change, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(tripled[layer], 3 * change, rtol=1e-8, atol=1e-10)


def test_those_without_examples_do_not_count_and_nobody_is_an_error():
    many = models(1)
    result, without = merged([*experts(many[:2]), Expert(many[2], 0.0)]), merged(experts(many[:2]))
    for layer in without:
        np.testing.assert_array_equal(result[layer], without[layer])
    with pytest.raises(MergeError, match="no expert"):
        merged([Expert(many[0], 0.0)])
    with pytest.raises(MergeError, match="empty"):
        merged([])


def test_changes_of_zero_stay_zero():
    still = [{layer: c.times(0.0) for layer, c in m.items()} for m in models(2)]
    assert not any(change.any() for change in merged(experts(still)).values())
