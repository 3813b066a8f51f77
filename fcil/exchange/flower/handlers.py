"""Works for fcil's clients in this process, the same on our Ray actors, in Flower's simulation and on SuperNodes.

Which client a message is for stands in the message. A node that has a `partition-id` (Flower's simulation, a
SuperNode) holds that client's data only and refuses any other; our Ray actors have none and serve every client.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fcil.arrays import Arrays
from fcil.client.store import ClientStore
from fcil.config import from_table, identity
from fcil.errors import ConfigError
from fcil.exchange.flower import messages, reply_messages, secure_messages
from fcil.exchange.flower.method_files import node_method, paths_here
from fcil.exchange.flower.node_settings import local_settings
from fcil.exchange.flower.secure_answers import UNMASKED, check_process, secure_answer
from fcil.exchange.introduction import Introduction, introduce
from fcil.exchange.secure_party import Parties
from fcil.exchange.shared import Shared
from fcil.exchange.worker import Worker
from fcil.registry import label
from fcil.server.replies import Failure, Partial, crashed

__all__ = ["app", "holds", "worker_for"]

app = ClientApp()

_shared = Shared()
"""What the runs share that one of our workers works for, one after another."""
_workers: dict[tuple[str, str, str], Worker] = {}
"""The worker of this process; it outlives messages, so backbone and data stay resident."""
_introductions: dict[int, Introduction] = {}
"""What this process has of the worker's run, by the number of the client that asks; forgotten with the worker."""
_parties = Parties()
"""The clients of this process in secure sums; their secrets end with it."""
holds = _parties.holds
"""Whether this process keeps what a message to come needs, and nobody else has."""


class _NoStore(ClientStore):
    """The store of a node that has no folder: enough for methods that keep nothing on their clients."""

    def read(self, client: int, phase: int) -> dict[str, Any]:
        return {}

    def write(self, client: int, phase: int, arrays: Arrays) -> None:
        if arrays:
            raise RuntimeError(
                "this method keeps arrays on the client between rounds, and this node has no folder for them: "
                "start its SuperNode with --node-config \"state-dir='/a/folder' ...\""
            )


def _store(job: messages.Job, context: Context) -> ClientStore:
    """The store in the node's own folder, one per run, or else in the run's folder that the server names.

    A run goes on with other values of settings that its numbers do not depend on, so only the others name its folder.
    """
    folder = context.node_config.get("state-dir")
    if folder:
        table = identity(json.loads(job.config))
        table["method"]["name"] = label(table["method"]["name"])  # its file may lie elsewhere the next time
        of_run = json.dumps([job.store, table, job.sources], sort_keys=True)
        return ClientStore(Path(str(folder)) / hashlib.sha256(of_run.encode()).hexdigest()[:16])
    return ClientStore(Path(job.store)) if job.store else _NoStore(Path())


def worker_for(job: messages.Job, context: Context) -> Worker:
    """The resident worker of a run; the one of an earlier run is let go.

    Raises:
        ConfigError: the run cannot be worked for here: the method's code is missing or another one.
    """
    message = json.loads(job.config)
    local = local_settings(message, context.node_config)
    # the run's id, so that a later run of the same settings sees data and weights that were changed in between
    identity = f"{context.run_id}{job.config}{job.sources}{json.dumps(local)}"
    key = hashlib.sha256(identity.encode()).hexdigest(), job.store, job.shared
    if key not in _workers:
        _workers.clear()
        _introductions.clear()
        config = from_table([("message", paths_here(message, job.sources)), ("node config", local)])
        method = node_method(config.method.name, config.method.settings, job.sources)
        _workers[key] = Worker(config, method, _store(job, context), _shared_with(job, context))
    return _workers[key]


def _shared_with(job: messages.Job, context: Context) -> Shared | None:
    """Return what a worker of ours has from earlier runs; a node of somebody else's has nothing, and looks nowhere."""
    if "partition-id" in context.node_config:
        return None
    return _shared.read(job.shared)


def _introduction(worker: Worker, context: Context) -> Introduction:
    """Introduce this node; it is hashed once for each worker, which holds what it has loaded."""
    client = int(context.node_config.get("partition-id", -1))
    if client not in _introductions:
        _introductions[client] = introduce(worker, client)
    return _introductions[client]


