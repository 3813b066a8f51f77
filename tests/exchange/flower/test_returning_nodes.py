"""Nodes that come back as somebody else, twice, or not at all."""

from itertools import pairwise

import pytest
from flower_runs import InProcess, finish, first_phase, inline, refused, session, settings
from flwr.app import Message, RecordDict

from fcil.errors import ConfigError
from fcil.exchange.flower import handlers, messages, reply_messages
from fcil.exchange.flower.exchange import FlowerExchange
from fcil.exchange.flower.internals import error_reply
from fcil.exchange.flower.nodes import Nodes
from fcil.exchange.inline import Inline
from fcil.exchange.introduction import Introduction

TOLD = Introduction(0, "code", "settings", "weights", "data")


def exchange(**options):
    return FlowerExchange(InProcess(handlers.app, **options), settings(), node_seconds=0.1)


class Told(InProcess):
    """Nodes that introduce themselves as they are told to; counts who was asked."""

    def __init__(self, told):
        super().__init__(None, clients=len(told))
        self.told = dict(zip(self.partitions, told, strict=True))
        self.asked = []

    def _answer(self, message):
        node = message.metadata.dst_node_id
        self.asked.append(node)
        told = self.told[node]
        if told is None:
            return error_reply(message, 2, "no time")
        content = told if isinstance(told, RecordDict) else reply_messages.write_introduction(told)
        return Message(content, reply_to=message)


def introduced(client, **changes):
    return Introduction(**{**TOLD.__dict__, "client": client, **changes})


def met(told, clients=2, clock=None, seconds=0.0, patience=0.0):
    job = messages.Job.of(settings())
    return Nodes(Told(told), clients, job, introduced(-1), seconds, patience, **({"clock": clock} if clock else {}))


def test_a_node_that_came_back_under_the_same_id_as_another_client_is_met_again():
    """With registered keys a node keeps its id over a restart, so the id alone does not tell."""
    carrier = exchange()
    first, second, *_ = carrier.grid.partitions
    clients = carrier.grid.partitions[first], carrier.grid.partitions[second]
    carrier.grid.partitions[first], carrier.grid.partitions[second] = clients[1], clients[0]
    _, events = first_phase(carrier)
    assert sorted(refused(events)) == sorted(clients)
    progress, events = first_phase(carrier)  # both are asked who they are, and everybody works again
    assert refused(events) == {}
    assert progress.sha256() == first_phase(Inline(session().worker))[0].sha256()


def test_a_node_that_left_and_came_back_with_other_data_is_not_used():
    nodes = met([introduced(0), introduced(1)])
    (node,) = (n for n, told in nodes.grid.told.items() if told.client == 1)
    left = nodes.grid.partitions.pop(node)
    assert list(nodes.current()) == [0]
    nodes.grid.partitions[node] = left
    nodes.grid.told[node] = introduced(1, data="other")
    assert list(nodes.current()) == [0]
    assert nodes.why_missing(1).startswith("other data: sha256 other instead of data")
    nodes.grid.told[node] = introduced(1)
    nodes._silent.clear()  # as if the pause were over
    assert sorted(nodes.current()) == [0, 1]


def test_a_second_node_of_a_connected_client_waits_until_the_first_is_doubted():
    nodes = met([introduced(0), introduced(1)])
    first = nodes.current()[1]
    nodes.grid.partitions[99] = 1
    nodes.grid.told[99] = introduced(1)
    assert nodes.current()[1] == first
    nodes.grid.told[first] = None  # it hangs: an update did not come, and it does not introduce itself any more
    nodes.doubt(1)
    nodes.grid.told[99] = introduced(1)
    assert nodes.current()[1] == 99


def test_a_node_that_does_not_introduce_itself_is_asked_ever_less_often():
    now = [0.0]
    nodes = met([introduced(0), introduced(1), None], clock=lambda: now[0])
    (silent,) = (n for n, told in nodes.grid.told.items() if told is None)
    asked = []
    for second in range(0, 3000, 10):
        now[0] = float(second)
        before = len(nodes.grid.asked)
        nodes.current()
        if silent in nodes.grid.asked[before:]:
            asked.append(second)
    pauses = [b - a for a, b in pairwise(asked)]
    assert pauses == sorted(pauses)
    assert pauses[0] <= 120
    assert max(pauses) == 600
    assert sorted(nodes.current()) == [0, 1]


