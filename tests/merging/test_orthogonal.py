"""Rows orthogonal to earlier ones: properly, and by the classical Gram-Schmidt that public code applies."""

import numpy as np
import pytest
import reference_pools
from hypothesis import given
from hypothesis import strategies as st

from fcil.errors import MergeError
from fcil.merging.orthogonal import gram_schmidt, orthonormal_rows
from fcil.seeding import generator


@given(st.integers(0, 5), st.integers(1, 4), st.integers(9, 14), st.sampled_from([1.0, 1e-6, 1e6]), st.integers(0, 99))
def test_new_rows_are_orthonormal_and_orthogonal_to_whatever_was_there(old, count, width, scale, seed):
    rng = np.random.default_rng(seed)
    before = scale * rng.normal(size=(old, width))
    before = np.concatenate([before, before[:1] * 3])  # one of them twice: no harm
    new = orthonormal_rows(before, count, rng)
    np.testing.assert_allclose(new @ new.T, np.eye(count), atol=1e-12)
    np.testing.assert_allclose(before @ new.T, 0, atol=1e-12 * scale * 30)


@given(st.integers(2, 40), st.integers(0, 99))
def test_new_rows_are_orthogonal_even_if_the_old_ones_hold_all_but_a_trace_of_what_is_drawn(width, seed):
    """The old rows leave one direction, of which the drawn row has 1e-8: taken out once, rounding is as large as it."""
    rng = np.random.default_rng(seed)
    drawn = rng.normal(size=width)  # as `orthonormal_rows` will draw it
    drawn /= np.linalg.norm(drawn)
    left = rng.normal(size=width)
    left -= (left @ drawn) * drawn
    left = left / np.linalg.norm(left) + 1e-8 * drawn
    left /= np.linalg.norm(left)
    old = np.linalg.svd(left[None])[2][1:]
    new = orthonormal_rows(old, 1, np.random.default_rng(seed))
    assert np.abs(old @ new.T).max() < 1e-14
    np.testing.assert_allclose(np.abs(new @ left), 1, rtol=1e-14)


def test_zero_rows_take_no_room_and_too_many_rows_are_refused():
    assert orthonormal_rows(np.zeros((7, 3)), 3, generator(0, "rows")).shape == (3, 3)
    with pytest.raises(MergeError, match="2 rows cannot be orthogonal to 3 others in 4 dimensions"):
        orthonormal_rows(np.eye(4)[:3], 2, generator(0, "rows"))


@given(st.integers(0, 5), st.integers(1, 4), st.integers(0, 99))
def test_gram_schmidt_is_the_literal_one(old, count, seed):
    before = np.random.default_rng(seed).normal(size=(old, 12))
    drawn = generator(seed, "rows").normal(size=(count, 12))
    theirs = reference_pools.gram_schmidt(list(before), list(drawn))
    np.testing.assert_allclose(gram_schmidt(before, count, generator(seed, "rows")), theirs, atol=1e-12)


def test_gram_schmidt_is_orthogonal_to_orthogonal_rows_only():
    rng = generator(0, "rows")
    straight = np.linalg.qr(rng.normal(size=(20, 6)))[0].T
    assert np.abs(straight @ gram_schmidt(straight, 4, rng).T).max() < 1e-12
    trained = straight + 0.05 * rng.normal(size=straight.shape)
    new = gram_schmidt(trained, 4, rng)
    assert np.abs(trained @ new.T).max() > 1e-3
    assert np.abs(trained @ orthonormal_rows(trained, 4, rng).T).max() < 1e-12
