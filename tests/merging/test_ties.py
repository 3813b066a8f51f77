"""TIES and DARE against literal transcriptions over whole vectors, and what must hold for any input."""

import tracemalloc

import numpy as np
import pytest
import reference_ties as reference
from factors import denses, draws, experts, many, mapped
from hypothesis import given
from hypothesis import strategies as st
from problems import close

from fcil.errors import MergeError
from fcil.merging.expert import Expert
from fcil.merging.kth_largest import kth_largest
from fcil.merging.lowrank import LowRank
from fcil.merging.ties import Entries, entrywise_mean, trim_elect_merge, trim_threshold
from strategies.dare import Dare
from strategies.ties import Ties

TOPS = st.sampled_from([0.05, 0.2, 0.5, 0.9, 1.0])


def merged(of, top=0.2, scale=1.0):
    return dict(trim_elect_merge(Entries(of), top, scale))


def same(left, right, tolerance=1e-12):
    assert list(left) == list(right)
    for layer in left:
        close(left[layer], right[layer], tolerance)


def weights(of):
    return [e.weight for e in of]


def exact(*rows):
    """One expert per row, of one layer of one row, without rounding."""
    return [Expert({"layer": LowRank(np.eye(1), np.array([row], np.float64))}) for row in rows]


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1), st.integers(0, 2**32), st.integers(1, 40)
)
def test_the_kth_largest_magnitude_is_that_of_a_sorted_vector(values, seed, limit):
    rng = np.random.default_rng(seed)
    k = int(rng.integers(1, len(values) + 1))
    parts = np.array_split(np.array(values), rng.integers(1, len(values) + 1))
    assert kth_largest(lambda: iter(parts), k, limit) == sorted(map(abs, values), reverse=True)[k - 1]


def test_many_equal_magnitudes_are_found_without_being_collected():
    values = np.array([0.0, -0.0] * 30 + [5e-324] * 7 + [1.5, -1.5] * 50 + [np.nextafter(1.5, 2)])
    ordered = np.sort(np.abs(values))[::-1]
    for k in range(1, len(values) + 1):
        assert kth_largest(lambda: [values], k, 3) == ordered[k - 1]


@given(many(), TOPS, st.sampled_from([0.3, 1.0, 1.7]))
def test_ties_is_the_transcription(of, top, scale):
    same(merged(of, top, scale), reference.ties([denses(e) for e in of], weights(of), top, scale))


@given(many(), TOPS)
def test_the_cut_counts_over_all_layers_together(of, top):
    values = reference.vector(denses(of[0]))
    kept = [x for x in values if abs(x) >= trim_threshold(Entries(of), 0, top)]
    assert len(kept) == max(1, round(top * len(values)))


def test_blocks_of_rows_are_the_whole_layer_at_any_size():
    """Layers larger than one block, cut in the middle of one."""
    of = experts(0, shapes={"wide": (5, 40_000), "tall": (3_000, 30)})
    for layer, whole in denses(of[1]).items():
        parts = list(Entries(of).blocks(1, layer))
        assert len(parts) > 1
        close(np.concatenate(parts), whole, 1e-14)
    top = 0.1
    values = np.concatenate([d.ravel() for d in denses(of[0]).values()])
    assert np.sum(np.abs(values) >= trim_threshold(Entries(of), 0, top) * (1 - 1e-12)) == round(top * values.size)


@given(many())
def test_one_expert_or_copies_of_one_are_that_expert_if_nothing_is_trimmed(of):
    one = of[0]
    same(merged([one], 1.0), denses(one))
    same(merged([one] * 3, 1.0), denses(one))
    same(merged([one] * 3, 0.4), merged([one], 0.4))


@given(many(few=2), TOPS)
def test_order_does_not_matter_nor_does_dividing_an_experts_weight(of, top):
    same(merged(of[::-1], top), merged(of, top))
    first = Expert(of[0].changes, of[0].weight / 2)
    same(merged([first, first, *of[1:]], top), merged(of, top))


@given(many(), TOPS)
def test_no_entry_is_larger_than_the_largest_of_the_experts(of, top):
    for layer, result in merged(of, top).items():
        largest = np.max([np.abs(denses(e)[layer]) for e in of], axis=0)
        assert (np.abs(result) <= largest * (1 + 1e-12)).all()


@given(many(), TOPS, st.sampled_from([1e-9, 3.0, 1e9]))
def test_scaled_changes_give_the_scaled_merge_and_opposite_ones_the_opposite(of, top, c):
    for factor in (c, -1.0):
        scaled = mapped(of, lambda change, factor=factor: LowRank(change.b * factor, change.a))
        same({n: x / factor for n, x in merged(scaled, top).items()}, merged(of, top), 1e-10)


def test_trim_elect_and_merge_by_hand():
    """Top half of each; first entry: 4 - 1 > 0 keeps 4; second: both agree; third and fourth: one of the two kept."""
    of = exact([4, -3, 1, 0], [-5, -5, 0, 1])
    np.testing.assert_allclose(merged(of, 0.5)["layer"], [[-5, -4, 0, 0]])
    np.testing.assert_allclose(merged(of, 1.0)["layer"], [[-5, -4, 1, 1]])
    heavy = [Expert(of[0].changes, 3.0), of[1]]
    np.testing.assert_allclose(merged(heavy, 1.0, 2.0)["layer"], [[8, -7, 2, 2]])