def test_a_node_that_decodes_its_images_is_waited_for_longer_than_one_that_is_not_there(monkeypatch):
    now = [0.0]

    class Decodes(Told):
        def _answer(self, message):
            now[0] += 50  # as long as a hello may take
            node = message.metadata.dst_node_id
            if self.told[node] is None and now[0] > 700:
                self.told[node] = introduced(1)
            return super()._answer(message)

    monkeypatch.setattr("fcil.exchange.flower.nodes.time.sleep", lambda seconds: None)
    job = messages.Job.of(settings())

    def nodes(told):
        now[0] = 0.0
        return Nodes(Decodes(told), 2, job, introduced(-1), 120.0, 900.0, clock=lambda: now[0])

    assert sorted(nodes([introduced(0), None]).current()) == [0, 1]
    monkeypatch.setattr(Decodes, "get_node_ids", lambda self: now.__setitem__(0, now[0] + 10) or [*self.told][:1])
    with pytest.raises(ConfigError, match=r"after 1\d\d seconds no node holds client 1"):
        nodes([introduced(0)])


def test_numbers_that_two_nodes_have_are_refused_whatever_their_images_are():
    with pytest.raises(ConfigError, match="two nodes have partition-id=1"):
        met([introduced(0), introduced(1), introduced(1, data="other")])


def test_which_nodes_have_one_number_is_told_and_so_are_the_problems_of_others():
    told = [introduced(0), introduced(0), introduced(1, code="x")]
    with pytest.raises(ConfigError) as error:
        met(told)
    first, second = sorted(list(Told(told).partitions)[:2])
    assert (
        f"two nodes have partition-id=0: give each SuperNode its own in --node-config (they are nodes {first}, {second}"
        in str(error.value)
    )
    assert "; client 1: other code: sha256 x instead of code" in str(error.value)


def test_where_the_nodes_are_clients_from_0_on_fewer_clients_may_be_meant():
    with pytest.raises(ConfigError) as error:
        met([introduced(0), introduced(1), introduced(2)], clients=10)
    said = str(error.value)
    assert (
        "no node holds client 3, 4, 5, 6, 7, 8, 9 (3 nodes are connected, 3 introduced themselves, as 0, 1, 2)" in said
    )
    assert "Set partition.clients = 3 if these are all, or start a SuperNode for each" in said
    assert "num-supernodes" not in said


@pytest.mark.parametrize("told", [[introduced(1), introduced(2)], [introduced(0), None], []])
def test_else_they_are_not(told):
    with pytest.raises(ConfigError, match=r"\. Start a SuperNode for each with --node-config 'partition-id=K'"):
        met(told, clients=10)


def test_in_a_simulation_more_nodes_are_meant():
    class InMemoryGrid(Told):
        """Named as the grid of Flower's simulation."""

    with pytest.raises(
        ConfigError, match=r"Simulate as many nodes with --federation-config 'num-supernodes=2'"
    ) as error:
        Nodes(InMemoryGrid([introduced(0)]), 2, messages.Job.of(settings()), introduced(-1), 0.0)
    assert "partition-id" not in str(error.value)


def test_a_node_that_restarts_while_others_are_waited_for_is_not_two(monkeypatch):
    class Restarts(Told):
        def get_node_ids(self):
            if (
                len(self.asked) == 1 and len(self.told) == 1
            ):  # it introduced itself, ended, and is back under another id, with the other one
                (old,) = self.told
                self.told = {old + 1: self.told[old], old + 2: introduced(1)}
                self.partitions = dict.fromkeys(self.told, 0)
            return list(self.told)

    monkeypatch.setattr("fcil.exchange.flower.nodes.time.sleep", lambda seconds: None)
    nodes = Nodes(Restarts([introduced(0)]), 2, messages.Job.of(settings()), introduced(-1), 60.0)
    assert sorted(nodes.current()) == [0, 1]


def test_nodes_with_numbers_beyond_the_clients_are_left_aside():
    nodes = met([introduced(0), introduced(1), introduced(7), introduced(-1)])
    assert sorted(nodes.current()) == [0, 1]
    assert sorted(nodes.first) == [0, 1]


def test_the_reason_of_a_node_that_cannot_introduce_itself_is_told():
    with pytest.raises(
        ConfigError,
        match=r"client 1 \(2 nodes are connected, 1 introduced themselves, as 0; the last .* said: no time\)",
    ):
        met([introduced(0), None])


def test_nonsense_in_place_of_an_introduction_is_no_node():
    with pytest.raises(ConfigError, match="no node holds client 1"):
        met([introduced(0), RecordDict()])


def test_all_problems_are_told_at_once():
    with pytest.raises(ConfigError, match=r"client 0: other code.*; client 1: other weights"):
        met([introduced(0, code="x"), introduced(1, weights="y")])


def test_the_first_phase_over_doubted_nodes_still_ends_in_the_bits_of_inline():
    carrier = exchange(seed=5)
    for client in range(3):
        carrier.nodes.doubt(client)
    assert finish(carrier).sha256() == inline().sha256()
