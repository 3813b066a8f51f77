"""TSV-M, Iso-C, Iso-CTS and OPCM: the published dense forms where they are well-defined, and what holds at any rank."""

import numpy as np
import pytest
import reference_spectral as reference
from changes import change, full_rank, gauged, low_rank, orthogonal, turned
from hypothesis import assume, given
from hypothesis import strategies as st
from problems import close

from fcil.errors import MergeError
from fcil.merging.expert import Expert
from fcil.merging.lowrank import LowRank, dense, product_svd, stacked
from fcil.merging.spectral import iso_c, iso_cts, project_and_add, tsv_m
from fcil.registry import build_method

ORDERLESS = {"tsv_m": tsv_m, "iso_c": iso_c, "iso_cts": lambda changes, weights=None: iso_cts(changes, weights, 0.5)}
ALL = {**ORDERLESS, "opcm": lambda c: project_and_add(c, 0.5)}
orderless = pytest.mark.parametrize("merge", ORDERLESS.values(), ids=ORDERLESS)
every = pytest.mark.parametrize("merge", ALL.values(), ids=ALL)


def opcm(tasks, alpha=0.5):
    """The method itself, over tasks of one or more layers: the dense layers."""
    experts = [Expert({str(i): layer for i, layer in enumerate(task)}) for task in tasks]
    return [dense(layer) for _, layer in build_method("opcm", {"alpha": alpha}).combine(experts, None)]


def well_spread(changes):
    """No two components of the sum, or of one change, are so near to each other that a cut between them is a toss."""
    spectra = [product_svd(one)[1] for one in (stacked(changes), *changes)]
    return all(s[-1] > 0.02 * s[0] and np.all(-np.diff(s) > 0.02 * s[0]) for s in spectra)


def independent(changes):
    """The vectors that TSV-M puts side by side are far from sharing a direction."""
    k = min(changes[0].shape) // len(changes)
    parts = [product_svd(c) for c in changes]
    sides = [np.concatenate([u[:, :k] for u, _, _ in parts], 1), np.concatenate([vt[:k] for _, _, vt in parts])]
    return k > 0 and all(np.linalg.cond(side) < 1e3 for side in sides)


def well_apart(changes):
    """No two components of the sum are near to each other, and none is near to vanishing."""
    s = np.linalg.svd(sum(reference.dense(changes)), compute_uv=False)
    return np.min(np.abs(np.diff(s)), initial=1.0) > 1e-3 * s[0] and s[-1] > 1e-3 * s[0]


@given(full_rank())
def test_tsv_is_the_dense_form_at_full_rank(changes):
    assume(independent(changes))
    deltas = reference.dense(changes)
    close(dense(tsv_m(changes)), reference.tsv_m(deltas))
    close(dense(tsv_m(changes)), reference.tsv_m(deltas, reference.inverse_root_polar), 1e-6)


@given(full_rank())
def test_iso_c_is_the_dense_form_at_full_rank(changes):
    assume(well_apart(changes))
    close(dense(iso_c(changes)), reference.iso_c(reference.dense(changes)))


@given(full_rank(), st.floats(0, 1))
def test_iso_cts_is_the_dense_form_at_full_rank(changes, common):
    assume(well_apart(changes))
    rank = min(changes[0].shape)
    assume(round((rank - int(rank * common)) / len(changes)) * len(changes) <= rank)  # else the published k is negative
    expected = reference.iso_cts(reference.dense(changes), common)
    close(dense(iso_cts(changes, None, common)), expected, 1e-6)


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.99), st.integers(1, 4))
def test_opcm_is_the_published_recursion_over_all_layers(seed, alpha, tasks):
    rng = np.random.default_rng(seed)
    many = [[change(rng, 7, 5, 5), change(rng, 4, 6, 4)] for _ in range(tasks)]
    for actual, expected in zip(
        opcm(many, alpha), reference.opcm([reference.dense(t) for t in many], alpha), strict=True
    ):
        close(actual, expected)


@every
@given(changes=low_rank())
def test_the_result_lies_in_the_column_and_row_spaces_of_the_changes(merge, changes):
    merged = dense(merge(changes))
    columns = np.linalg.qr(np.concatenate([c.b for c in changes], 1))[0]
    rows = np.linalg.qr(np.concatenate([c.a for c in changes]).T)[0]
    close(columns @ (columns.T @ merged), merged, 1e-9)
    close(merged @ rows @ rows.T, merged, 1e-9)


@every
@given(changes=low_rank(), seed=st.integers(0, 99))
def test_the_result_turns_with_the_changes(merge, changes, seed):
    assume(well_spread(changes))
    rng = np.random.default_rng(seed)
    left, right = (orthogonal(rng, n) for n in changes[0].shape)
    close(dense(merge([turned(left, right, c) for c in changes])), left @ dense(merge(changes)) @ right, 1e-6)


