"""Filters against literal transcriptions, Flower's own functions where these serve, and invariants."""

from dataclasses import replace

import numpy as np
import pytest
import reference_filters as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from fcil.arrays import weighted_mean
from fcil.errors import ConfigError
from fcil.filters import FILTERS, parse_filter
from fcil.filters.parts import norms
from fcil.method import ClientUpdate, NoSum

SHAPES = {"blocks.0.a": (3, 2), "head.0.weight": (2, 2), "head.0.bias": (2,)}
STATISTICS = {"gram": (6,), "counts": (2,)}
START = {name: np.full(shape, 0.25, np.float32) for name, shape in SHAPES.items()}
ALL = ("norm", "norm(factor = 1)", "median", "trimmed", "trimmed(share = 0.4)", "krum(malicious = 2)", "multi_krum")


def starts(client):
    return START


def drawn(seed, clients, spread=1.0, statistics=True):
    rng = np.random.default_rng(seed)
    out = []
    for client in range(clients):
        size = spread ** rng.uniform(-1, 1)
        examples = int(rng.integers(1, 50))
        arrays = {n: (START[n] + size * rng.standard_normal(s)).astype(np.float32) for n, s in SHAPES.items()}
        sums = {n: (examples * size * rng.random(s)).astype(np.float32) for n, s in STATISTICS.items()}
        out.append(ClientUpdate(client, 0, examples, arrays, sums if statistics else {}))
    return out


def flat(arrays):
    return np.concatenate([np.asarray(arrays[n], np.float64).ravel() for n in sorted(arrays)]) if arrays else []


def change(u):
    return flat(u.arrays) - flat(START)


def per_sample(u):
    return np.asarray(flat(u.statistics)) / u.num_examples


def kept(text, updates):
    result = parse_filter(text).apply(updates, starts, {})
    assert [u.client for u in result.updates] == sorted(u.client for u in result.updates)
    assert {u.client for u in result.updates} | set(result.left_out) == {u.client for u in updates}
    assert not {u.client for u in result.updates} & set(result.left_out)
    return result


clients = st.integers(5, 11)
seeds = st.integers(0, 2**31)


# ---- selection -------------------------------------------------------------------------------------------------------


@given(seeds, clients, st.floats(1, 4), st.sampled_from([1.0, 10.0]))
@settings(max_examples=40, deadline=None)
def test_norm_keeps_who_is_within_both_bounds_and_changes_nothing(seed, n, factor, spread):
    updates = drawn(seed, n, spread)
    result = kept(f"norm(factor = {factor})", updates)
    inside = set(reference.within_norm([change(u) for u in updates], factor))
    inside &= set(reference.within_norm([per_sample(u) for u in updates], factor))
    assert [u.client for u in result.updates] == sorted(inside)
    assert all(u is updates[u.client] for u in result.updates)


@pytest.mark.parametrize("part", ["change", "statistics"])
def test_norm_names_the_part_that_is_too_long(part):
    updates = drawn(1, 6)
    large = {
        "change": replace(updates[2], arrays={n: a * np.float32(1e6) for n, a in updates[2].arrays.items()}),
        "statistics": replace(updates[2], statistics={n: a * 1e6 for n, a in updates[2].statistics.items()}),
    }
    result = kept("norm(factor = 10)", [*updates[:2], large[part], *updates[3:]])
    assert list(result.left_out) == [2]
    assert part in result.left_out[2]


def test_norm_counts_statistics_for_each_sample():
    """A client with a hundred times as many samples may report sums a hundred times as large."""
    updates = drawn(2, 5)
    richer = replace(
        updates[0],
        num_examples=100 * updates[0].num_examples,
        statistics={n: 100 * a for n, a in updates[0].statistics.items()},
    )
    assert kept("norm(factor = 3)", [richer, *updates[1:]]).left_out.keys() == kept("norm", updates).left_out.keys()


