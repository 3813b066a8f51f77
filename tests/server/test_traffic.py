"""Bytes down and up, counted by hand."""

import numpy as np

from fcil.method import Broadcast, ClientUpdate
from fcil.server.traffic import Ledger, send, update_bytes


def floats(n, value=0.0):
    return np.full(n, value, np.float32)


def test_an_unchanged_array_is_sent_once_to_each_client():
    b = Broadcast({"a": floats(10), "b": floats(5)}, {"teacher": floats(100)})
    ledger, sent = send(Ledger(), b, [0, 1])
    assert sent == 2 * 4 * 115
    ledger, sent = send(ledger, b, [0, 1])
    assert sent == 0
    ledger, sent = send(ledger, b, [1, 2])  # only the newcomer
    assert sent == 4 * 115
    changed = Broadcast({"a": floats(10, 1), "b": floats(5)}, b.references)
    ledger, sent = send(ledger, changed, [0, 1, 2])
    assert sent == 3 * 4 * 10
    _, sent = send(ledger, b, [0])  # content that was replaced has to travel again
    assert sent == 4 * 10


def test_a_client_that_missed_a_change_gets_it_when_it_returns():
    ledger, _ = send(Ledger(), Broadcast({"a": floats(4)}), [0, 1])
    ledger, sent = send(ledger, Broadcast({"a": floats(4, 1)}), [0])
    assert sent == 16
    _, sent = send(ledger, Broadcast({"a": floats(4, 1)}), [0, 1])
    assert sent == 16


def test_a_reference_is_another_thing_than_an_array_of_the_same_name_and_double_precision_costs_double():
    ledger, sent = send(Ledger(), Broadcast({"a": floats(4)}, {"a": floats(4)}), [3])
    assert sent == 32
    _, sent = send(ledger, Broadcast({"a": floats(4).astype(np.float64)}), [3])
    assert sent == 32


def test_the_ledger_given_is_not_changed():
    first, _ = send(Ledger(), Broadcast({"a": floats(4)}), [0])
    held = dict(first.holders)
    send(first, Broadcast({"a": floats(4, 2)}), [0, 1])
    assert first.holders == held
    assert Ledger().holders == {}


def test_many_clients():
    ledger, sent = send(Ledger(), Broadcast({"a": floats(1)}), range(200))
    assert sent == 800
    assert send(ledger, Broadcast({"a": floats(1)}), [150, 200])[1] == 4


def test_a_reply_is_its_arrays_and_statistics():
    update = ClientUpdate(0, 0, 1, {"a": floats(3)}, {"g": np.zeros(2)}, {"loss": 1.0})
    assert update_bytes(update) == 12 + 16


def test_who_holds_what_came_before_is_sent_only_what_it_grew_by_and_anybody_else_all_of_it():
    ledger, _ = send(Ledger(), Broadcast({}, {"base1": floats(4)}), [0, 1])
    grown = Broadcast({}, {"base2": floats(9)}, {"base2": ("base1", 20)})
    ledger, sent = send(ledger, grown, [0, 2])
    assert sent == 20 + 36
    ledger, sent = send(ledger, grown, [0, 1, 2])  # client 1 was not asked then
    assert sent == 36
    assert {name for name in ledger.holders if "base" in name} == {"reference base2"}


def test_a_client_that_begins_with_less_is_sent_less():
    cut = {0: 1, 1: 4}
    _, sent = send(Ledger(), Broadcast({"a": floats(4)}), [0, 1], lambda arrays, c: {"a": arrays["a"][: cut[c]]})
    assert sent == 4 * (1 + 4)