@every
@given(changes=low_rank(), seed=st.integers(0, 99))
def test_only_the_products_of_the_factors_matter(merge, changes, seed):
    assume(well_spread(changes))
    rng = np.random.default_rng(seed)
    close(dense(merge([gauged(rng, c) for c in changes])), dense(merge(changes)), 1e-6)


@every
@given(changes=low_rank(), factor=st.floats(1e-6, 1e6))
def test_units_scale(merge, changes, factor):
    assume(well_spread(changes))
    close(dense(merge([c.times(factor) for c in changes])) / factor, dense(merge(changes)), 1e-6)


@orderless
@given(changes=low_rank())
def test_order_does_not_matter(merge, changes):
    assume(well_spread(changes))
    close(dense(merge(changes[::-1])), dense(merge(changes)), 1e-6)


@orderless
@given(changes=low_rank(), data=st.data())
def test_a_weight_multiplies_a_change(merge, changes, data):
    assume(well_spread(changes))
    weights = data.draw(st.lists(st.floats(0.5, 2), min_size=len(changes), max_size=len(changes)))
    weighted = [c.times(w) for c, w in zip(changes, weights, strict=True)]
    assume(well_spread(weighted))
    close(dense(merge(changes, weights)), dense(merge(weighted)), 1e-6)


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 4))
def test_copies_of_one_model_are_that_model_for_tsv_and_opcm(seed, rank, copies):
    one = change(np.random.default_rng(seed), 13, 12, rank)
    close(dense(tsv_m([one] * copies)), dense(one))
    close(opcm([[one]] * copies)[0], dense(one))


@given(low_rank(few=2), st.integers(0, 99))
def test_changes_that_share_no_space_are_added(changes, seed):
    """TSV-M gives their sum; OPCM too, scaled to their mean norm."""
    rng = np.random.default_rng(seed)
    columns, rows = (orthogonal(rng, n) for n in changes[0].shape)
    apart, at = [], 0
    for c in changes:
        span = slice(at, at + c.rank)
        apart.append(LowRank(columns[:, span] @ rng.standard_normal((c.rank, c.rank)), rows[span]))
        at += c.rank
    total = sum(reference.dense(apart))
    close(dense(tsv_m(apart)), total)
    norms = [np.linalg.norm(delta) for delta in reference.dense(apart)]
    close(opcm([[c] for c in apart])[0], total * np.mean(norms) / np.linalg.norm(total))


@given(low_rank())
def test_iso_c_has_one_singular_value_and_the_nuclear_norm_of_the_sum(changes):
    s = np.linalg.svd(dense(iso_c(changes)), compute_uv=False)
    total = np.linalg.svd(sum(reference.dense(changes)), compute_uv=False)
    rank = sum(c.rank for c in changes)
    np.testing.assert_allclose(s[:rank], total.sum() / rank, rtol=1e-9)
    assert np.all(s[rank:] < 1e-9 * s[0])


@given(low_rank(), st.floats(0, 1))
def test_iso_cts_has_one_singular_value_and_no_higher_rank_than_the_sum(changes, common):
    merged = iso_cts(changes, None, common)
    s = product_svd(merged, 1e-6)[1]
    assert len(s) <= sum(c.rank for c in changes)
    assert merged.rank <= sum(c.rank for c in changes)
    close(dense(iso_cts(changes, None, 1.0)), dense(iso_c(changes)))


def test_iso_cts_gives_each_task_its_leading_direction_outside_of_the_common_ones():
    """Of the sum's four components two are common; the strong task has nothing outside of them, the weak one has e3."""
    eye = np.eye(6)
    strong, weak = LowRank(eye[:, :2] * [10, 9], eye[:2]), LowRank(eye[:, 2:4] * [1, 0.1], eye[2:4])
    flat = (10 + 9 + 1) / 3 * np.diag([1.0, 1, 1, 0, 0, 0])
    np.testing.assert_allclose(dense(iso_cts([strong, weak], None, 0.5)), flat, atol=1e-12)


@given(st.integers(0, 2**32 - 1))
def test_a_task_inside_of_the_common_space_adds_no_direction_of_its_own_to_iso_cts(seed):
    """In directions of any numbers at all, where what is left outside of them is rounding and not zero.

    Of the sum's four components 10, 3, 2, 1 the two leading ones stay: the first task's only one, and the other task's
    largest. Each task may add one. The first has none outside of them, the other its second: three in all.
    """
    rng = np.random.default_rng(seed)
    q, p = orthogonal(rng, 9), orthogonal(rng, 8)
    inside, other = LowRank(10 * q[:, :1], p[:1]), LowRank(q[:, 1:4] * [3, 2, 1], p[1:4])
    merged = iso_cts([inside, other], None, 0.5)
    assert merged.rank == 3
    close(dense(merged), (10 + 3 + 2) / 3 * q[:, :3] @ p[:3])