@given(seeds, st.integers(5, 11), st.integers(0, 4), st.integers(0, 11), st.booleans())
@settings(max_examples=60, deadline=None)
def test_krum_and_multi_krum_are_the_papers(seed, n, malicious, keep, statistics):
    malicious, updates = min(malicious, (n - 3) // 2), drawn(seed, n, 3.0, statistics)
    keep = min(keep, n - malicious)
    both = zip(
        reference.in_median_units([change(u) for u in updates]),
        reference.in_median_units([per_sample(u) for u in updates]) if statistics else [[]] * n,
        strict=True,
    )
    vectors = [[*a, *b] for a, b in both]
    result = kept(f"multi_krum(malicious = {malicious}, keep = {keep})", updates)
    wanted = reference.multi_krum(vectors, malicious, keep or n - malicious)
    assert [u.client for u in result.updates] == wanted
    assert all(u is updates[u.client] for u in result.updates)
    one = kept(f"krum(malicious = {malicious})", updates)
    assert [u.client for u in one.updates] == reference.multi_krum(vectors, malicious, 1)
    if not statistics:  # the unit is one factor for all
        assert wanted == reference.multi_krum([list(change(u)) for u in updates], malicious, keep or n - malicious)


def test_multi_krum_selects_whom_flowers_selects():
    """Flower's compares the arrays themselves, by |x|^2 + |y|^2 - 2 x y: the same where starts are."""
    flwr = pytest.importorskip("flwr.serverapp.strategy.multikrum")
    app = pytest.importorskip("flwr.app")
    for seed in range(10):
        updates = drawn(seed, 9, 2.0, statistics=False)
        records = [
            app.RecordDict({"arrays": app.ArrayRecord([a.astype(np.float64) for a in u.arrays.values()])})
            for u in updates
        ]
        chosen = flwr.select_multikrum(records, 2, 4)
        theirs = sorted(next(i for i, r in enumerate(records) if r is c) for c in chosen)
        assert [u.client for u in kept("multi_krum(malicious = 2, keep = 4)", updates).updates] == theirs


@pytest.mark.parametrize("text", ["krum(malicious = 2)", "multi_krum(malicious = 2)", "norm", "median", "trimmed"])
def test_far_updates_of_a_minority_do_not_get_through(text):
    honest = drawn(3, 5)
    far = [
        replace(
            u,
            client=5 + i,
            arrays={n: np.full(s, 1e4 * (1 + i), np.float32) for n, s in SHAPES.items()},
            statistics={n: np.full(s, 1e7, np.float32) for n, s in STATISTICS.items()},
        )
        for i, u in enumerate(honest[:2])
    ]
    if text == "trimmed":
        text = "trimmed(share = 0.3)"
    result = kept(text, honest + far)
    assert all(np.abs(change(u)).max() < 10 and np.max(per_sample(u)) < 10 for u in result.updates)


# ---- coordinates -----------------------------------------------------------------------------------------------------


@given(seeds, st.integers(3, 11))
@settings(max_examples=40, deadline=None)
def test_all_hold_the_coordinate_median(seed, n):
    updates = drawn(seed, n, 5.0)
    result = kept("median", updates)
    wanted = reference.coordinate_median([list(flat(u.arrays)) for u in updates])
    for u in result.updates:
        np.testing.assert_array_equal(flat(u.arrays), np.array(wanted).astype(np.float32))


@given(seeds, clients, st.sampled_from([0.2, 0.25, 0.3, 0.4]))
@settings(max_examples=60, deadline=None)
def test_the_weighted_mean_of_the_trimmed_is_the_trimmed_mean(seed, n, share):
    updates = drawn(seed, n, 5.0)
    if parse_filter(f"trimmed(share = {share})").complaint(n):
        return
    result = kept(f"trimmed(share = {share})", updates)
    weights = [u.num_examples for u in updates]
    cut = int(np.floor(share * n + 1e-9))
    wanted = reference.trimmed_mean([list(flat(u.arrays)) for u in updates], weights, cut)
    merged = reference.mean([flat(u.arrays) for u in result.updates], weights)
    np.testing.assert_allclose(merged, wanted, rtol=0, atol=1e-5)
    low, high = (np.sort([flat(u.arrays) for u in updates], axis=0)[i] for i in (cut, n - 1 - cut))
    for u in result.updates:  # nobody is beyond the range of what stays
        assert (flat(u.arrays) >= low - 1e-6).all()
        assert (flat(u.arrays) <= high + 1e-6).all()


def test_of_equal_weights_the_trimmed_mean_is_flowers():
    flwr = pytest.importorskip("flwr.serverapp.strategy.fedtrimmedavg")
    updates = [replace(u, num_examples=7) for u in drawn(4, 10, 3.0)]
    result = kept("trimmed(share = 0.2)", updates)
    mean = weighted_mean([u.arrays for u in result.updates], [1] * 10)
    for name, a in mean.items():
        theirs = flwr.trim_mean(np.stack([u.arrays[name].astype(np.float64) for u in updates]), 0.2)
        np.testing.assert_allclose(a, theirs, atol=1e-6)


@pytest.mark.parametrize(("text", "cut"), [("trimmed(share = 0.25)", 2), ("trimmed(share = 0.4)", 3)])
def test_statistics_are_scaled_down_whole_to_the_first_length_that_stays(text, cut):
    updates = drawn(5, 8, 4.0)
    lengths = [reference.length(per_sample(u)) for u in updates]
    bound = sorted(lengths)[8 - 1 - cut]
    result = kept(text, updates)
    assert set(result.scaled) == {i for i, one in enumerate(lengths) if one > bound} != set()
    for u, old, one in zip(result.updates, updates, lengths, strict=True):
        factor = min(1.0, bound / one)
        assert result.scaled.get(u.client, 1.0) == pytest.approx(factor)
        for name, a in u.statistics.items():
            np.testing.assert_allclose(a, factor * old.statistics[name], rtol=1e-6)
        assert u.num_examples == old.num_examples


@pytest.mark.parametrize("n", [7, 8])
def test_the_median_filter_scales_statistics_down_to_the_median_length(n):
    updates = drawn(5, n, 4.0)
    lengths = [reference.length(per_sample(u)) for u in updates]
    ordered = sorted(lengths)
    bound = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    result = kept("median", updates)
    assert result.scaled == pytest.approx({i: bound / one for i, one in enumerate(lengths) if one > bound})
    for u, old in zip(result.updates, updates, strict=True):
        for name, a in u.statistics.items():
            np.testing.assert_allclose(a, result.scaled.get(u.client, 1.0) * old.statistics[name], rtol=1e-6)


# ---- statistics that are no sums -------------------------------------------------------------------------------------

DECLARED = {"factor": NoSum((3, 3), "root"), "means": NoSum((3,), "weighted"), "gradient": NoSum((3,), "constant")}


def told(client, x):
    """What a client with samples `x` sends: sums, a root F of x^T x, a mean beside its number, and a mean alone."""
    sums = {"sum": x.sum(0), "counts": np.array([float(len(x))])}
    no_sums = {"factor": np.linalg.qr(x)[1], "means": x.mean(0), "gradient": x.mean(0)}
    return ClientUpdate(client, 0, len(x), {}, {**sums, **no_sums})


def test_the_same_samples_many_times_over_are_as_long_for_each_sample():
    x = np.random.default_rng(0).normal(size=(5, 3))
    updates = [told(client, np.tile(x, (times, 1))) for client, times in enumerate((1, 2, 7, 30))]
    lengths = norms("statistics", updates, starts, DECLARED)
    np.testing.assert_allclose(lengths, lengths[0])
    assert not parse_filter("norm(factor = 1.001)").apply(updates, starts, DECLARED).left_out
    taken_for_sums = norms("statistics", updates, starts, {})
    assert taken_for_sums[0] > 1.1 * taken_for_sums[3]


@pytest.mark.parametrize("text", ["median", "trimmed(share = 0.25)"])
def test_who_is_scaled_down_counts_as_fewer_samples_with_the_mean_that_it_had(text):
    rng = np.random.default_rng(1)
    updates = [told(client, rng.normal(size=(6, 3)) * (9.0 if client == 2 else 1.0)) for client in range(5)]
    result = parse_filter(text).apply(updates, starts, DECLARED)
    old, new, f = updates[2].statistics, result.updates[2].statistics, result.scaled[2]
    assert f < 0.5
    for name in ("sum", "counts", "gradient"):
        np.testing.assert_allclose(new[name], f * old[name])
    np.testing.assert_allclose(new["factor"].T @ new["factor"], f * old["factor"].T @ old["factor"])
    np.testing.assert_array_equal(new["means"], old["means"])
    np.testing.assert_allclose(new["sum"] / new["counts"], new["means"])


def test_shares_of_replaced_numbers_are_told():
    updates = drawn(6, 5)
    result = kept("trimmed(share = 0.2)", updates)
    moved = {
        u.client: float(np.mean(flat(u.arrays) != flat(old.arrays)))
        for u, old in zip(result.updates, updates, strict=True)
    }
    assert result.replaced == pytest.approx({c: share for c, share in moved.items() if share})
    assert sum(result.replaced.values()) == pytest.approx(2)  # one at either end of every number


# ---- all -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ALL)
@given(seed=seeds, n=st.integers(7, 10))
@settings(max_examples=10, deadline=None)
def test_numbering_clients_otherwise_gives_the_same_updates(text, seed, n):
    updates = drawn(seed, n, 3.0)
    order = np.random.default_rng(seed).permutation(n)
    renumbered = [replace(updates[old], client=new) for new, old in enumerate(order)]
    one, other = kept(text, updates), kept(text, renumbered)
    assert set(one.left_out) == {int(order[c]) for c in other.left_out}
    theirs = {int(order[u.client]): u for u in other.updates}
    for u in one.updates:
        for name, a in u.arrays.items():
            np.testing.assert_array_equal(a, theirs[u.client].arrays[name])
        for name, a in u.statistics.items():
            np.testing.assert_allclose(a, theirs[u.client].statistics[name], rtol=1e-6)


@pytest.mark.parametrize("text", ALL)
def test_updates_that_agree_stay_bit_for_bit(text):
    one = drawn(7, 1)[0]
    updates = [replace(one, client=c) for c in range(7)]
    result = kept(text, updates)
    assert (result.replaced, result.scaled) == ({}, {})
    for u in result.updates:
        assert all(np.array_equal(a, one.arrays[n]) for n, a in u.arrays.items())
        assert all(np.array_equal(a, one.statistics[n]) for n, a in u.statistics.items())


@pytest.mark.parametrize("text", ALL)
def test_of_equal_distances_the_lower_client_number_wins_and_zeros_are_no_trouble(text):
    updates = [
        ClientUpdate(c, 0, 3, dict(START), {n: np.zeros(s, np.float32) for n, s in STATISTICS.items()})
        for c in range(7)
    ]
    result = kept(text, updates)
    wanted = {"krum(malicious = 2)": [0], "multi_krum": [0, 1, 2, 3, 4, 5]}.get(text, list(range(7)))
    assert [u.client for u in result.updates] == wanted


@pytest.mark.parametrize("text", ALL)
def test_reports_without_trained_arrays_and_huge_values(text):
    rng = np.random.default_rng(8)
    updates = [ClientUpdate(c, 0, 5, {}, {"gram": rng.random(3).astype(np.float32)}) for c in range(6)]
    updates.append(ClientUpdate(6, 0, 5, {}, {"gram": np.full(3, 3e38, np.float32)}))
    result = kept(text, updates)
    assert max(float(u.statistics["gram"].max()) for u in result.updates) < 2


@pytest.mark.parametrize("text", ["norm"])
def test_clients_may_have_arrays_of_other_shapes_where_each_is_looked_at_by_itself(text):
    sizes = {c: np.zeros((1 + c, 2), np.float32) for c in range(5)}
    updates = [ClientUpdate(c, 0, 3, {"a": a + np.float32(1)}) for c, a in sizes.items()]
    updates[3] = replace(updates[3], arrays={"a": sizes[3] + np.float32(100)})
    result = parse_filter(text).apply(updates, lambda client: {"a": sizes[client]}, {})
    assert list(result.left_out) == [3]


# ---- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kurm", "Did you mean 'krum'"),
        ("krum(malicios = 1)", "Did you mean 'malicious'"),
        ("norm(factor = 0.5)", "at least 1"),
        ("trimmed(share = 0)", "greater than 0"),
        ("none(x = 1)", "no such filter"),
        ("krum(2)", "write"),
        ("multi_krum(malicious = -1)", "at least 0"),
    ],
)
def test_slips_are_named(text, message):
    with pytest.raises(ConfigError, match=r"run\.filter") as error:
        parse_filter(text)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "fewest"),
    [("norm", 3), ("median", 3), ("trimmed", 5), ("trimmed(share = 0.4)", 3), ("krum(malicious = 2)", 7),
     ("multi_krum(malicious = 1, keep = 6)", 7), ("krum(malicious = 0)", 3)],
)  # fmt: skip
def test_the_fewest_clients(text, fewest):
    chosen = parse_filter(text)
    assert chosen.complaint(fewest) is None
    assert chosen.complaint(fewest - 1)
    chosen.apply(drawn(0, fewest), starts, {})
    if text.startswith("trimmed"):
        assert parse_filter("trimmed(share = 0.5)").complaint(4)


def test_none_is_no_filter_and_every_filter_is_listed():
    assert parse_filter("none") is None
    assert {text.partition("(")[0] for text in ALL} == set(FILTERS)
