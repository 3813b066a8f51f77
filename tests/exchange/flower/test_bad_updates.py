"""Every kind of bad update, sent to every shipped method: refused whole, and the round is that of the others."""

from dataclasses import replace

import numpy as np
import pytest
from bad_updates import BAD, PAGE, STRANGER, UPDATES, WIRE, WORDS, bad_replies, cases, written
from small import mostly_slow

from fcil.exchange.flower import reply_messages
from fcil.method import ClientUpdate
from fcil.registry import build_method, method_names
from fcil.server.gathering import gather
from fcil.server.replies import Failure, Partial, summed

KINDS = (*UPDATES, *WIRE)
ADDITIVE = [name for name in method_names() if build_method(name, {}).additive]
LOST = Failure(BAD, "lost")


def says(kind, reason):
    if kind == "another client's number" and "second reply" in reason:
        return True
    words = WORDS[kind].split("|") if kind in UPDATES else [WORDS[kind]]
    return any(word in reason for word in words)


def test_there_are_many_kinds_and_each_has_its_words():
    assert len(KINDS) >= 25
    assert list(WORDS) == list(KINDS)


@pytest.mark.parametrize("name", mostly_slow(method_names()))
def test_every_kind_is_refused_whole_by_every_method(name):
    tried = set()
    for case in cases(name).values():
        without, lost, good = case.outcome(case.with_in_place(LOST))
        assert (lost, good) == ([(BAD, "lost")], len(case.updates) - 1)
        assert case.outcome(case.updates)[0] != without  # so that an update which got in would show
        for kind in KINDS:
            for bad in bad_replies(case, kind):
                tried.add(kind)
                # one with another client's number comes after that client's own, or it would be that client's
                in_place = [case.updates[2], bad] if getattr(bad, "client", BAD) == 2 else [bad, case.updates[2]]
                state, refused, good = case.outcome([case.updates[0], *in_place])
                assert state == without, kind
                assert good == len(case.updates) - 1, kind
                ((_, reason),) = refused
                assert says(kind, reason), f"{kind}: {reason}"
                assert len(reason) <= 2000
                assert all(c.isprintable() for c in reason)
    missing = set(KINDS) - tried
    assert missing <= {
        "a Gram with a negative diagonal", "half a Gram of a wrong length", "all of a Gram in place of its half",
        "transposed", "flattened",
    }  # fmt: skip


def test_a_second_reply_changes_nothing():
    for name in method_names():
        for case in cases(name).values():
            whole = case.outcome(case.updates)
            twice = case.outcome([*case.updates, replace(case.updates[BAD])])
            assert twice[0] == whole[0]
            assert twice[1] == [(BAD, "a second reply to the same request")]


@pytest.mark.parametrize("name", mostly_slow(ADDITIVE))
def test_a_worker_leaves_bad_updates_out_of_its_sums(name):
    for case in cases(name).values():
        request = case.request
        method, target, sent = request.method, request.expected, request.broadcast
        without = summed(method, target, sent, case.with_in_place(LOST))
        for kind in UPDATES:
            bad = UPDATES[kind](case)
            if bad is None or bad.client == 2:
                continue
            partial = summed(method, target, sent, case.with_in_place(bad))
            assert [m.client for m in partial.members] == [0, 2], kind
            assert partial.sums.keys() == without.sums.keys()
            for sum_name, a in partial.sums.items():
                np.testing.assert_array_equal(a, without.sums[sum_name], err_msg=kind)


