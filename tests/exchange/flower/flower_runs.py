"""A run of seconds, what it ends in when called inline, and a grid that calls nodes in this process."""

import functools
import random
from uuid import uuid4

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid

from fcil.config import from_table
from fcil.engine.simulation import prepare
from fcil.exchange.flower.internals import empty_run, error_reply, identify, number
from fcil.exchange.inline import Inline
from fcil.server.loop import run, step
from fcil.server.plan import initial_progress

TABLE = {
    "data": {"name": "digits", "train_limit": 120, "test_limit": 60},
    "tasks": {"count": 2},
    "partition": {"clients": 3, "min_samples": 2},
    "train": {"rounds": 2, "epochs": 1},
    "run": {"device": "cpu", "evaluation_batch": 16},
}


ADAPTED = [
    {"name": "ties", "rank": 2, "at": "both", "adapter": "snella(sparsity = 0.5)"},
    {"name": "regmean", "rank": 2, "adapter": "loftq(bits = 2, iterations = 1)"},
    {"name": "dualprompt", "length": 2, "general_length": 2},
    {"name": "fedavg", "adapter": "full"},
]
"""[method] of runs with adapters that send more than pairs, or other arrays in each task."""


def settings(**sections):
    return from_table([("base", TABLE), ("test", sections)])


@functools.cache
def session():
    return prepare(settings())


def plan(**sections):
    return prepare(settings(**sections)).plan if sections else session().plan


def finish(exchange, plan=None, events=None):
    """A whole run."""
    plan = plan or session().plan
    return run(
        plan, initial_progress(plan), exchange, (events if events is not None else []).append, lambda progress: None
    )


@functools.cache
def inline():
    return finish(Inline(session().worker))


@functools.cache
def inline_without(client):
    """The first phase, when one client's update is lost."""

    class Without(Inline):
        def __call__(self, request):
            return (reply for reply in super().__call__(request) if reply.client != client)

    return step(session().plan, initial_progress(session().plan), Without(session().worker), lambda event: None)


def first_phase(exchange, **sections):
    """Progress after the first phase, and the events."""
    events = []
    built = plan(**sections)
    return step(built, initial_progress(built), exchange, events.append), events


def refused(events):
    return {e["client"]: e["reason"] for e in events if e["event"] == "refused"}


class InProcess(Grid):
    """Nodes with random ids and a partition each, as in Flower's own runtimes; replies come one by one, shuffled."""

    def __init__(self, app, clients=3, seed=0, repeat=1, partitions=None, node_configs=None):
        identify()
        self.app, self.random, self.repeat = app, random.Random(seed), repeat
        ids = self.random.sample(range(1 << 20, 1 << 60), clients)
        self.partitions = dict(zip(ids, partitions or range(clients), strict=True))
        self.node_configs = node_configs or {}
        """Client -> what else the --node-config of its node says."""
        self.arrived = []
        self.sent = []

    def _answer(self, message):
        node = message.metadata.dst_node_id
        client = self.partitions[node]
        node_config = {"partition-id": client, **self.node_configs.get(client, {})}
        context = Context(1, node, node_config, RecordDict(), {})
        try:
            return self.app(message, context)
        except Exception as error:
            return error_reply(message, 2, f"Traceback\n  a frame\n{type(error).__name__}: {error}\n")

    def push_messages(self, messages):
        assert isinstance(messages, list)
        for message in messages:
            number(message, uuid4().hex)
            self.sent.append(message)
            self.arrived += [self._answer(message)] * self.repeat
        self.random.shuffle(self.arrived)
        return [message.metadata.message_id for message in messages]

    def pull_messages(self, message_ids):
        return [self.arrived.pop()] if self.arrived else []

    def send_and_receive(self, messages, *, timeout=None):
        self.push_messages(list(messages))
        arrived, self.arrived = self.arrived, []
        return arrived

    def get_node_ids(self):
        return list(self.partitions)

    def set_run(self, run):
        pass

    @property
    def run(self):
        return empty_run()

    def create_message(self, content, message_type, dst_node_id, group_id, ttl=None):
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)
