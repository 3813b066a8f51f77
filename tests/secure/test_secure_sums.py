"""Secure sums: exact whatever the order and whoever drops out, within the stated bound, and nothing but the sum."""

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcil.errors import MergeError
from fcil.secure import Keys, Revealed, SecureClient, decode, encode, error_bound, told_twice, unmasked
from fcil.secure.fixed_point import LARGEST, added, negative
from fcil.secure.masks import agreed, mask
from fcil.secure.shamir import joined, shares

SESSION = b"run, phase 3"
finite = st.floats(-LARGEST / 2, LARGEST / 2, allow_nan=False, width=64)
mixed = st.one_of(finite, st.floats(-1, 1), st.floats(-1e-15, 1e-15), st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0**-64]))


def integer(words):
    """The definition: high and low word as one integer, from 2^127 on negative."""
    value = int(words[0]) * 2**64 + int(words[1])
    return value - 2**128 if value >= 2**127 else value


# ---- fixed point -----------------------------------------------------------------------------------------------------


@given(st.lists(mixed, min_size=1, max_size=20))
@settings(max_examples=300, deadline=None)
def test_each_number_is_within_half_a_unit_and_the_sum_within_the_bound(numbers):
    words = encode(np.array(numbers))
    for x, w in zip(numbers, words, strict=True):
        assert abs(Fraction(integer(w), 2**64) - Fraction(x)) <= Fraction(1, 2**65)
    total = added(list(words[:, None]))
    assert integer(total[0]) == sum(integer(w) for w in words)
    true = sum(map(Fraction, numbers))
    bound = Fraction(float(error_bound(len(numbers), np.array(float(true)))))
    assert abs(Fraction(float(decode(total)[0])) - true) <= bound


@given(st.lists(mixed, min_size=2, max_size=8), st.integers(0, 2**31))
@settings(max_examples=100, deadline=None)
def test_sums_have_the_same_bits_in_any_order_and_grouping(numbers, seed):
    words = encode(np.array(numbers))[:, None]
    order = np.random.default_rng(seed).permutation(len(words))
    cut = seed % (len(words) - 1) + 1
    whole = added(list(words))
    np.testing.assert_array_equal(added(list(words[order])), whole)
    np.testing.assert_array_equal(added([added(list(words[:cut])), added(list(words[cut:]))]), whole)
    assert not added([whole, negative(whole)]).any()


@given(st.lists(mixed, min_size=1, max_size=5))
def test_a_number_that_is_a_multiple_of_the_unit_comes_back_as_it_is(numbers):
    exact = np.round(np.array(numbers) * 2.0**20) / 2.0**20
    np.testing.assert_array_equal(decode(encode(exact)), exact)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan, LARGEST, -LARGEST])
def test_numbers_without_a_place_are_refused(bad):
    with pytest.raises(MergeError, match="finite numbers below"):
        encode(np.array([1.0, bad]))


# ---- shares and masks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "threshold"), [(1, 1), (3, 2), (5, 3), (7, 7)])
def test_any_threshold_of_shares_gives_the_secret_and_fewer_do_not(n, threshold):
    secret = bytes(range(31)) + b"\xff"
    parts = shares(secret, range(n), threshold)
    for chosen in combinations(range(n), threshold):
        assert joined({h: parts[h] for h in chosen}, threshold) == secret
    with pytest.raises(MergeError, match="are needed"):
        joined({h: parts[h] for h in range(threshold - 1)}, threshold)
    if threshold > 1:  # one share less fits any other secret as well: what it is joined to is no secret of 32 bytes
        with pytest.raises(MergeError, match="belong together"):
            joined({h: parts[h] for h in range(threshold - 1)}, threshold - 1)
        wrong = {**{h: parts[h] for h in range(threshold)}, 0: parts[1]}
        with pytest.raises(MergeError, match="belong together"):
            joined(wrong, threshold)


def test_two_clients_agree_and_other_sessions_purposes_and_pairs_do_not():
    a, b, c = (SecureClient(i, SESSION, 2) for i in range(3))
    key = agreed(a._pair, b.keys.pair, SESSION, b"mask")
    assert key == agreed(b._pair, a.keys.pair, SESSION, b"mask")
    others = [
        agreed(a._pair, b.keys.pair, b"another", b"mask"), agreed(a._pair, b.keys.pair, SESSION, b"box"),
        agreed(a._pair, c.keys.pair, SESSION, b"mask"),
    ]  # fmt: skip
    assert len({key, *others}) == 4
    with pytest.raises(ValueError, match="Error computing shared key"):
        agreed(a._pair, bytes(32), SESSION, b"mask")  # a point that makes zeros of any key


