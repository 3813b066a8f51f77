"""Bases of inputs: orthonormal, as small as the share of energy allows, and what is outside them is."""

import numpy as np
import pytest
import reference_subspaces
from hypothesis import given
from hypothesis import strategies as st

from fcil.merging.subspace import grown, leading_directions, outside

cases = given(
    st.integers(0, 4), st.integers(1, 8), st.integers(0, 99), st.sampled_from([0.0, 0.5, 0.95, 1.0]),
    st.sampled_from([1.0, 1e-5, 1e5]),
)  # fmt: skip


def drawn(rows, columns, seed, scale):
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(6, rows)))[0].T if rows else np.zeros((0, 6))
    return basis, scale * rng.normal(size=(6, columns)) * 10.0 ** -np.arange(columns)


@cases
def test_a_basis_grows_as_the_literal_one(rows, columns, seed, energy, scale):
    basis, sketch = drawn(rows, columns, seed, scale)
    ours, theirs = grown(basis, sketch, energy), reference_subspaces.grown(basis, sketch, energy)
    np.testing.assert_array_equal(ours[:rows], basis)
    np.testing.assert_allclose(ours @ ours.T, np.eye(len(ours)), atol=1e-10)
    held = np.square(ours @ sketch).sum() / np.square(sketch).sum()
    assert held >= energy - 1e-9
    if energy < 1:  # of all energy the last share is rounding
        assert len(ours) == len(theirs)
        np.testing.assert_allclose(
            reference_subspaces.projector(ours), reference_subspaces.projector(theirs), atol=1e-5
        )


@given(st.integers(1, 5), st.integers(0, 99))
def test_the_trace_of_a_row_that_is_outside_is_as_orthogonal_to_the_basis_as_any_other(rows, seed):
    """Of length 1e-10: taken out once, what rounding leaves of the basis would be a millionth of it."""
    rng = np.random.default_rng(seed)
    square = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    basis, other = square[:rows], square[rows]
    left = outside(basis, (rng.normal(size=(4, rows)) @ basis + 1e-10 * other))
    assert np.abs(left @ basis.T).max() < 1e-14 * 1e-10
    np.testing.assert_allclose(left @ other, 1e-10, rtol=1e-4)


@pytest.mark.parametrize("rows", [4, 6])
def test_what_float32_rounds_off_adds_no_direction_to_a_basis_that_holds_all_inputs(rows):
    """Asked for all energy it misses 1e-8 of it: in its own space, or 1e-7 long outside of it. Neither is an input."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        exact = np.linalg.qr(rng.normal(size=(6, rows)))[0].T
        rounded = exact.astype(np.float32).astype(np.float64)
        for space in (exact, rounded):
            inputs = space.T @ rng.normal(size=(rows, 8))
            for sketch in (inputs, inputs.astype(np.float32)):
                np.testing.assert_array_equal(grown(rounded, sketch, 1.0), rounded)
                assert not leading_directions(rounded, sketch, 2).any()
                more = grown(rounded[:3], sketch, 1.0)
                assert len(more) == rows
                np.testing.assert_allclose(more @ more.T, np.eye(rows), atol=1e-6)


@cases
def test_what_is_outside_has_nothing_of_the_basis(rows, columns, seed, energy, scale):
    basis, sketch = drawn(rows, columns, seed, scale)
    left = outside(basis, sketch.T)
    assert np.abs(left @ basis.T).max(initial=0) < 1e-12 * scale * 10
    np.testing.assert_allclose(
        left, sketch.T - sketch.T @ reference_subspaces.projector(basis), atol=1e-12 * scale * 10
    )


@pytest.mark.parametrize("rows", [0, 3])
def test_the_leading_directions_are_the_literal_ones_and_there_may_be_fewer(rows):
    basis, sketch = drawn(rows, 2, 0, 1.0)
    ours, theirs = leading_directions(basis, sketch, 2), reference_subspaces.dolfin_factor(basis, sketch, 2)
    np.testing.assert_allclose(np.abs(np.sum(ours * theirs, 1)), 1, atol=1e-10)
    more = leading_directions(basis, sketch, 4)
    np.testing.assert_array_equal(more[2:], 0)
    assert not grown(np.zeros((0, 6)), np.zeros((6, 3)), 0.9).size
    assert not leading_directions(np.eye(6), sketch, 2).any()