def bad_sums(partial):
    """Kind of bad sums -> the sums, and what the reason must say."""
    name, a = next(iter(partial.sums.items()))
    first, *others = partial.members
    poisoned = np.asarray(a, copy=True)
    poisoned.flat[0] = np.nan

    def sums(**changed):
        return replace(partial, sums={**partial.sums, **changed})

    return {
        "missing": (replace(partial, sums={n: x for n, x in partial.sums.items() if n != name}), "missing"),
        "too many": (sums(extra=np.zeros(2)), "not asked for ['extra']"),
        "NaN": (sums(**{name: poisoned}), "NaN or infinite"),
        "shape": (sums(**{name: a[None]}), "shape (1,"),
        "type": (sums(**{name: np.asarray(a, np.int64)}), "type int64"),
        "stale": (replace(partial, phase=0), "stale"),
        "count": (replace(partial, members=(replace(first, num_examples=10**6), *others)), "claims 1000000"),
        "stranger": (replace(partial, members=(replace(first, client=STRANGER), *others)), "was not asked"),
        "twice": (replace(partial, members=(first, first, *others)), "second reply"),
        "metric": (replace(partial, members=(replace(first, metrics={"images": -1.0}), *others)), "metric images"),
    }


@pytest.mark.parametrize("name", mostly_slow(ADDITIVE))
def test_bad_sums_are_refused_whole_by_every_method_that_adds(name):
    for case in cases(name).values():
        request = case.request
        method, target, sent = request.method, request.expected, request.broadcast
        partial = summed(method, target, sent, case.updates[:2])
        other = summed(method, target, sent, case.updates[2:])
        for kind, (bad, words) in bad_sums(partial).items():
            events = []
            gathered = gather(method, target, sent, [bad, other], events.append)
            assert [p.members for p in gathered.partials] == [other.members], kind
            refused = [e["reason"] for e in events if e["event"] == "refused"]
            assert len(refused) == len(bad.members), kind
            assert all(words in reason for reason in refused), kind


def test_odd_layouts_in_memory_are_no_fault_and_change_no_bit():
    """Views with other strides hold the same values; on the wire they lie in rows again."""
    for case in cases("lorm").values():
        update, whole = case.updates[BAD], case.outcome(case.updates)[0]
        field = case.field
        for lay in (np.asfortranarray, lambda a: np.repeat(a, 2, -1)[..., ::2], lambda a: a[::-1].copy()[::-1]):
            odd = replace(update, **{field: {n: lay(a) for n, a in getattr(update, field).items()}})
            read = reply_messages.read_update(reply_messages.write_update(odd))
            assert case.outcome(case.with_in_place(read))[:2] == (whole, [])


def test_an_empty_group_is_no_sum():
    (case, *_) = cases("fedavg").values()
    request = case.request
    nothing = Partial(request.phase.index, (), (LOST,), {"x": np.full(1, np.nan)})
    gathered = gather(request.method, request.expected, request.broadcast, [nothing], lambda event: None)
    assert (gathered.partials, gathered.updates) == ([], [])


def test_what_a_client_says_in_a_reason_can_neither_steer_a_terminal_nor_fill_the_records():
    (case, *_) = cases("fedavg").values()
    for text in ("\x1b[2J\x07", "x" * 10**6, "\ud800"):
        ((_, reason),) = case.outcome(case.with_in_place(Failure(BAD, text)))[1]
        assert len(reason) <= 2000
        assert all(c.isprintable() for c in reason)


def test_a_whole_gram_must_be_symmetric():
    from fcil.method import GramShape
    from fcil.server.validation import arrays_refusal

    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 4)).astype(np.float32)
    wanted = {"gram": GramShape((4, 4), "matrix")}
    good = x.T @ x
    assert arrays_refusal("statistic", {"gram": good}, wanted) is None
    assert arrays_refusal("statistic", {"gram": good * (1 + 1e-6 * rng.standard_normal((4, 4)))}, wanted) is None
    good[0, 1] += 1.0
    assert "a Gram matrix is symmetric" in arrays_refusal("statistic", {"gram": good}, wanted)


def test_the_table_in_the_docs_is_what_the_server_says():
    """To write it anew: python tests/exchange/flower/bad_updates.py --write."""
    page = PAGE.read_text()
    assert written(page) == page


def test_good_updates_pass():
    for name in method_names():
        for case in cases(name).values():
            assert isinstance(case.updates[BAD], ClientUpdate)
            assert case.outcome(case.updates)[1:] == ([], len(case.updates))