def test_public_keys_that_are_there_twice_are_found_with_all_who_told_them():
    a, b, c, d = (SecureClient(i, SESSION, 3).keys for i in range(4))
    assert told_twice({0: a, 1: b, 2: c, 3: d}) == {}
    found = told_twice({0: a, 1: Keys(a.pair, b.box), 2: c, 3: Keys(d.pair, a.pair)})
    assert found == {client: [0, 1, 3] for client in (0, 1, 3)}
    assert told_twice({0: a, 1: Keys(b.box, b.box)}) == {1: [1]}
    found = told_twice({0: a, 1: a, 2: Keys(c.pair, a.box)})
    assert found == {client: [0, 1, 2] for client in (0, 1, 2)}


@pytest.mark.parametrize("other", [
    lambda key: key[:-1] + bytes([key[-1] | 0x80]),  # the bit that X25519 passes over
    lambda key: (int.from_bytes(key, "little") + 2**255 - 19).to_bytes(32, "little"),  # not reduced
])  # fmt: skip
def test_a_key_written_otherwise_is_the_same_key(other):
    """Else one could be told twice without two equal strings of bytes: the secrets agreed on with it are the same."""
    mine, small = SecureClient(0, SESSION, 2), (9).to_bytes(32, "little")  # 9 + p still has 255 bits
    assert agreed(mine._pair, small, SESSION, b"mask") == agreed(mine._pair, other(small), SESSION, b"mask")
    assert told_twice({1: Keys(small, mine.keys.box), 2: Keys(other(small), mine.keys.pair)}) == {1: [1, 2], 2: [1, 2]}


def test_a_mask_is_the_chacha20_stream_of_rfc_8439():
    """The first block for key and nonce of zeros: RFC 8439, appendix A.1, test vector 1."""
    stream = bytes.fromhex(
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
    )
    assert mask(bytes(32), 4).astype("<u8").tobytes() == stream


def test_a_mask_is_spread_evenly():
    bits = np.unpackbits(mask(b"k" * 32, 4096).view(np.uint8))
    assert abs(bits.mean() - 0.5) < 5 * 0.5 / np.sqrt(bits.size)


# ---- the protocol ----------------------------------------------------------------------------------------------------


def masked_by(client, words, received):
    client.receive(received)
    return client.masked(words)


def carried_out(values, threshold, silent=(), lost=(), quiet=(), tamper=None, session=SESSION):
    """A whole sum: `silent` clients never share, `lost` ones share and send no numbers, `quiet` ones do not reveal."""
    clients = {i: SecureClient(i, session, threshold) for i in range(len(values))}
    keys = {i: c.keys for i, c in clients.items()}
    boxes = {i: c.share(keys) for i, c in clients.items() if i not in silent}
    if tamper:
        tamper(boxes)
    masked = {
        i: masked_by(clients[i], encode(values[i]), {s: box[i] for s, box in boxes.items() if s != i})
        for i in boxes if i not in lost
    }  # fmt: skip
    revealed = {i: clients[i].reveal(set(masked)) for i in masked if i not in quiet}
    return masked, unmasked(masked, set(boxes), keys, revealed, session, threshold)


