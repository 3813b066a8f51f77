"""Time-outs and waits for nodes on other machines, on a clock of our own."""

from types import SimpleNamespace

import pytest
from flower_runs import InProcess, first_phase, inline, inline_without, plan, refused, session, settings

from fcil.errors import RunError
from fcil.exchange.flower import handlers, ray_grid, settling, waiting
from fcil.exchange.flower.exchange import FlowerExchange
from fcil.exchange.flower.internals import error_reply
from fcil.exchange.flower.ray_calls import Call
from fcil.exchange.flower.ray_workers import Workers
from fcil.exchange.flower.waiting import Waiting
from fcil.server.loop import run, step
from fcil.server.plan import initial_progress


class Clock:
    """Time that passes only where somebody sleeps; things happen at given times."""

    def __init__(self):
        self.now, self.events = 0.0, []

    def monotonic(self):
        return self.now

    def at(self, time, action):
        self.events.append((time, action))

    def sleep(self, seconds):
        assert seconds > 0
        self.now += seconds
        due = [e for e in self.events if e[0] <= self.now]
        self.events = [e for e in self.events if e[0] > self.now]
        for _, action in due:
            action()


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(settling, "time", clock)
    monkeypatch.setattr(waiting, "time", clock)
    return clock


class Timed(InProcess):
    """Nodes that answer so many seconds after they were asked; client -> seconds, None for never."""

    def __init__(self, clock, seconds, **options):
        super().__init__(handlers.app, **options)
        self.clock, self.seconds, self.due = clock, seconds, []

    def push_messages(self, messages):
        ids = super().push_messages(messages)
        for reply in self.arrived:
            seconds = self.seconds.get(self.partitions[reply.metadata.src_node_id], 0)
            if seconds is not None:
                self.due.append((self.clock.now + seconds, reply))
        self.arrived = []
        return ids

    def pull_messages(self, message_ids):
        now = [reply for at, reply in self.due if at <= self.clock.now]
        self.due = [(at, reply) for at, reply in self.due if at > self.clock.now]
        return now

    def send_and_receive(self, messages, *, timeout=None):
        InProcess.push_messages(self, list(messages))
        arrived, self.arrived = self.arrived, []
        return arrived


class InMemoryGrid(Timed):
    """Named as the grid of Flower's simulation."""


def over(grid, clock, **run):
    carrier = FlowerExchange(grid, settings(run={"device": "cpu", **run}), node_seconds=0.1)
    carrier.waiting = Waiting(carrier.nodes, carrier.config.run.wait_for_clients, clock.monotonic, clock.sleep)
    carrier.nodes._clock = clock.monotonic
    return carrier


def node_of(grid, client):
    return next(node for node, partition in grid.partitions.items() if partition == client)


# ---- run.client_timeout ----------------------------------------------------------------------------------------------

QUEUEING = {0: 8.0, 1: 24.0, 2: 16.0}


def test_the_time_of_a_client_counts_from_when_it_was_asked(clock):
    progress, events = first_phase(over(Timed(clock, QUEUEING), clock, client_timeout=20.0))
    assert refused(events) == {1: "no reply within 20 seconds (run.client_timeout)"}
    assert 20 <= clock.now < 20.5
    assert progress.sha256() == inline_without(1).sha256()


def test_in_flowers_simulation_where_nodes_queue_it_counts_from_the_last_reply(clock):
    _, events = first_phase(over(InMemoryGrid(clock, QUEUEING), clock, client_timeout=10.0))
    assert refused(events) == {}
    clock.now = 0.0
    _, events = first_phase(over(InMemoryGrid(clock, {**QUEUEING, 1: None}), clock, client_timeout=10.0))
    assert refused(events) == {1: "no reply within 10 seconds (run.client_timeout)"}
    assert 26 <= clock.now < 26.5


# ---- run.wait_for_clients --------------------------------------------------------------------------------------------


def whole(carrier, **sections):
    events, saved = [], []
    built = plan(**sections) if sections else session().plan
    progress = run(built, initial_progress(built), carrier, events.append, saved.append)
    return progress, events


def test_a_node_that_is_away_at_a_phases_start_is_waited_for(clock):
    grid = Timed(clock, {})
    carrier = over(grid, clock, wait_for_clients=60.0)
    gone = node_of(grid, 1)
    del grid.partitions[gone]
    clock.at(30, lambda: grid.partitions.update({77: 1}))
    done, events = whole(carrier)
    assert refused(events) == {}
    assert 30 <= clock.now < 32
    assert done.sha256() == inline().sha256()


def test_one_that_does_not_come_back_costs_the_wait_once_and_is_used_again_when_it_does(clock):
    grid = Timed(clock, {})
    carrier = over(grid, clock, wait_for_clients=60.0)
    gone = node_of(grid, 1)
    del grid.partitions[gone]
    progress, events = first_phase(carrier)
    assert refused(events) == {1: "its node is not connected"}
    assert 60 <= clock.now < 61
    second = step(session().plan, progress, carrier, events.append)
    assert clock.now < 61  # not waited for again
    assert len([e for e in events if e["event"] == "refused"]) == 2
    grid.partitions[78] = 1
    third = []
    step(session().plan, second, carrier, third.append)
    assert refused(third) == {}


