"""Upper halves of symmetric matrices against the whole ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcil.arrays import symmetric_half
from fcil.errors import MergeError
from fcil.merging import packed


def symmetric(seed, n):
    x = np.random.default_rng(seed).standard_normal((n, n))
    return x + x.T


@given(st.integers(0, 2**32 - 1), st.integers(1, 200), st.integers(1, 4))
def test_a_product_with_the_half_is_the_product_with_the_whole(seed, n, m):
    """Sizes on both sides of the block of 64 rows that is unpacked at a time."""
    whole, left = symmetric(seed, n), np.random.default_rng(seed + 1).standard_normal((m, n))
    half = symmetric_half(whole)
    np.testing.assert_allclose(packed.times(left, half), left @ whole, rtol=1e-12, atol=1e-12 * n)
    np.testing.assert_array_equal(packed.diagonal(half), np.diag(whole))
    np.testing.assert_array_equal(np.triu(packed.upper(half)), np.triu(whole))
    np.testing.assert_array_equal(packed.whole(half), whole)
    assert packed.side(half) == n


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 4))
def test_several_small_halves_are_unpacked_at_once(seed, n, count):
    wholes = [symmetric(seed + i, n) for i in range(count)]
    stacked = np.stack([symmetric_half(w).astype(np.float32) for w in wholes])
    np.testing.assert_array_equal(packed.whole(stacked), np.float32(wholes))
    np.testing.assert_array_equal(packed.whole(stacked[0]), np.float32(wholes[0]))


def test_what_is_not_a_half_is_refused():
    for wrong in (*map(np.zeros, (2, 4, 5, 7, 9)), np.zeros((2, 3))):
        with pytest.raises(MergeError, match="not half of a symmetric matrix"):
            packed.side(wrong)
        assert not packed.is_half(wrong)
    for wrong in (np.zeros(4), np.zeros((2, 5))):
        with pytest.raises(MergeError, match="not half of a symmetric matrix"):
            packed.whole(wrong)
    with pytest.raises(MergeError, match=r"\(2, 4\) and half of a symmetric matrix of 3"):
        packed.times(np.zeros((2, 4)), np.zeros(6))
