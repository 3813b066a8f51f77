"""Changes in factors against their dense products, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import close

from fcil.errors import MergeError
from fcil.merging.expert import Expert, check_compatible, shares
from fcil.merging.lowrank import LowRank, balanced, dense, inner, product_svd, stacked, truncated


@st.composite
def changes(draw, count=None):
    """Some changes of one layer, each of a rank of its own."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    out, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    ranks = [draw(st.integers(1, 4)) for _ in range(draw(st.integers(1, 4) if count is None else count))]
    return [LowRank(rng.standard_normal((out, r)), rng.standard_normal((r, width))) for r in ranks]


@given(changes())
def test_sums_differences_and_inner_products_are_those_of_the_products(many):
    weights = np.linspace(-1, 2, len(many))
    close(dense(stacked(many, list(weights))), sum(w * (c.b @ c.a) for w, c in zip(weights, many, strict=True)))
    first, last = many[0], many[-1]
    close(dense(first.minus(last)), first.b @ first.a - last.b @ last.a)
    close(inner(first, last), np.sum((first.b @ first.a) * (last.b @ last.a)))
    close(dense(first.times(-3.0)), -3 * (first.b @ first.a))


def test_float32_factors_are_summed_in_float64():
    """Also with weights that are plain numbers, which NumPy would fit to the factors' type."""
    rng = np.random.default_rng(0)
    many = [
        LowRank(rng.standard_normal((5, 2)).astype("f4"), rng.standard_normal((2, 6)).astype("f4")) for _ in range(2)
    ]
    wanted = sum(w * (c.b.astype(float) @ c.a.astype(float)) for w, c in zip((0.1, 0.7), many, strict=True))
    close(dense(stacked(many, [0.1, 0.7])), wanted, 1e-14)


@given(changes(st.just(2)))
def test_a_difference_with_a_shared_factor_keeps_its_rank(many):
    first, other = many[0], LowRank(2.5 * many[0].b, many[0].a)
    for left, right in ((first, other), (first, LowRank(first.b, -first.a))):
        change = left.minus(right)
        assert change.rank == first.rank
        close(dense(change), dense(left) - dense(right))


@given(changes(), st.integers(1, 6))
def test_truncation_is_the_nearest_of_its_rank_and_says_what_it_lost(many, rank):
    whole = stacked(many)
    kept, lost = truncated(whole, rank)
    u, s, vt = np.linalg.svd(dense(whole), full_matrices=False)
    assert kept.b.shape == (whole.shape[0], rank)
    assert kept.a.shape == (rank, whole.shape[1])
    close(dense(kept), (u[:, :rank] * s[:rank]) @ vt[:rank], 1e-7)
    close(lost, np.sum(s[rank:] ** 2) / np.sum(s**2), 1e-7)
    close(kept.b.T @ kept.b, kept.a @ kept.a.T, 1e-7)  # balanced
    close(dense(truncated(dense(whole), rank)[0]), dense(kept), 1e-7)


@given(changes(st.just(1)))
def test_the_factor_svd_is_that_of_the_product_with_settled_signs(many):
    (change,) = many
    u, s, vt = product_svd(change)
    close(s, np.linalg.svd(dense(change), compute_uv=False)[: len(s)])
    close((u * s) @ vt, dense(change))
    close(u.T @ u, np.eye(len(s)))
    assert (u[np.abs(u).argmax(0), np.arange(len(s))] > 0).all()
    gauge = np.diag(np.arange(1.0, change.rank + 1)) + 0.1
    same = LowRank(change.b @ gauge, np.linalg.solve(gauge, change.a))
    close(product_svd(same)[1], s)


def test_a_zero_change_has_no_singular_values_and_truncates_to_zero():
    zero = LowRank(np.zeros((3, 2)), np.ones((2, 4)))
    u, s, vt = product_svd(zero)
    assert (u.shape, s.shape, vt.shape) == ((3, 0), (0,), (0, 4))
    assert dense(balanced(u, s, vt)).shape == (3, 4)
    kept, lost = truncated(zero, 2)
    assert lost == 0
    assert not kept.b.any()
    assert not kept.a.any()


def test_what_does_not_fit_together_is_refused():
    change = LowRank(np.ones((3, 2)), np.ones((2, 4)))
    with pytest.raises(MergeError, match=r"B \(3, 2\) and A \(3, 4\) do not multiply"):
        LowRank(np.ones((3, 2)), np.ones((3, 4)))
    with pytest.raises(MergeError, match="the list of changes is empty"):
        stacked([])
    with pytest.raises(MergeError, match=r"change 1 is \(3, 5\), but change 0 is \(3, 4\)"):
        stacked([change, LowRank(np.ones((3, 1)), np.ones((1, 5)))])
    with pytest.raises(MergeError, match="the list of experts is empty"):
        check_compatible([])
    with pytest.raises(MergeError, match="expert 1 differs from expert 0 in b"):
        check_compatible([Expert({"a": change, "b": change}), Expert({"a": change})])
    with pytest.raises(MergeError, match="expert 0: the change of a is infinite or NaN"):
        check_compatible([Expert({"a": LowRank(np.full((3, 2), np.nan), np.ones((2, 4)))})])
    for weights in ([0.0, 0.0], [1.0, -1.0], [np.inf, 1.0]):
        with pytest.raises(MergeError, match="weights of experts must be finite"):
            shares([Expert({}, w) for w in weights])
    close(shares([Expert({}, 1.0), Expert({}, 3.0)]), [0.25, 0.75])