def _changed(worker: Worker, message: Message, context: Context) -> str:
    """Say so if this node has other images, weights or code than when it introduced itself; else empty."""
    wanted = messages.read_identity(message.content)
    if not wanted or _introduction(worker, context).identity == wanted:
        return ""
    return "its images, weights or code are others than when it introduced itself"


def _problem(error: ConfigError, job: messages.Job) -> ConfigError:
    """Word a mistake at this node for the server, without the names of a site's classes if it keeps them."""
    if json.loads(job.config)["data"]["class_counts"]:
        return error
    print(error, file=sys.stderr)
    return ConfigError("this node cannot load what the run needs; its own log says why, as data.class_counts = false")


def _refused(work: messages.Work, error: ConfigError) -> RecordDict:
    """The reply of a node that cannot work for a run."""
    if work.summed:
        return reply_messages.write_partial(
            Partial(work.phase.index, (), tuple(crashed(c, error) for c in work.clients))
        )
    return reply_messages.write_failure(crashed(work.clients[0], error))


def _check_clients(clients: tuple[int, ...], context: Context) -> None:
    """Raise ValueError for a message to other clients than the one whose data this node holds."""
    partition = context.node_config.get("partition-id")
    if partition is not None and clients != (partition,):
        numbers = ", ".join(map(str, clients))
        raise ValueError(f"asked for client {numbers}, but this node holds the data of client {partition}")


def _work(message: Message, context: Context) -> Message:
    work = messages.read_work(message.content)
    _check_clients(work.clients, context)
    try:
        worker = worker_for(work.job, context)
        changed = _changed(worker, message, context)
    except ConfigError as error:  # as bad as an exception in a client's code, and told in the same way
        return Message(_refused(work, _problem(error, work.job)), reply_to=message)
    if worker.config.run.secure_sums:
        return Message(reply_messages.write_failure(Failure(work.clients[0], UNMASKED)), reply_to=message)
    if changed:
        return Message(reply_messages.write_failure(Failure(work.clients[0], changed)), reply_to=message)
    if work.summed:
        return Message(
            reply_messages.write_partial(worker.work_group(work.phase, work.broadcast, work.clients)), reply_to=message
        )
    (reply,) = worker.work_all(work.phase, work.broadcast, work.clients[:1])
    content = reply_messages.write_failure(reply) if isinstance(reply, Failure) else reply_messages.write_update(reply)
    return Message(content, reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer a training round."""
    return _work(message, context)


@app.query("report")
def report(message: Message, context: Context) -> Message:
    """Answer a report at a task's end."""
    return _work(message, context)


@app.query("secure")
def secure(message: Message, context: Context) -> Message:
    """Take a client's next step in a secure sum."""
    step = secure_messages.read_step(message.content)
    _check_clients((step.client,), context)
    try:
        worker = worker_for(step.job, context)
        check_process(worker)
        changed = _changed(worker, message, context)
    except ConfigError as error:
        return Message(reply_messages.write_failure(crashed(step.client, _problem(error, step.job))), reply_to=message)
    if changed:
        return Message(reply_messages.write_failure(Failure(step.client, changed)), reply_to=message)
    return Message(secure_answer(_parties, step, worker, context.node_config), reply_to=message)


@app.evaluate("shard")
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate on one share of the batches of test images."""
    shard = messages.read_shard(message.content)
    try:
        worker = worker_for(shard.job, context)
        if changed := _changed(worker, message, context):
            raise ConfigError(changed)
        correct = worker.evaluate(shard.arrays, shard.task, shard.shard, shard.shards)
    except ConfigError as error:
        raise _problem(error, shard.job) from None
    return Message(reply_messages.write_correct(correct), reply_to=message)


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Say which client's data this node holds, and what else it has of the run."""
    job = messages.read_hello(message.content)
    try:
        worker = worker_for(job, context)
        check_process(worker)
        introduction = _introduction(worker, context)
        return Message(reply_messages.write_introduction(introduction), reply_to=message)
    except ConfigError as error:  # a mistake of the node's operator, which the server's operator has to see
        client = int(context.node_config.get("partition-id", -1))
        return Message(reply_messages.write_problem(client, str(_problem(error, job))), reply_to=message)
