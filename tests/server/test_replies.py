"""Sums over groups of clients in place of single updates: the same merge, bad clients left out, bad sums refused."""

from dataclasses import replace

import numpy as np
import pytest
from small import BACKBONE, phase, representatives, small_settings

from fcil.arrays import total
from fcil.engine.simulation import prepare, simulate
from fcil.errors import ConfigError
from fcil.method import ClientUpdate, Method
from fcil.registry import build_method
from fcil.server import replies as replies_module
from fcil.server.gathering import gather
from fcil.server.replies import Failure, groups, summed
from fcil.server.validation import expected

ADDITIVE = [
    name
    for name in representatives("sums", "merge_sums")
    if build_method(name, {}).additive and build_method(name, {}).stream == "federated"
]
AT = phase(2, index=5)
METHOD = build_method("lorm", {"rank": 2, "gram_a": "full"})
STATE = METHOD.begin({}, AT, BACKBONE)
BROADCAST = METHOD.broadcast(STATE, AT)
COUNTS = {c: 5 + c for c in range(7)}
TARGET = expected(AT, BROADCAST, METHOD.local(AT), COUNTS)


def update(client, seed=0):
    """A good reply: any arrays, and statistics that are Grams of something."""
    rng = np.random.default_rng([seed, client])
    arrays = {n: rng.standard_normal(shape).astype(np.float32) for n, shape in TARGET.arrays.items()}
    statistics = {}
    for name, (half,) in TARGET.statistics.items():
        n = round((np.sqrt(8 * half + 1) - 1) / 2)
        x = rng.standard_normal((n, 3 * n))
        statistics[name] = (x @ x.T)[np.triu_indices(n)].astype(np.float32)
    return ClientUpdate(client, AT.index, COUNTS[client], arrays, statistics, {"loss": 1.0, "images": 3.0})


UPDATES = [update(c) for c in COUNTS]


def gathered(replies):
    events = []
    return gather(METHOD, TARGET, BROADCAST, replies, events.append), events


@pytest.mark.parametrize("count", [1, 2, 3, 4, 10, 99, 100, 1000])
def test_groups_hold_everybody_once_in_order_and_are_about_as_many_as_large(count):
    cut = groups(list(range(5, 5 + count)))
    assert [c for group in cut for c in group] == list(range(5, 5 + count))
    assert max(map(len, cut)) == np.ceil(np.sqrt(count))
    assert len(cut) <= np.ceil(np.sqrt(count))


def test_the_sums_of_groups_are_the_sums_of_all_and_merge_the_same():
    parts = [summed(METHOD, TARGET, BROADCAST, UPDATES[a:b]) for a, b in ((0, 3), (3, 6), (6, 7))]
    replies, events = gathered(parts[::-1])  # whatever order they arrive in
    whole = METHOD.sums(AT, BROADCAST, UPDATES)
    for name, a in replies.sums().items():
        np.testing.assert_allclose(a, whole[name], rtol=1e-12, atol=1e-12 * np.abs(whole[name]).max())
    merged = METHOD.merge_sums(STATE, AT, replies.sums())
    for group, arrays in METHOD.merge(STATE, AT, UPDATES).items():
        for name, a in arrays.items():
            np.testing.assert_allclose(merged[group][name], a, rtol=1e-6, atol=1e-7)
    assert [e["client"] for e in events if e["event"] == "client"] == [6, 3, 4, 5, 0, 1, 2]
    assert sum(e["bytes"] for e in events) == replies.nbytes == sum(a.nbytes for p in parts for a in p.sums.values())
    assert replies.missing == 0


@pytest.mark.parametrize("limit", [0, 1 << 40])
def test_sums_do_not_depend_on_how_many_updates_are_held_at_a_time(monkeypatch, limit):
    asked, whole = [], METHOD.sums(AT, BROADCAST, UPDATES)

    class Counting(type(METHOD)):
        def sums(self, phase, broadcast, updates):
            asked.append(len(updates))
            return super().sums(phase, broadcast, updates)

    monkeypatch.setattr(replies_module, "HELD_BYTES", limit)
    part = summed(Counting(rank=2, gram_a="full"), TARGET, BROADCAST, UPDATES)
    assert asked == ([len(UPDATES)] if limit else [1] * len(UPDATES))
    assert [m.client for m in part.members] == list(COUNTS)
    for name, a in part.sums.items():
        np.testing.assert_allclose(a, whole[name], rtol=1e-12, atol=1e-12 * np.abs(whole[name]).max())