@given(st.integers(0, 2**31), st.integers(3, 7), st.data())
@settings(max_examples=25, deadline=None)
def test_the_sum_is_that_of_who_has_arrived_whoever_drops_out_when(seed, n, data):
    rng = np.random.default_rng(seed)
    values = [rng.standard_normal(5) * 10.0 ** rng.integers(-12, 9, 5) for _ in range(n)]
    threshold = data.draw(st.integers(n // 2 + 1, n))
    away = data.draw(st.lists(st.integers(0, n - 1), max_size=n - threshold, unique=True))
    how = [data.draw(st.sampled_from(["silent", "lost", "quiet"])) for _ in away]
    groups = {kind: [c for c, h in zip(away, how, strict=True) if h == kind] for kind in ("silent", "lost", "quiet")}
    masked, total = carried_out(values, threshold, **groups)
    assert set(masked) == set(range(n)) - {*groups["silent"], *groups["lost"]}
    np.testing.assert_array_equal(total, added([encode(values[c]) for c in masked]))  # exact: the same bits
    true = [sum((Fraction(float(values[c][j])) for c in masked), Fraction(0)) for j in range(5)]
    bound = error_bound(len(masked), np.array([float(t) for t in true]))
    for found, t, b in zip(decode(total), true, bound, strict=True):
        assert abs(Fraction(float(found)) - t) <= Fraction(float(b))


def test_what_the_server_receives_of_a_client_says_nothing_without_the_masks():
    """Zeros and ones are masked to numbers that are spread evenly; and the same numbers never to the same again."""
    zeros = [np.zeros(4096)] * 3
    masked, _ = carried_out(zeros, 2)
    again, _ = carried_out(zeros, 2)
    for client, words in masked.items():
        bits = np.unpackbits(words.view(np.uint8))
        assert abs(bits.mean() - 0.5) < 5 * 0.5 / np.sqrt(bits.size)
        assert not (words == again[client]).all(1).any()


def test_of_fewer_than_the_threshold_nothing_is_had():
    values = [np.ones(2)] * 4
    with pytest.raises(MergeError, match="numbers of 2 clients have arrived"):
        carried_out(values, 3, lost=(0, 1))
    with pytest.raises(MergeError, match="2 clients have shared"):
        carried_out(values, 3, silent=(0, 1))
    with pytest.raises(MergeError, match="2 shares of a secret"):
        carried_out(values, 3, quiet=(0, 1))


@pytest.mark.parametrize("threshold", [0, 1, 2, 5])
def test_a_threshold_that_two_groups_could_reach_is_refused(threshold):
    clients = [SecureClient(i, SESSION, threshold) for i in range(4)]
    with pytest.raises(MergeError, match="more than half"):
        clients[0].share({c.number: c.keys for c in clients})


def prepared(n=3, threshold=2):
    clients = [SecureClient(i, SESSION, threshold) for i in range(n)]
    keys = {c.number: c.keys for c in clients}
    return clients, keys, {c.number: c.share(keys) for c in clients}


def test_shares_are_revealed_once_and_of_one_secret_each():
    clients, _, boxes = prepared()
    received = {s: boxes[s][0] for s in (1, 2)}
    masked_by(clients[0], encode(np.ones(1)), received)
    revealed = clients[0].reveal({0, 1})
    assert (set(revealed.own_mask), set(revealed.pair_key)) == ({0, 1}, {2})
    with pytest.raises(MergeError, match="once"):
        clients[0].reveal({0, 1, 2})
    with pytest.raises(MergeError, match="once"):
        masked_by(clients[0], encode(np.ones(1)), received)
    with pytest.raises(MergeError, match="once"):
        clients[0].share({c.number: c.keys for c in clients})


def test_who_is_unknown_has_not_arrived():
    clients, _, boxes = prepared()
    masked_by(clients[0], encode(np.ones(1)), {s: boxes[s][0] for s in (1, 2)})
    with pytest.raises(MergeError, match="have shared"):
        clients[0].reveal({0, 1, 9})


@pytest.mark.parametrize("change", [lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b[:5], lambda b: b""])
def test_shares_that_were_changed_are_refused(change):
    def tamper(boxes):
        boxes[1][0] = change(boxes[1][0])

    with pytest.raises(MergeError, match="from client 1 were changed"):
        carried_out([np.ones(1)] * 3, 2, tamper=tamper)


def test_a_message_for_another_client_or_session_is_refused():
    def swap(boxes):
        boxes[1][0] = boxes[1][2]

    with pytest.raises(MergeError, match="changed on their way"):
        carried_out([np.ones(1)] * 3, 2, tamper=swap)


def test_wrong_shares_of_a_key_are_noticed():
    clients, keys, boxes = prepared()
    masked = {i: masked_by(clients[i], encode(np.ones(1)), {s: boxes[s][i] for s in boxes if s != i}) for i in (0, 1)}
    revealed = {i: clients[i].reveal({0, 1}) for i in (0, 1)}
    other = shares(bytes(32), range(3), 2)
    swapped = {i: Revealed(r.own_mask, {2: other[i]}) for i, r in revealed.items()}
    with pytest.raises(MergeError, match="another key than it announced"):
        unmasked(masked, {0, 1, 2}, keys, swapped, SESSION, 2)


def test_a_client_that_is_told_other_keys_than_its_own_stops():
    clients, keys, _ = prepared()
    fresh = SecureClient(0, SESSION, 2)
    with pytest.raises(MergeError, match="other keys"):
        fresh.share(keys)
    assert clients[0].keys == keys[0]
    assert "_pair" not in repr(clients[0])