def test_an_exact_tie_takes_the_sign_that_most_entries_have():
    np.testing.assert_array_equal(merged(exact([1, -2, -3], [-1, -2, -3]), 1.0)["layer"], [[-1, -2, -3]])
    np.testing.assert_array_equal(merged(exact([1, 2, 3], [-1, 2, 3]), 1.0)["layer"], [[1, 2, 3]])
    np.testing.assert_array_equal(merged(exact([1, 2], [-1, -2]), 1.0)["layer"], [[0, 0]])


def test_zero_changes_merge_to_zero_and_do_not_dilute_the_others():
    zero = exact([0, 0, 0])
    np.testing.assert_array_equal(merged(zero * 2, 0.3)["layer"], [[0, 0, 0]])
    np.testing.assert_allclose(merged([*zero, *exact([1, -2, 3])], 1.0)["layer"], [[1, -2, 3]])


@given(many(), st.floats(0.01, 0.99), st.integers(0, 99), st.sampled_from(["mean", "ties"]))
def test_dare_is_the_transcription_for_the_masks_drawn(of, p, seed, reduce):
    draw = draws(seed)
    thin = [
        {layer: reference.thinned(d, draw("mask", i, layer).random(d.shape), p) for layer, d in denses(e).items()}
        for i, e in enumerate(of)
    ]
    if reduce == "ties":
        literal = reference.ties(thin, weights(of), 0.7, 0.5)
    else:
        total = sum(weights(of))
        literal = {
            layer: 0.5 * sum(w / total * t[layer] for w, t in zip(weights(of), thin, strict=True)) for layer in thin[0]
        }
    top = {"top": 0.7} if reduce == "ties" else {}  # without which it trims nothing, and refuses it
    same(dict(Dare(drop=p, reduce=reduce, scale=0.5, **top).combine(of, draw)), literal)


@given(many())
def test_dare_that_drops_nothing_is_the_mean_or_ties(of):
    whole = Entries(of)
    same(dict(Dare(drop=0.0).combine(of, draws())), dict(entrywise_mean(whole)))
    same(dict(Dare(drop=0.0, reduce="ties", top=0.3).combine(of, draws())), merged(of, 0.3))
    means = {n: np.average([denses(e)[n] for e in of], axis=0, weights=weights(of)) for n in whole.layers}
    same(dict(entrywise_mean(whole)), means)


def test_the_mean_over_masks_is_the_undropped_mean_within_its_standard_error():
    """Variance of an entry: p / (1 - p) sum_i w_i^2 x_i^2."""
    of, p, times = experts(0), 0.6, 400
    whole = dict(entrywise_mean(Entries(of)))
    runs = [dict(Dare(drop=p).combine(of, draws(seed))) for seed in range(times)]
    share = np.array(weights(of)) / sum(weights(of))
    for layer in whole:
        variance = p / (1 - p) * sum(w**2 * denses(e)[layer] ** 2 for w, e in zip(share, of, strict=True))
        z = (np.mean([r[layer] for r in runs], axis=0) - whole[layer]) / np.sqrt(variance / times)
        assert np.abs(z).max() < 5
        assert np.var([r[layer] for r in runs], axis=0).sum() == pytest.approx(variance.sum(), rel=0.2)


def test_masks_are_drawn_per_expert_and_layer_and_come_again():
    asked = []

    def draw(*purpose):
        asked.append(purpose)
        return draws()(*purpose)

    of = experts(0)
    first, second = (dict(Dare(drop=0.5, reduce="ties", top=0.5).combine(of, draw)) for _ in range(2))
    for layer in first:
        np.testing.assert_array_equal(first[layer], second[layer])
    assert set(asked) == {("mask", i, layer) for i in range(3) for layer in of[0].changes}


def test_entries_are_never_held():
    """5 experts x 3 layers dense would take 144 MB, one layer takes 9.6 MB."""
    layer = 8 * 1_500 * 800
    of = experts(0, (2,) * 5, {f"layer{n}": (1_500, 800) for n in range(3)})
    tracemalloc.start()
    for _, change in trim_elect_merge(Entries(of), 0.2):
        assert change.nbytes == layer
        del change
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * layer


def test_what_cannot_be_merged_is_refused():
    of = experts(0)
    with pytest.raises(MergeError, match="list of experts is empty"):
        list(trim_elect_merge(Entries([])))
    with pytest.raises(MergeError, match="expert 1 differs from expert 0 in second"):
        list(trim_elect_merge(Entries([of[0], Expert({"first": of[1].changes["first"]})])))
    with pytest.raises(MergeError, match="infinite or NaN"):
        list(entrywise_mean(Entries(mapped(of, lambda c: LowRank(c.b * np.nan, c.a)))))
    with pytest.raises(MergeError, match="not all zero"):
        list(Ties().combine([Expert(e.changes, 0.0) for e in of], draws()))
    for top in (0.0, -0.1, 1.5, np.nan):
        with pytest.raises(MergeError, match="share of entries"):
            list(trim_elect_merge(Entries(of), top))
    for drop in (1.0, -0.1, np.nan):
        with pytest.raises(MergeError, match="drop rate"):
            Entries(of, drop, lambda *_: np.random.default_rng(0))
    with pytest.raises(MergeError, match="masks to draw"):
        Entries(of, 0.5)