def test_a_bad_client_is_left_out_where_it_is_summed_and_named():
    name = next(iter(TARGET.arrays))
    poisoned = {**UPDATES[1].arrays, name: np.full_like(UPDATES[1].arrays[name], np.nan)}
    bad = replace(UPDATES[1], arrays=poisoned)
    part = summed(METHOD, TARGET, BROADCAST, [UPDATES[0], bad, Failure(2, "RuntimeError: boom"), UPDATES[3]])
    assert [m.client for m in part.members] == [0, 3]
    assert not any(m.arrays or m.statistics for m in part.members)
    assert [(f.client, "NaN" in f.reason or "boom" in f.reason) for f in part.failures] == [(1, True), (2, True)]
    without = METHOD.sums(AT, BROADCAST, [UPDATES[0], UPDATES[3]])
    for n, a in part.sums.items():
        np.testing.assert_allclose(a, without[n], rtol=1e-12, atol=1e-12 * np.abs(a).max())
    replies, events = gathered([part])
    assert replies.missing == 5
    assert [e["client"] for e in events if e["event"] == "refused"] == [1, 2]


def test_a_group_without_any_good_client_is_all_failures():
    part = summed(METHOD, TARGET, BROADCAST, [Failure(0, "a"), Failure(1, "b")])
    assert (part.members, part.sums) == ((), {})
    replies, events = gathered([part])
    assert (replies.partials, replies.missing, len(events)) == ([], 7, 2)


GOOD = summed(METHOD, TARGET, BROADCAST, UPDATES[:2])
NAME = next(iter(GOOD.sums))


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (replace(GOOD, phase=4), "stale"),
        (replace(GOOD, members=(replace(GOOD.members[0], client=50),)), "was not asked"),
        (replace(GOOD, members=(GOOD.members[0], GOOD.members[0])), "second reply"),
        (replace(GOOD, members=(replace(GOOD.members[0], num_examples=99),)), "claims 99"),
        (replace(GOOD, sums={**GOOD.sums, NAME: GOOD.sums[NAME][:-1]}), f"sum {NAME}: shape"),
        (replace(GOOD, sums={**GOOD.sums, NAME: np.full_like(GOOD.sums[NAME], np.inf)}), "NaN or infinite"),
        (replace(GOOD, sums={n: a for n, a in GOOD.sums.items() if n != NAME}), "missing"),
    ],
)
def test_bad_sums_are_refused_whole(bad, reason):
    replies, events = gathered([bad, summed(METHOD, TARGET, BROADCAST, UPDATES[2:])])
    if reason == "second reply":
        reason = "sums with client 0"
    assert all(e["event"] == "refused" and reason in e["reason"] for e in events[: len(bad.members)])
    assert len(replies.partials) == 1
    assert replies.missing == 2


