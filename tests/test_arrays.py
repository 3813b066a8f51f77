"""The vocabulary of named arrays."""

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from fcil.arrays import (
    as_float32,
    digest,
    grouped,
    in_rows,
    names_matching,
    nbytes,
    same_names,
    symmetric_half,
    total,
    ungrouped,
    weighted_mean,
    weighted_total,
)  # fmt: skip
from fcil.errors import MergeError


def many(seed, clients=4):
    rng = np.random.default_rng(seed)
    return [{"a": rng.standard_normal((2, 3)).astype(np.float32), "b": rng.standard_normal(4)} for _ in range(clients)]


def test_a_state_has_its_arrays_in_rows_as_a_checkpoint_gives_them_back():
    turned, scalar = np.arange(6.0, dtype=np.float32).reshape(2, 3).T, np.array(3.0)
    state = in_rows({"a": {"turned": turned, "scalar": scalar, "bytes": np.zeros(3, np.uint8)}, "empty": {}})
    assert state["a"]["turned"].flags.c_contiguous
    assert np.array_equal(state["a"]["turned"], turned)
    assert [a.shape for a in state["a"].values()] == [(3, 2), (), (3,)]
    assert [a.dtype.name for a in state["a"].values()] == ["float32", "float64", "uint8"]
    assert state["empty"] == {}


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 50), min_size=4, max_size=4).filter(any))
def test_weighted_mean_is_the_literal_one(seed, counts):
    updates = many(seed)
    merged = weighted_mean(updates, counts)
    for name in ("a", "b"):
        np.testing.assert_allclose(
            merged[name], reference.fedavg([u[name] for u in updates], counts), rtol=1e-6, atol=1e-6
        )
        assert merged[name].dtype == updates[0][name].dtype
    backwards = weighted_mean(updates[::-1], counts[::-1])
    np.testing.assert_allclose(backwards["b"], merged["b"], rtol=1e-12, atol=1e-12)


@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=6),
    st.sampled_from([1, 5, 30, 1 << 16]),
)
def test_weighted_sums_have_the_same_bits_whatever_is_summed_together(seed, sizes, block):
    """Each array by itself, one client after the other, in float64; whatever the types, and rows that do not follow."""
    rng, kinds = np.random.default_rng(seed), ["f4", "f8", "i4"]
    updates = [
        {f"a{i}": (8 * rng.standard_normal(size)).astype(kinds[i % 3]).T for i, size in enumerate(sizes)}
        for _ in range(4)
    ]
    origin, *rest = updates
    weights = [0.0, *rng.uniform(0, 9, 2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fcil.arrays.BLOCK", block)
        sums = weighted_total(rest, weights, origin)
    assert list(sums) == list(origin)
    for name, start in origin.items():
        expected = np.zeros(start.shape)
        for update, weight in zip(rest, weights, strict=True):
            expected = expected + (update[name].astype(np.float64) - start.astype(np.float64)) * weight
        assert sums[name].dtype == np.float64
        assert sums[name].shape == start.shape
        assert np.array_equal(sums[name], expected)


@given(st.integers(0, 2**32 - 1), st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=5))
def test_identical_updates_come_out_bit_for_bit(seed, weights):
    one = many(seed)[0]
    merged = weighted_mean([one] * len(weights), weights)
    assert digest(merged) == digest(one)


def test_a_weight_of_zero_is_no_influence_whatever_the_client_holds():
    updates = many(0, 3)
    for position in range(3):
        poisoned = [
            *updates[:position],
            {n: np.full_like(a, np.nan) for n, a in updates[0].items()},
            *updates[position:],
        ]
        weights = [1.0, 2.0, 3.0]
        assert digest(weighted_mean(poisoned, [*weights[:position], 0, *weights[position:]])) == digest(
            weighted_mean(updates, weights)
        )


def test_sums_run_in_float64():
    """In float32 each 1 would be lost beside 2^24."""
    big = {"a": np.array([2.0**24], np.float32)}
    ones = [{"a": np.ones(1, np.float32)}] * 4
    assert total([big, *ones])["a"] == 2**24 + 4
    assert weighted_mean([big, *ones], [1.0] * 5)["a"] == np.float32((2**24 + 4) / 5)


@pytest.mark.parametrize("weights", [[0, 0], [1, -1], [1, np.nan], [1, np.inf], [1], [1, 1, 1]])
def test_weights_that_make_no_mean(weights):
    with pytest.raises(MergeError, match="weights"):
        weighted_mean(many(0, 2), weights)


def test_updates_that_do_not_belong_together():
    one, two = many(0, 2)
    with pytest.raises(MergeError, match="empty"):
        same_names([])
    with pytest.raises(MergeError):
        weighted_mean([], [])
    with pytest.raises(MergeError, match="differs from number 0 in b"):
        same_names([one, {"a": two["a"]}])
    with pytest.raises(MergeError, match="differs from number 0 in c"):
        same_names([one, {**two, "c": two["a"]}])
    with pytest.raises(MergeError, match="differs from number 0 in a"):
        total([one, {**two, "a": two["a"].T}])


def test_inputs_are_not_changed():
    updates = many(0)
    before = [digest(u) for u in updates]
    weighted_mean(updates, [1, 2, 3, 4])
    total(updates)
    assert [digest(u) for u in updates] == before


@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_halves_of_symmetric_matrices(n, seed):
    square = np.random.default_rng(seed).standard_normal((n, n))
    matrix = square + square.T
    np.testing.assert_array_equal(symmetric_half(matrix), matrix[np.triu_indices(n)])


def test_digest_sees_names_types_shapes_and_values():
    base = {"a": np.arange(6, dtype=np.float32)}
    others = [
        {"b": base["a"]}, {"a": base["a"].astype(np.float64)}, {"a": base["a"].reshape(2, 3)},
        {"a": base["a"] + 1}, {"a": -base["a"]}, {}, {"a": base["a"], "b": base["a"]},
    ]  # fmt: skip
    assert len({digest(x) for x in [base, *others]}) == 8
    assert digest({"a": 1 * base["a"], "b": base["a"]}) == digest({"b": base["a"], "a": base["a"]})
    assert digest({"a": np.arange(12, dtype=np.float32)[::2] / 2}) == digest(base)  # layout in memory is no content


def test_states_are_tables_and_back():
    state = {"module": {"x.lora_A": np.ones(2)}, "past": {"task0/x.lora_A": np.zeros(1)}, "empty": {}}
    flat = ungrouped({group: arrays for group, arrays in state.items() if arrays})
    assert list(flat) == ["module:x.lora_A", "past:task0/x.lora_A"], "the names by which states have always been hashed"
    assert {g: {n: a.tolist() for n, a in arrays.items()} for g, arrays in grouped(ungrouped(state)).items()} == {
        "module": {"x.lora_A": [1, 1]}, "past": {"task0/x.lora_A": [0]}, "empty": {},
    }  # fmt: skip


def test_patterns_bytes_and_casts():
    names = ["head.1.weight", "head.10.weight", "blocks.0.lora_A", "blocks.0.lora_B"]
    assert names_matching(names, ["head.1.*"]) == ["head.1.weight"]
    assert names_matching(names, ["*.lora_B", "*.lora_A"]) == names[2:]
    arrays = {"a": np.zeros((2, 3)), "b": np.zeros(4, np.float32)}
    assert nbytes(arrays) == 48 + 16
    assert nbytes(as_float32(arrays)) == 24 + 16
