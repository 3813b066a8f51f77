"""The choice among candidates: what is offered, what its sums are, and whether it finds what is there."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import close
from reference_features import gcv_of_samples, merged_samples, one_hot, progressions

from fcil.arrays import symmetric_half
from fcil.merging.candidates import best_choice, choices, columns, merged
from fcil.merging.cross_validation import STEPS

seeds = st.integers(0, 2**32 - 1)


def candidates(depth, *kinds):
    """Blocks as a method offers them: layer by layer, every kind of each."""
    return [(layer, side) for layer in range(1, depth + 1) for side in kinds]


@given(st.integers(1, 24), st.lists(st.integers(0, 4), min_size=1, max_size=3, unique=True), st.booleans())
def test_what_may_be_chosen_is_exactly_every_progression_of_three_layers_of_one_kind_or_of_all(depth, kinds, whole):
    offered = candidates(depth, *kinds)
    listed = choices(offered, whole)
    named = {tuple(offered[i] for i in choice) for choice in listed}
    sets = progressions(min(3, depth), depth) | ({tuple(range(1, depth + 1))} if whole else set())
    together = [(side,) for side in kinds] + ([tuple(sorted(kinds))] if len(kinds) > 1 else [])
    assert named == {
        tuple((layer, side) for layer in layers for side in sides) for layers in sets for sides in together
    }


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 12])
def test_nothing_is_listed_twice(depth):
    for whole in (False, True):
        listed = choices(candidates(depth, 0, 2), whole)
        assert len(listed) == len(set(listed))


def test_the_order_of_candidates_only_moves_positions():
    offered = candidates(5, 0, 2)
    mixed = [offered[i] for i in np.random.default_rng(0).permutation(len(offered))]
    named = [{tuple(blocks[i] for i in choice) for choice in choices(blocks)} for blocks in (offered, mixed)]
    assert named[0] == named[1]


def problem(seed, blocks, m, n=50, classes=3, signals=()):
    """Candidates' features, (n, blocks * m): noise, and in some blocks also the class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    x = rng.standard_normal((n, blocks, m))
    for block, strength in signals:
        x[:, block] += strength * rng.standard_normal((classes, m))[labels]
    return x.reshape(n, blocks * m), one_hot(labels, classes)


def sums(x, y):
    return x.T @ x, y.T @ x


@given(seeds, st.integers(1, 6), st.integers(1, 5), st.data())
def test_merged_sums_are_those_of_the_signed_sums_of_samples(seed, blocks, m, data):
    choice = tuple(data.draw(st.permutations(range(blocks)))[: data.draw(st.integers(1, blocks))])
    x, y = problem(seed, blocks, m)
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), (len(choice), m))
    gram, q = merged(*sums(x, y), choice, signs)
    z = merged_samples(x, choice, signs)
    close(gram, z.T @ z, 1e-12)
    close(q, y.T @ z, 1e-12)


@given(seeds, st.integers(1, 6), st.integers(1, 5), st.data())
def test_blocks_of_g_are_g_of_blocks(seed, blocks, m, data):
    choice = tuple(data.draw(st.permutations(range(blocks)))[: data.draw(st.integers(1, blocks))])
    x, y = problem(seed, blocks, m)
    (gram, q), at = sums(x, y), columns(choice, m)
    z = np.concatenate([x[:, b * m : (b + 1) * m] for b in choice], 1)
    close(gram[np.ix_(at, at)], z.T @ z, 1e-12)
    close(q[:, at], y.T @ z, 1e-12)


def choose(x, y, offered, whole=False, seed=0):
    gram, q = sums(x, y)
    return best_choice(symmetric_half(gram), q, float(len(x)), offered, np.random.default_rng(seed), whole)


def least(z, y):
    unit = np.square(z).sum(0).mean()
    return min(gcv_of_samples(z, y, unit * share) for share in STEPS)


@pytest.mark.parametrize("seed", range(8))
def test_side_by_side_it_is_the_choice_with_the_least_error_of_samples(seed):
    offered, m = candidates(5, 0), 6
    x, y = problem(seed, 5, m, 200, signals=[(seed % 5, 0.6), ((seed + 2) % 5, 0.4)])
    blocks = [x[:, i * m : (i + 1) * m] for i in range(5)]
    errors = {c: least(np.concatenate([blocks[i] for i in c], 1), y) for c in choices(offered, True)}
    chosen = choose(x, y, offered, whole=True)
    assert errors[chosen] <= min(errors.values()) * (1 + 1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_at_equal_width_it_is_the_choice_with_the_least_mean_error_over_draws_of_signs(seed):
    offered, m = candidates(5, 2), 6
    x, y = problem(seed, 5, m, 200, signals=[(seed % 5, 0.8)])
    signs = np.random.default_rng(7).choice((-1.0, 1.0), (4, 5, m))
    errors = {c: np.mean([least(merged_samples(x, c, draw[list(c)]), y) for draw in signs]) for c in choices(offered)}
    chosen = choose(x, y, offered, seed=7)
    assert errors[chosen] <= min(errors.values()) * (1 + 1e-6)


@pytest.mark.parametrize("planted", range(6))
@pytest.mark.parametrize("whole", [False, True])
def test_a_layer_that_alone_tells_the_classes_is_chosen(planted, whole):
    x, y = problem(planted, 6, 8, 400, signals=[(planted, 1.5)])
    assert planted in choose(x, y, candidates(6, 1), whole)


@pytest.mark.parametrize("whole", [False, True])
def test_three_layers_that_hold_different_things_are_chosen_together(whole):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 8, 800)
    x = rng.standard_normal((800, 7, 10))
    for bit, block in enumerate((1, 3, 5)):  # each layer tells one bit of the class
        x[:, block] += np.outer((labels >> bit & 1) - 0.5, rng.choice((-2.0, 2.0), 10))
    assert choose(x.reshape(800, 70), one_hot(labels, 8), candidates(7, 1), whole) == (1, 3, 5)


def test_the_better_kind_of_tokens_is_chosen():
    offered = candidates(4, 0, 2)
    x, y = problem(0, 8, 8, 400, signals=[(i, 1.0) for i, (_, side) in enumerate(offered) if side == 2])
    assert {offered[i][1] for i in choose(x, y, offered)} == {2}


def test_without_samples_the_first_is_chosen():
    offered = candidates(5, 1)
    assert choose(np.zeros((0, 20)), np.zeros((0, 3)), offered) == choices(offered)[0]


def test_fewer_samples_than_features_lead_to_a_choice_by_errors_and_not_by_rounding():
    """An error that has been rounded to zero would win over every true one."""
    offered, m = candidates(5, 1), 80
    for seed in range(12):
        x, y = problem(seed, 5, m, 60, signals=[(i, 0.5) for i in range(5)])
        blocks = np.split(x, 5, axis=1)
        errors = {c: least(np.concatenate([blocks[i] for i in c], 1), y) for c in choices(offered, True)}
        assert errors[choose(x, y, offered, whole=True)] <= 1.02 * min(errors.values())


def test_the_scale_of_features_does_not_matter():
    x, y = problem(3, 6, 8, 400, signals=[(2, 0.7), (4, 0.5)])
    assert choose(x, y, candidates(6, 1)) == choose(1e4 * x, y, candidates(6, 1))
