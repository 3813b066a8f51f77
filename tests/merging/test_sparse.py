"""MagMax and Consensus TA against the rule for one entry, and what must hold for any changes."""

import tracemalloc

import numpy as np
import pytest
import reference_spectral as reference
from changes import change, gauged, low_rank
from hypothesis import given
from hypothesis import strategies as st
from problems import close

from fcil.errors import MergeError
from fcil.merging.emr import elect
from fcil.merging.lowrank import LowRank, dense
from fcil.merging.sparse import ROWS, consensus_ta, mag_max, row_blocks

every = pytest.mark.parametrize("merge", [mag_max, consensus_ta, lambda c: elect(c).change], ids=["max", "ta", "emr"])


@st.composite
def opposed(draw):
    """Changes with ties, zeros and cancellation: entries are small whole numbers."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    out, width = draw(st.integers(1, 2 * ROWS + 3)), draw(st.integers(1, 5))
    return [
        LowRank(*(rng.integers(-2, 3, shape).astype(float) for shape in ((out, 2), (2, width))))
        for _ in range(draw(st.integers(1, 4)))
    ]


@given(opposed())
def test_mag_max_is_the_rule_for_every_entry(changes):
    np.testing.assert_array_equal(mag_max(changes), reference.mag_max(reference.dense(changes)))


@given(opposed(), st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.integers(0, 5))
def test_consensus_is_the_rule_for_every_entry(changes, threshold, agree):
    expected = reference.consensus_ta(reference.dense(changes), threshold, agree)
    np.testing.assert_array_equal(consensus_ta(changes, None, threshold, agree), expected)


@given(low_rank(), st.floats(0.1, 2))
def test_consensus_of_nobody_is_task_arithmetic_and_of_more_than_all_is_nothing(changes, threshold):
    close(consensus_ta(changes, None, threshold, 0), sum(reference.dense(changes)))
    assert not consensus_ta(changes, None, threshold, len(changes) + 1).any()


@given(low_rank(), st.lists(st.floats(0.5, 2), min_size=4, max_size=4))
def test_a_weight_multiplies_a_change_in_consensus(changes, weights):
    weights = weights[: len(changes)]
    weighted = [c.times(w) for c, w in zip(changes, weights, strict=True)]
    merged, expected = consensus_ta(changes, weights), consensus_ta(weighted)
    assert np.mean(np.isclose(merged, expected, rtol=1e-9)) > 0.99  # an entry on the threshold may fall on either side


@given(low_rank(many=1), st.integers(1, 4))
def test_copies_of_one_model_are_that_model(one, copies):
    close(mag_max(one * copies), dense(one[0]))
    close(elect(one * copies).change, dense(one[0]))


@every
@given(changes=low_rank(), seed=st.integers(0, 99))
def test_order_and_factors_do_not_matter(merge, changes, seed):
    rng = np.random.default_rng(seed)
    merged = merge(changes)
    close(merge(changes[::-1]), merged)
    close(merge([gauged(rng, c) for c in changes]), merged, 1e-6)


@every
def test_changes_of_zero_give_zero_and_bad_ones_are_refused(merge):
    rng = np.random.default_rng(0)
    zero = LowRank(np.zeros((9, 2)), rng.standard_normal((2, 8)))
    np.testing.assert_array_equal(merge([zero, zero]), np.zeros((9, 8)))
    with pytest.raises(MergeError, match="empty"):
        merge([])
    with pytest.raises(MergeError, match=r"change 1 is \(5, 8\), but change 0 is \(9, 8\)"):
        merge([zero, change(rng, 5, 8, 2)])


@every
def test_beside_the_factors_no_more_than_two_layers_are_held(merge):
    """All ten changes formed at once would take ten layers of 8 MB."""
    rng = np.random.default_rng(0)
    changes = [change(rng, 2048, 512, 2) for _ in range(10)]
    tracemalloc.start()
    merge(changes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 2048 * 512 * 8


def test_entries_are_those_of_the_products():
    rng = np.random.default_rng(0)
    changes = [change(rng, 3 * ROWS + 1, 4, 2) for _ in range(2)]
    result = np.concatenate([each for _, each in row_blocks(changes)], 1)
    close(result, np.stack([dense(c) for c in changes]))
