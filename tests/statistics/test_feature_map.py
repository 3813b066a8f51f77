"""The fold: what it does to features, exactly and on average over draws."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import close
from reference_features import fold_matrix, ridge

from fcil.statistics.feature_map import FeatureMap, fold_table, folded, projection

seeds = st.integers(0, 2**32 - 1)
sizes, lengths = st.integers(1, 12), st.lists(st.integers(1, 40), min_size=1, max_size=4)


def matrix_of(seed, size, parts):
    return fold_matrix(fold_table(seed, size, tuple(parts)), sum(parts))


@given(seeds, sizes, lengths)
def test_every_entry_is_in_one_place_of_its_part_with_a_sign(seed, size, parts):
    table, p = fold_table(seed, size, tuple(parts)), matrix_of(seed, size, parts)
    assert (table.dtype, len(table)) == (np.float32, size * len(parts))
    np.testing.assert_array_equal(np.sort(np.abs(table[table != 0])), 1 + np.arange(sum(parts)))
    np.testing.assert_array_equal(np.abs(p).sum(0), 1)
    ends = np.cumsum([0, *parts])
    for i in range(len(parts)):
        rows = p[i * size : (i + 1) * size]
        outside = np.delete(rows, np.arange(ends[i], ends[i + 1]), axis=1)
        assert not outside.any()


@given(seeds, sizes, lengths)
def test_rows_are_orthogonal(seed, size, parts):
    p = matrix_of(seed, size, parts)
    products = p @ p.T
    np.testing.assert_array_equal(products, np.diag(np.diag(products)))


@given(seeds, sizes, lengths)
def test_a_place_has_at_most_as_many_entries_as_an_even_share_rounded_up(seed, size, parts):
    counts = np.abs(matrix_of(seed, size, parts)).sum(1).reshape(len(parts), size)
    for part, of_part in zip(parts, counts, strict=True):
        assert of_part.max() <= -(-part // size)
        if part % size == 0:
            assert (of_part == part // size).all()


@given(seeds, st.integers(1, 30))
def test_at_full_width_it_is_a_signed_permutation_and_ridge_predicts_as_without_it(seed, width):
    p = matrix_of(seed, width, [width])
    np.testing.assert_array_equal(p @ p.T, np.eye(width))
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((40, width)), rng.standard_normal((40, 3))
    close(x @ p.T @ ridge(x @ p.T, y, 0.3).T, x @ ridge(x, y, 0.3).T, 1e-10)


@given(seeds, sizes, lengths, st.integers(0, 5))
def test_folding_is_the_product_with_the_matrix_in_float64(seed, size, parts, count):
    z = np.random.default_rng(seed).standard_normal((count, sum(parts))).astype(np.float32)
    result = folded(torch.tensor(z), torch.tensor(fold_table(seed, size, tuple(parts))))
    assert result.dtype == torch.float64
    expected = z.astype(np.float64) @ matrix_of(seed, size, parts).T
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-12, atol=1e-12)


def test_sums_do_not_lose_what_float32_would():
    table = fold_table(0, 1, (3,))
    signs = np.sign(table[0])[np.argsort(np.abs(table[0]))]
    z = torch.tensor(np.float32([[1e8, 1.0, -1e8]]) * signs)
    assert folded(z, torch.tensor(table)).item() == 1.0


def test_parts_are_folded_apart_by_draws_of_their_own():
    p = matrix_of(0, 30, [60, 60])
    first, second = p[:30, :60], p[30:, 60:]
    assert not p[:30, 60:].any()
    assert not p[30:, :60].any()
    assert not np.array_equal(np.abs(first), np.abs(second))
    agreeing = (first.sum(0) == second.sum(0)).mean()  # signs: a fair coin
    assert abs(agreeing - 0.5) < 4 * 0.5 / np.sqrt(60)


def test_the_fold_is_the_seeds_alone_and_cannot_be_written_to():
    table = fold_table(3, 10, (40, 7)).copy()
    fold_table.cache_clear()
    np.testing.assert_array_equal(fold_table(3, 10, (40, 7)), table)
    assert not np.array_equal(fold_table(4, 10, (40, 7)), table)
    with pytest.raises(ValueError, match="read-only"):
        fold_table(3, 10, (40, 7))[0, 0] = 1


# ---- on average over draws -------------------------------------------------------------------------------------------

DRAWS = 6000


def products_over_draws(size, width, x, y):
    products = []
    for seed in range(DRAWS):
        p = fold_matrix(fold_table.__wrapped__(seed, size, (width,)), width)
        products.append((p @ x) @ (p @ y))
    return np.array(products)


@pytest.mark.parametrize(("size", "width"), [(4, 12), (5, 12), (7, 12), (12, 12), (1, 6)])
def test_products_are_right_on_average_with_the_documented_variance(size, width):
    """By a z-score of 4 each: mean x . y; variance p (|x|^2 |y|^2 + (x . y)^2 - 2 sum x_i^2 y_i^2)."""
    rng = np.random.default_rng([size, width])
    x, y = rng.standard_normal(width) + 0.3, rng.standard_normal(width) + 0.3
    products = products_over_draws(size, width, x, y)
    k = -(-width // size)
    p = (k - 1) / (k * size - 1) if width > size else 0.0
    variance = p * ((x @ x) * (y @ y) + (x @ y) ** 2 - 2 * np.square(x * y).sum())
    if variance == 0:
        close(products, np.full(DRAWS, x @ y), 1e-12)
        return
    assert abs(products.mean() - x @ y) < 4 * np.sqrt(variance / DRAWS)
    squares = np.square(products - x @ y)
    assert abs(squares.mean() - variance) < 4 * squares.std() / np.sqrt(DRAWS)
    assert 4 * squares.std() / np.sqrt(DRAWS) < 0.15 * variance  # tight enough to notice a wrong formula
    assert p <= 1 / size


def test_signs_and_places_are_fair():
    width, size = 12, 4
    p = np.stack([fold_matrix(fold_table.__wrapped__(seed, size, (width,)), width) for seed in range(DRAWS)])
    bound = 4.5 * 0.5 / np.sqrt(DRAWS)
    assert np.abs((p.sum(1) > 0).mean(0) - 0.5).max() < bound
    assert np.abs((p != 0).mean(0) - 1 / size).max() < 4.5 * np.sqrt(1 / size * (1 - 1 / size) / DRAWS)


# ---- as part of a map ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "width", "size"),
    [
        (FeatureMap(), 20, 20), (FeatureMap(project=8), 20, 8), (FeatureMap(project=20), 20, 20),
        (FeatureMap(project=50), 20, 20), (FeatureMap(project=8, random=30), 20, 30), (FeatureMap(random=30), 20, 30),
        (FeatureMap(project=3, parts=(1, 4)), 20, 6), (FeatureMap(project=9, parts=(1, 4)), 20, 18),
    ],
)  # fmt: skip
def test_the_length_of_phi_is_that_of_what_is_made(features, width, size):
    z = torch.randn(4, width, generator=torch.Generator().manual_seed(0))
    assert features.size(width) == size
    assert features.on(torch.device("cpu"), width)(z).shape == (4, size)


def test_features_that_are_short_enough_stay_as_they_are():
    z = torch.randn(4, 20, generator=torch.Generator().manual_seed(0))
    assert FeatureMap(project=20).table(20) is None
    np.testing.assert_array_equal(FeatureMap(project=20).on(torch.device("cpu"), 20)(z).numpy(), z.double().numpy())


@pytest.mark.parametrize("normalised", [False, True])
def test_features_are_folded_then_normalised_then_random(normalised):
    z = np.random.default_rng(0).standard_normal((5, 20)).astype(np.float32)
    features = FeatureMap(normalised=normalised, random=9, seed=2, project=6)
    x = z.astype(np.float64) @ matrix_of(2, 6, [20]).T
    x = x / np.linalg.norm(x, axis=1, keepdims=True) if normalised else x
    expected = np.maximum(x @ projection(2, 9, 6).astype(np.float64).T, 0)
    close(features.on(torch.device("cpu"), 20)(torch.tensor(z)).numpy(), expected, 1e-12)
    deployed = features.apply(torch.tensor(z), torch.tensor(features.matrix(20)), torch.tensor(features.table(20)))
    close(deployed.numpy(), expected, 1e-12)


def test_parts_are_relative_lengths_of_the_features():
    features = FeatureMap(project=5, parts=(1, 4), seed=1)
    table = features.table(50)
    np.testing.assert_array_equal(table, fold_table(1, 5, (10, 40)))
    z = np.random.default_rng(0).standard_normal((3, 50)).astype(np.float32)
    p = fold_matrix(table, 50)
    close(features.on(torch.device("cpu"), 50)(torch.tensor(z)).numpy(), z.astype(np.float64) @ p.T, 1e-12)