@given(low_rank(few=2))
def test_opcm_has_the_mean_norm_of_the_changes(changes):
    norms = [np.linalg.norm(delta) for delta in reference.dense(changes)]
    np.testing.assert_allclose(np.linalg.norm(opcm([[c] for c in changes])[0]), np.mean(norms), rtol=1e-9)


@given(low_rank(few=2, many=2))
def test_opcm_closes_the_space_of_the_first_task_to_the_second(changes):
    first, second = changes
    u, s, vt = product_svd(first)
    added = dense(project_and_add(changes, 1.0)) - dense(first)
    assert np.abs(u.T @ added @ vt.T).max() < 1e-9 * s[0]
    added = dense(project_and_add(changes, 0.0)) - dense(first)
    inside = u.T @ dense(second) @ vt.T
    close(u.T @ added @ vt.T, inside - np.diag(np.diag(inside)))


def test_the_dense_forms_give_weight_to_arbitrary_vectors_and_these_do_not():
    """At rank 12 of 40 most of dense Iso-C lies where no change ever was, and it does not turn with the changes."""
    rng = np.random.default_rng(0)
    changes = [change(rng, 48, 40, 4) for _ in range(3)]
    columns = np.linalg.qr(np.concatenate([c.b for c in changes], 1))[0]
    left, right = orthogonal(rng, 48), orthogonal(rng, 40)
    moved = [turned(left, right, c) for c in changes]
    for literal, merge in ((reference.iso_c, iso_c), (lambda d: reference.iso_cts(d, 0.8), iso_cts)):
        bad = literal(reference.dense(changes))
        assert np.linalg.norm(bad - columns @ (columns.T @ bad)) > 0.5 * np.linalg.norm(bad)
        turned_bad = literal(reference.dense(moved))
        assert np.linalg.norm(turned_bad - left @ bad @ right) > 0.5 * np.linalg.norm(bad)
        good = dense(merge(changes))
        assert np.linalg.norm(good - columns @ (columns.T @ good)) < 1e-12 * np.linalg.norm(good)
        assert np.linalg.norm(dense(merge(moved)) - left @ good @ right) < 1e-9 * np.linalg.norm(good)
    one = reference.dense(changes)[0]
    assert np.linalg.norm(reference.tsv_m([one] * 3) - one) > 0.5 * np.linalg.norm(one)
    assert np.linalg.norm(dense(tsv_m([changes[0]] * 3)) - one) < 1e-12 * np.linalg.norm(one)


def test_rounding_to_float32_is_not_raised_to_full_strength():
    """Two clients that learned the same, and whose factors differ by what float32 rounds off."""
    rng = np.random.default_rng(1)
    one = change(rng, 40, 30, 3)
    noisy = [LowRank(c.b * (1 + 1e-8 * rng.standard_normal(c.b.shape)), c.a) for c in [one] * 2]
    close(dense(tsv_m(noisy)), dense(one), 1e-6)
    close(dense(iso_c(noisy)), dense(iso_c([one] * 2)), 1e-6)
    close(dense(iso_cts(noisy)), dense(iso_cts([one] * 2)), 1e-6)
    assert iso_c(noisy).rank == 3


@every
def test_changes_of_zero_give_zero_and_beside_others_count_for_nothing(merge):
    rng = np.random.default_rng(2)
    zero, one = LowRank(np.zeros((9, 2)), rng.standard_normal((2, 8))), change(rng, 9, 8, 2)
    np.testing.assert_array_equal(dense(merge([zero, zero])), np.zeros((9, 8)))
    close(dense(merge([one, zero])), dense(merge([one])))
    close(dense(merge([zero, one])), dense(merge([one])))


def test_changes_that_cancel_give_zero_sums():
    one = change(np.random.default_rng(3), 9, 8, 2)
    for merge in (iso_c, iso_cts):
        assert np.abs(dense(merge([one, one.times(-1.0)]))).max() < 1e-9


@pytest.mark.parametrize("shape", [(3, 2), (2, 9), (1, 1)])
@every
def test_more_ranks_than_sides_and_more_tasks_than_rows_are_merged(merge, shape):
    rng = np.random.default_rng(4)
    merged = dense(merge([change(rng, *shape, 2) for _ in range(5)]))
    assert merged.shape == shape
    assert np.isfinite(merged).all()
    assert np.abs(merged).max() > 0


@every
def test_inputs_are_not_changed_and_bad_ones_are_refused(merge):
    rng = np.random.default_rng(5)
    changes = [change(rng, 6, 5, 2) for _ in range(3)]
    before = [(c.b.copy(), c.a.copy()) for c in changes]
    merge(changes)
    for now, (b, a) in zip(changes, before, strict=True):
        np.testing.assert_array_equal(now.b, b)
        np.testing.assert_array_equal(now.a, a)
    with pytest.raises(MergeError, match="empty"):
        merge([])
    with pytest.raises(MergeError, match=r"change 1 is \(5, 5\), but change 0 is \(6, 5\)"):
        merge([changes[0], change(rng, 5, 5, 2)])
