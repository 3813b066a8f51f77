"""Budgets and their allocation against a bisection, the public loop, and what they must hold to."""

import itertools

import numpy as np
import pytest
import reference_kernels as reference
from hypothesis import given
from hypothesis import strategies as st

from fcil.errors import MergeError
from fcil.merging.allocation import allocated, budget, sparsities
from fcil.seeding import generator

SEEDS = st.integers(0, 10**6)


def problem(seed, zeros=False):
    """(scores, sizes, volume) of a few layers, of orders of magnitude that differ."""
    rng = generator(seed, "allocation")
    n = int(rng.integers(1, 9))
    scores = 10.0 ** rng.uniform(-12, 0, n)
    if zeros:
        scores *= rng.random(n) < 0.5
    sizes = rng.integers(1, 100_000, n)
    return scores, sizes, float(rng.uniform(0, 1.2) * sizes.sum())


@given(SEEDS)
def test_an_allocation_is_the_water_level(seed):
    scores, sizes, volume = problem(seed)
    result = allocated(scores, sizes, volume)
    wanted = reference.water_filled(scores, sizes, min(volume, float(sizes.sum())))
    np.testing.assert_allclose(result, wanted, rtol=1e-9, atol=1e-6)


@given(SEEDS)
def test_the_public_loop_ends_there_within_its_truncation(seed):
    """It truncates at the start, by which a layer's level lags less than 1, and at the end, by less than 1 again."""
    rng = generator(seed, "public")
    sizes = rng.choice([192 * 192, 384 * 96, 512 * 512, 1000], 6)
    scores = rng.uniform(0.01, 1, 6)
    volume = float(rng.uniform(0.01, 0.99) * sizes.sum())
    assert np.abs(allocated(scores, sizes, volume) - reference.handed_on(scores, sizes, volume)).max() < 2


@given(SEEDS, st.booleans())
def test_an_allocation_sums_to_the_volume_within_the_sizes(seed, zeros):
    scores, sizes, volume = problem(seed, zeros)
    result = allocated(scores, sizes, volume)
    np.testing.assert_allclose(result.sum(), min(volume, sizes.sum()), rtol=1e-12, atol=1e-9)
    assert (result >= 0).all()
    assert (result <= sizes).all()
    np.testing.assert_allclose(allocated(scores * 1e-30, sizes, volume), result, rtol=1e-12, atol=1e-9)


@given(SEEDS)
def test_what_is_not_full_is_in_proportion_to_the_scores(seed):
    scores, sizes, volume = problem(seed)
    result = allocated(scores, sizes, volume)
    open_layers = result < sizes * (1 - 1e-9)
    levels = result / scores
    if open_layers.any():
        np.testing.assert_allclose(levels[open_layers], levels[open_layers][0], rtol=1e-9)
        assert (levels[~open_layers] <= levels[open_layers][0] * (1 + 1e-9)).all()


def test_equal_scores_give_equal_counts_so_small_layers_are_full_first():
    np.testing.assert_allclose(allocated(np.ones(3), np.array([10, 100, 1000]), 210.0), [10, 100, 100])
    np.testing.assert_allclose(allocated(np.ones(3), np.array([10, 100, 1000]), 90.0), [10, 40, 40])


def test_scores_that_are_all_zero_give_equal_shares():
    np.testing.assert_array_equal(allocated(np.zeros(4), np.full(4, 100), 40.0), np.full(4, 10.0))


def test_a_layer_without_score_gets_only_what_others_cannot_hold():
    scores, sizes = np.array([1.0, 0.0, 0.0]), np.array([100, 100, 10])
    np.testing.assert_allclose(allocated(scores, sizes, 90.0), [90, 0, 0])
    np.testing.assert_allclose(allocated(scores, sizes, 150.0), [100, 40, 10])
    np.testing.assert_allclose(allocated(scores, sizes, 500.0), sizes)
    np.testing.assert_allclose(allocated(scores, sizes, 0.0), 0)
    np.testing.assert_allclose(allocated(np.array([1.0, 1e-300, 0.0]), sizes, 90.0), [90, 0, 0])


@pytest.mark.parametrize(
    ("scores", "sizes", "volume"),
    [([], [], 1.0), ([1.0], [1, 2], 1.0), ([-1.0], [1], 1.0), ([np.nan], [1], 1.0), ([1.0], [1], -1.0),
     ([1.0], [1], np.inf), ([[1.0]], [[1]], 1.0), ([np.inf], [1], 1.0)],
)  # fmt: skip
def test_what_cannot_be_shared_out_is_refused(scores, sizes, volume):
    with pytest.raises(MergeError, match="an allocation needs"):
        allocated(np.array(scores), np.array(sizes), volume)


@given(st.integers(1, 60), st.data())
def test_the_budget_is_the_public_schedule(total, data):
    warmup = data.draw(st.integers(0, total - 1))
    settled = data.draw(st.integers(0, total - 1 - warmup))
    t = data.draw(st.integers(0, total))
    wanted = reference.cubic_budget(t, total, 900.0, 200.0, warmup, settled)
    result = budget(t / total, 1000, 0.1, 0.8, warmup / total, settled / total)
    assert result == pytest.approx(wanted, rel=1e-9, abs=1e-6)


@pytest.mark.parametrize(("warmup", "settled"), [(0.0, 0.0), (0.25, 0.0), (0.0, 0.5), (0.25, 0.5)])
def test_the_budget_never_grows_and_has_its_ends(warmup, settled):
    values = [budget(t, 10**6, 0.01, 0.93, warmup, settled) for t in np.linspace(0, 1, 201)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(values))
    assert values[0] == values[int(200 * warmup)] == pytest.approx(990_000)
    assert values[-1] == values[int(200 * (1 - settled))] == pytest.approx(70_000)
    assert len(set(values)) > 40


@pytest.mark.parametrize("given", [(1.5, 0, 0.5), (0.5, 0.5, 0.2), (0.5, 0, 1.2), (0.5, 0, 0.5, 0.6, 0.4)])
def test_a_schedule_that_is_none_is_refused(given):
    progress, *rest = given
    with pytest.raises(MergeError, match="no budget"):
        budget(progress, 100, *rest)


@given(SEEDS)
def test_sparsities_leave_the_budget_over_all_parts(seed):
    rng = generator(seed, "parts")
    sizes = {"qkv": int(rng.integers(1, 9999)), "proj": int(rng.integers(1, 9999)), "fc1": int(rng.integers(1, 9999))}
    scores = {name: rng.uniform(0, 1, 3 if name == "qkv" else 1) ** 4 for name in sizes}
    total = sum(len(scores[name]) * n for name, n in sizes.items())
    volume = budget(rng.uniform(), total, 0.0, 0.8)
    result = sparsities(scores, sizes, volume)
    assert list(result) == list(sizes)
    assert {name: (s.shape, s.dtype) for name, s in result.items()} == {
        name: (scores[name].shape, np.dtype("f4")) for name in sizes
    }
    assert all(((s >= 0) & (s <= 1)).all() for s in result.values())
    left = sum(float(((1 - s.astype(float)) * sizes[name]).sum()) for name, s in result.items())
    assert abs(left - volume) < 1e-6 * total  # float32 rounds every s by up to 6e-8


def test_sparsities_need_every_layers_size():
    with pytest.raises(MergeError, match="no size is known for fc1"):
        sparsities({"fc1": np.ones(1)}, {"fc2": 9}, 1.0)
    with pytest.raises(MergeError, match="at least one"):
        sparsities({}, {}, 1.0)
