"""What a client's process keeps and refuses in secure sums, whatever the server asks for and how often."""

from dataclasses import replace

import numpy as np
import pytest

from fcil.errors import MergeError
from fcil.exchange import secure_party
from fcil.exchange.secure_party import GONE, Parties, Sum, context_of
from fcil.method import Broadcast, ClientUpdate
from fcil.secure import decode, unmasked
from fcil.server.replies import Partial

LIKE = {"a": (3,), "b": (1,)}


class Clients:
    """Some clients of one run, with a process each, and numbers that are their own."""

    def __init__(self, n, run="run", folder=None):
        self.each, self.run, self.folder, self.worked = [Parties() for _ in range(n)], run, folder, []

    def work(self, client, names=("a", "b")):
        def work():
            self.worked.append(client)
            sums = {names[0]: np.arange(3.0) + client, names[1]: np.ones(1)}
            return Partial(4, (ClientUpdate(client, 4, 1, {}, {}),), (), sums)

        return work

    def deliver(self, session, among):
        """The sum up to the masked numbers."""
        of = Sum(self.run, 4, session, len(among) // 2 + 1)
        keys = {c: self.each[c].keys(of, c) for c in among}
        boxes = {c: self.each[c].share(of, c, keys) for c in among}
        self.received = {c: {s: boxes[s][c] for s in among if s != c} for c in among}
        masked = {c: self.each[c].masked(of, c, self.received[c], self.work(c), LIKE).sums["masked"] for c in among}
        return of, keys, masked

    def reveal(self, of, among):
        return {c: self.each[c].reveal(of, c, set(among), self.folder) for c in among}


def test_a_sum_of_which_no_share_was_missing_is_had_again_and_of_no_others():
    clients = Clients(4)
    of, _, _ = clients.deliver(b"1", [0, 1, 2])
    for client in (0, 1):  # the third reveals nothing
        clients.each[client].reveal(of, client, {0, 1, 2})
    for session in (b"2", b"3"):
        of, keys, masked = clients.deliver(session, [0, 1, 2])
        total = decode(unmasked(masked, {0, 1, 2}, keys, clients.reveal(of, [0, 1, 2]), of.session, of.threshold))
        assert np.array_equal(total, [3, 6, 9, 3])
    of, _, _ = clients.deliver(b"4", [0, 1, 2, 3])
    with pytest.raises(MergeError, match="shares were revealed before for this phase's sum over other clients"):
        clients.reveal(of, [0, 1, 2, 3])


def test_a_node_with_a_folder_remembers_for_longer_than_its_process_lives(tmp_path):
    clients = Clients(3, folder=tmp_path)
    clients.reveal(clients.deliver(b"1", [0, 1, 2])[0], [0, 1, 2])
    again = Clients(3, folder=tmp_path)
    of, _, _ = again.deliver(b"2", [0, 1])
    with pytest.raises(MergeError, match="over other clients"):
        again.reveal(of, [0, 1])
    again.reveal(again.deliver(b"3", [0, 1, 2])[0], [0, 1, 2])


def test_no_share_is_revealed_that_could_not_be_remembered(tmp_path):
    (tmp_path / secure_party.MEMORY).write_text("a file where the folder should be")
    clients = Clients(2, folder=tmp_path)
    of, _, _ = clients.deliver(b"1", [0, 1])
    with pytest.raises(MergeError, match="cannot be read"):
        clients.reveal(of, [0, 1])


def test_keys_are_not_drawn_again_once_shares_are_revealed():
    clients = Clients(2)
    of, _, _ = clients.deliver(b"1", [0, 1])
    clients.reveal(of, [0, 1])
    with pytest.raises(MergeError, match="drawn once"):
        clients.each[0].keys(of, 0)
    assert not clients.each[0].holds()


def test_numbers_are_asked_for_twice_and_worked_for_once():
    clients = Clients(3)
    of, _, _ = clients.deliver(b"1", [0, 1, 2])
    with pytest.raises(MergeError, match="once"):
        clients.each[0].masked(of, 0, clients.received[0], clients.work(0), LIKE)
    assert clients.worked == [0, 1, 2]


def test_two_runs_on_one_node_keep_their_secrets_beside_each_other():
    parties, a, b = Parties(), Sum("a", 1, b"a", 2), Sum("b", 1, b"b", 2)
    keys = {0: parties.keys(a, 0), 1: Parties().keys(a, 1)}
    parties.keys(b, 0)
    assert parties.share(a, 0, keys).keys() == {1}


def test_secrets_of_a_sum_that_took_too_long_are_gone(monkeypatch):
    now, parties, of = [0.0], Parties(), Sum("a", 1, b"a", 2)
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    keys = {0: parties.keys(of, 0, 10.0), 1: Parties().keys(of, 1)}
    now[0] = 9.0
    assert parties.holds()
    now[0] = 10.0
    with pytest.raises(MergeError) as error:
        parties.share(of, 0, keys)
    assert str(error.value) == GONE
    assert not parties.holds()


@pytest.mark.parametrize("like", [{"a": (3,), "c": (1,)}, {"a": (1,), "b": (3,)}, {"a": (3,)}])
def test_sums_of_other_names_or_shapes_are_not_added_to_those_of_others(like):
    """The server sees masked numbers in a row, and could not tell."""
    clients = Clients(2)
    of = Sum("run", 4, b"1", 2)
    keys = {c: clients.each[c].keys(of, c) for c in (0, 1)}
    boxes = {c: clients.each[c].share(of, c, keys) for c in (0, 1)}
    partial = clients.each[0].masked(of, 0, {1: boxes[1][0]}, clients.work(0), like)
    assert not partial.members
    assert not partial.sums
    assert "secure sums: " in partial.failures[0].reason


def test_clients_that_were_asked_for_unlike_things_have_no_sum():
    """Else a server could have one client train from weights that make its numbers stand out."""
    one, other = (Broadcast({"w": np.full(2, value)}) for value in (0.0, 1.0))
    for second, alike in ((one, True), (other, False)):
        clients, of = Clients(2), Sum("run", 4, b"1", 2)
        keys = {c: clients.each[c].keys(of, c) for c in (0, 1)}
        boxes = {c: clients.each[c].share(of, c, keys) for c in (0, 1)}
        masked = {
            c: clients.each[c]
            .masked(of, c, {1 - c: boxes[1 - c][c]}, clients.work(c), LIKE, context_of("run", 4, asked))
            .sums["masked"]
            for c, asked in ((0, one), (1, second))
        }
        total = decode(unmasked(masked, {0, 1}, keys, clients.reveal(of, [0, 1]), of.session, 2))
        assert np.array_equal(total, [1, 3, 5, 2]) == alike
    assert len({context_of(*of) for of in (("a", 1, one), ("b", 1, one), ("a", 2, one), ("a", 1, other))}) == 4


def test_a_key_that_is_there_twice_is_refused():
    """Two invented clients with one key, or a client's own key given out as another's."""
    parties, of = Parties(), Sum("run", 4, b"1", 2)
    keys = {0: parties.keys(of, 0), 1: Parties().keys(of, 1)}
    with pytest.raises(MergeError, match="there twice"):
        parties.share(of, 0, {**keys, 2: replace(keys[1], box=Parties().keys(of, 2).box)})