def test_too_few_updates_are_asked_for_again_until_the_time_is_over(clock):
    """A node is lost in the round, and comes back under another id."""
    sections = {"run": {"device": "cpu", "evaluation_batch": 16, "min_clients": 3, "wait_for_clients": 100.0}}
    grid = Timed(clock, {})
    carrier = over(grid, clock, min_clients=3, wait_for_clients=100.0)
    owner, answer = node_of(grid, 2), grid._answer

    def lost(message):
        if message.metadata.dst_node_id == owner and message.metadata.message_type == "train":
            grid.partitions.pop(owner)
            clock.at(clock.now + 40, lambda: grid.partitions.update({99: 2}))
            return error_reply(message, 1, "Node Unavailable")
        return answer(message)

    grid._answer = lost
    grid.push_messages = lambda messages: pushed(grid, messages)
    built = plan(**sections)
    events = []
    progress = step(built, initial_progress(built), carrier, events.append)
    assert refused(events) == {}
    assert sorted(e["client"] for e in events if e["event"] == "client") == [0, 1, 2]
    assert 40 <= clock.now < 43
    whole_phase, _ = first_phase(over(Timed(clock, {}), clock))
    assert progress.sha256() == whole_phase.sha256()


def pushed(grid, messages):
    """As `Timed.push_messages`, for nodes that are gone when their reply is written."""
    ids = InProcess.push_messages(grid, messages)
    grid.due += [(grid.clock.now, reply) for reply in grid.arrived]
    grid.arrived = []
    return ids


def test_when_nobody_comes_the_run_stops_as_it_does_without_waiting(clock):
    sections = {"run": {"device": "cpu", "evaluation_batch": 16, "min_clients": 3, "wait_for_clients": 100.0}}
    grid = Timed(clock, {})
    carrier = over(grid, clock, min_clients=3, wait_for_clients=100.0)
    del grid.partitions[node_of(grid, 0)]
    events = []
    built = plan(**sections)
    with pytest.raises(RunError, match=r"2 of 3 clients sent a good update, but run.min_clients = 3"):
        step(built, initial_progress(built), carrier, events.append)
    assert refused(events) == {0: "its node is not connected"}
    assert 100 <= clock.now < 103


def test_a_node_that_fails_all_the_time_is_asked_again_with_pauses_and_not_for_ever(clock):
    sections = {"run": {"device": "cpu", "evaluation_batch": 16, "min_clients": 3, "wait_for_clients": 10.0}}
    grid = Timed(clock, {})
    carrier = over(grid, clock, min_clients=3, wait_for_clients=10.0)
    failing, answer, asked = node_of(grid, 1), grid._answer, []

    def fails(message):
        if message.metadata.dst_node_id == failing and message.metadata.message_type == "train":
            asked.append(clock.now)
            return error_reply(message, 1, "boom")
        return answer(message)

    grid._answer = fails
    built = plan(**sections)
    events = []
    with pytest.raises(RunError, match="2 of 3"):
        step(built, initial_progress(built), carrier, events.append)
    assert refused(events) == {1: "boom"}
    assert 5 <= len(asked) <= 11
    assert 10 <= clock.now < 12


def test_without_the_setting_nothing_waits(clock):
    grid = Timed(clock, {})
    carrier = over(grid, clock)
    del grid.partitions[node_of(grid, 1)]
    first_phase(carrier)
    assert clock.now < 1


def test_enough_updates_are_enough(clock):
    """A failed client is not asked again where the round has the updates that it needs."""
    grid = Timed(clock, {1: None})
    carrier = over(grid, clock, wait_for_clients=500.0, client_timeout=20.0)
    progress, events = first_phase(carrier)
    assert list(refused(events)) == [1]
    assert clock.now < 21
    assert progress.sha256() == inline_without(1).sha256()


# ---- Ray -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deadline", [float("inf"), 1000.0])
def test_a_start_that_is_overdue_does_not_keep_the_grid_awake_while_others_work(monkeypatch, deadline):
    clock, asked = Clock(), []
    clock.now = 500.0

    def wait(refs, *, num_returns=1, timeout=None):
        asked.append(timeout)
        return [], refs

    monkeypatch.setattr(ray_grid, "time", clock)
    monkeypatch.setattr(ray_grid, "ray", SimpleNamespace(wait=wait))
    grid = ray_grid.RayGrid.__new__(ray_grid.RayGrid)
    call = Call([], None, 0.0)
    call.deadline = deadline
    grid._workers = Workers.__new__(Workers)
    grid._busy, grid._workers.starting = {"call": call}, {"start": (None, 300.0)}
    assert list(grid._collect(None)) == []
    assert asked == [None if deadline == float("inf") else 500.0]
    grid._busy = {}
    assert list(grid._collect(None)) == []
    assert asked[1] == 0.0  # then nothing else can come, and the run stops
