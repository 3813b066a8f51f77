"""Sums of Gram matrices, and their factors of few rows, against their definitions."""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import close

from fcil.statistics import gram_sum
from fcil.statistics.gram_sum import GramSum

seeds = st.integers(0, 2**32 - 1)


def summed(x, cuts=()):
    sums = GramSum(torch.zeros((0, x.shape[1]), dtype=torch.float64))
    for piece in np.split(x, sorted(cuts)):
        sums.add(torch.tensor(piece))
    return sums


def factor_of(x, rank, cuts=()):
    return summed(x, cuts).factor(rank)


@given(seeds, st.integers(1, 12), st.integers(0, 40), st.lists(st.integers(0, 40), max_size=4), st.integers(1, 20))
def test_a_gram_is_that_of_all_inputs_in_whatever_pieces_they_come(seed, size, samples, cuts, block):
    x = np.random.default_rng(seed).standard_normal((samples, size))
    with patch.object(gram_sum, "BLOCK", block):
        sums = summed(x, [min(cut, samples) for cut in cuts])
    np.testing.assert_allclose(sums.half(), (x.T @ x)[np.triu_indices(size)], atol=1e-13)
    sums.add(torch.ones((1, size), dtype=torch.float64))
    np.testing.assert_allclose(sums.half(), (x.T @ x + 1)[np.triu_indices(size)], atol=1e-13)


@given(seeds, st.integers(1, 12), st.integers(1, 15), st.integers(1, 40), st.lists(st.integers(0, 40), max_size=4))
def test_a_sketch_is_wrong_by_the_first_eigenvalue_that_it_leaves_out(seed, size, rank, samples, cuts):
    """Of at most M inputs, whose products with one another are used, and of more; in whatever pieces they come."""
    x = np.random.default_rng(seed).standard_normal((samples, size)) * 10.0 ** np.arange(0, -size, -1)
    gram = x.T @ x
    factor = factor_of(x, rank, [min(cut, samples) for cut in cuts])
    assert factor.shape == (min(rank, size), size)
    values = np.sort(np.linalg.svd(x, compute_uv=False) ** 2)[::-1]
    left_out = values[rank] if rank < len(values) else 0.0
    assert np.linalg.norm(gram - factor.T @ factor, 2) == pytest.approx(left_out, rel=1e-6, abs=1e-13 * values[0])
    within = np.linalg.eigvalsh(gram - factor.T @ factor)
    assert within[0] >= -1e-12 * values[0]  # nothing is made larger than it is


@pytest.mark.parametrize("samples", [5, 50], ids=["few", "many"])
def test_a_sketchs_rows_are_the_eigenvectors_by_the_roots_of_their_values(samples):
    x = np.random.default_rng(0).standard_normal((samples, 9))
    values, vectors = np.linalg.eigh(x.T @ x)
    expected = vectors[:, -3:] * np.sqrt(values[-3:])
    factor = factor_of(x, 3)
    close(factor * np.sign((factor * expected.T).sum(1, keepdims=True)), expected.T, 1e-9)


@pytest.mark.parametrize("samples", [0, 2, 9])
def test_a_sketch_of_nothing_is_nothing(samples):
    np.testing.assert_array_equal(factor_of(np.zeros((samples, 4)), 2), np.zeros((2, 4)))


def test_the_same_inputs_twice_and_none_at_all_are_no_trouble():
    x = np.random.default_rng(1).standard_normal((2, 6))
    twice = factor_of(np.concatenate([x, x, x * 0]), 4, [2, 2, 4])
    close(twice.T @ twice, 2 * x.T @ x, 1e-12)