@pytest.mark.parametrize(
    "name", [n if n in ("lorm", "ridge", "lorm+ranpac") else pytest.param(n, marks=pytest.mark.slow) for n in ADDITIVE]
)
@pytest.mark.parametrize("clients", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_group_of_one_is_merged_too(name, clients, digits_config, tmp_path):
    """Three clients make groups of two and one."""
    config = digits_config(
        {"run": {"aggregate_on_worker": True}, "method": small_settings(name), "train": {"rounds": 1}},
        {"partition": {"clients": clients, "min_samples": 1}, "data": {"train_limit": 60}},
    )
    assert simulate(prepare(config, tmp_path), tmp_path)["refused"] == 0


@pytest.mark.parametrize(
    "name", [n if n in ("lorm", "ridge") else pytest.param(n, marks=pytest.mark.slow) for n in ADDITIVE]
)
def test_a_run_with_groups_learns_the_same_and_sends_less(name, digits_config, tmp_path):
    """Sums differ in their last bits, so that weights may differ in the last bit of float32, and answers hardly."""

    def run(folder, **settings):
        config = digits_config(
            {"run": settings, "partition": {"clients": 9, "min_samples": 1}, "method": small_settings(name)}
        )
        return simulate(prepare(config, tmp_path / folder), tmp_path / folder)

    single, grouped = run("single"), run("grouped", aggregate_on_worker=True)
    assert np.abs(np.subtract(single["correct"][-1], grouped["correct"][-1])).sum() <= 1
    assert grouped["upload_bytes"] < single["upload_bytes"]
    assert grouped["download_bytes"] <= single["download_bytes"] / 2.5  # three groups instead of nine clients
    assert grouped["images"] == single["images"]


def test_a_method_that_needs_single_updates_cannot_be_summed(digits_config, monkeypatch):
    monkeypatch.setattr("fcil.engine.checks.build_method", lambda name, settings: Method())
    with pytest.raises(ConfigError, match="needs the clients' single updates"):
        prepare(digits_config({"run": {"aggregate_on_worker": True}}))


def test_what_a_client_calls_its_metrics_cannot_pass_for_the_servers_own_words():
    liar = replace(UPDATES[3], metrics={"event": 3.0, "client": 0.0, "phase": -1.0, "loss": 0.5})
    _, (event,) = gathered([liar])
    assert (event["event"], event["client"], event["phase"], event["loss"]) == ("client", 3, AT.index, 0.5)


def test_groups_are_added_in_the_order_of_their_clients():
    parts = [summed(METHOD, TARGET, BROADCAST, UPDATES[a:b]) for a, b in ((0, 3), (3, 6), (6, 7))]
    for order in (parts, parts[::-1], [parts[1], parts[0], parts[2]]):
        sums = gathered(order)[0].sums()
        for name, a in total([p.sums for p in parts]).items():
            np.testing.assert_array_equal(sums[name], a)


@pytest.mark.parametrize(
    ("name", "settings", "round"),
    [
        ("lorm", {"rank": 2}, 1),
        ("lorm", {"rank": 2}, 2),
        ("lorm", {"rank": 2, "gram_a": "full"}, 2),
        ("lorm", {"rank": 2, "gram_a": "sketch:3"}, 3),
        ("ranpac", {"size": 5}, 1),
        ("ranpac", {"size": 5, "sketch": 2}, 1),
        ("regmean", {"rank": 2, "at": "task"}, 2),
    ],
)
def test_sums_of_grams_with_a_negative_diagonal_are_refused(name, settings, round):
    method = build_method(name, settings)
    kind = method.phases(phase(1).task, 1 if name == "regmean" else 2)[round - 1]
    at = replace(phase(round), kind=kind)
    broadcast = method.broadcast(method.begin(method.init(BACKBONE, 4, 0), at, BACKBONE), at)
    target = expected(at, broadcast, method.local(at), COUNTS)
    rng = np.random.default_rng(0)
    blank = {
        n: {k: rng.uniform(1, 2, shape).astype(np.float32) for k, shape in shapes.items()}
        for n, shapes in (("arrays", target.arrays), ("statistics", target.statistics))
    }
    for statistic, a in blank["statistics"].items():  # a closed form refuses class sums and counts that no samples have
        if "counts" in statistic or "class_sums" in statistic:
            a[:] = 0
        if "counts" in statistic and "held_out" not in statistic:
            a[0] = COUNTS[0]
    good = summed(method, target, broadcast, [ClientUpdate(0, at.index, COUNTS[0], **blank)])
    assert good.members
    assert gather(method, target, broadcast, [good], lambda event: None).partials
    grams = method.gram_sums(at, broadcast)
    assert grams
    for gram in grams:
        a = good.sums[gram].copy()
        a[0] = -1.0  # entry (0, 0) comes first, in a half as in a diagonal
        events = []
        bad = replace(good, sums={**good.sums, gram: a})
        assert not gather(method, target, broadcast, [bad], events.append).partials
        assert f"sum {gram}: 1 entries of a Gram's diagonal are negative" in events[0]["reason"]
