"""Takes a client's steps in secure sums where it works: its secrets stay in this process."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from flwr.app import RecordDict

from fcil.config import identity
from fcil.errors import ConfigError
from fcil.exchange.flower import messages, reply_messages, secure_messages
from fcil.exchange.flower.internals import for_one_message
from fcil.exchange.flower.secure_messages import Step
from fcil.exchange.secure_party import Parties, answered, context_of
from fcil.exchange.worker import Worker
from fcil.registry import label
from fcil.server.replies import Failure

__all__ = ["UNMASKED", "check_process", "of_run", "secure_answer"]

UNMASKED = "run.secure_sums: this client's update was asked for without masks, and is not sent"
STEPS = 4
PLACES = ("root", "cache")
"""Keys of [data] that say where it lies, and not what it is."""


def of_run(job: messages.Job) -> str:
    """Hash what a run's numbers depend on; it stays the same where the run goes on with other values of the rest.

    Where files lie is not of it: of a method's file it is the content, and data and weights are compared by theirs.
    """
    files = json.loads(job.sources)
    table = identity(json.loads(job.config))
    method = {key: _without_paths(value, [name for name, *_ in files]) for key, value in table["method"].items()}
    method["name"] = label(table["method"]["name"])
    data = {key: value for key, value in table["data"].items() if key not in PLACES}
    model = {**table["model"], "weights": Path(table["model"]["weights"]).name}
    hashed = json.dumps(
        [{**table, "method": method, "model": model, "data": data}, sorted(sha for *_, sha in files)], sort_keys=True
    )
    return hashlib.sha256(hashed.encode()).hexdigest()


def _without_paths(value: object, names: list[str]) -> object:
    """A setting with the names of files in place of their paths."""
    if not isinstance(value, str):
        return value
    for name in names:
        value = value.replace(name, Path(name).name)
    return value


def check_process(worker: Worker) -> None:
    """Raise ConfigError for a run with secure sums in a process that ends with its message, and secrets with it."""
    if worker.config.run.secure_sums and for_one_message():
        raise ConfigError(
            "run.secure_sums: this node works on each message in a process of its own, which cannot keep a sum's "
            "secrets until the next; leave resident = false out of its --node-config (on Windows there is no other way)"
        )


def secure_answer(parties: Parties, step: Step, worker: Worker, node_config: Mapping[str, object]) -> RecordDict:
    """Take a step for the client that it is meant for, or say why not."""
    answer = _answer(parties, replace(step, of=replace(step.of, run=of_run(step.job))), worker, node_config)
    return reply_messages.write_failure(answer) if isinstance(answer, Failure) else answer


def _answer(parties: Parties, step: Step, worker: Worker, node_config: Mapping[str, object]) -> RecordDict | Failure:
    of, client = step.of, step.client
    if not worker.config.run.secure_sums:
        return Failure(client, "a secure sum was asked for, and run.secure_sums is false")
    if step.name == secure_messages.KEYS:
        # a worker of ours has clients that wait for each other, and ends with the run
        seconds = STEPS * worker.config.run.client_timeout if "partition-id" in node_config else float("inf")
        keys = answered(client, parties.keys, of, client, seconds)
        return keys if isinstance(keys, Failure) else secure_messages.write_keys(keys)
    if step.name == secure_messages.SHARES:
        boxes = answered(client, parties.share, of, client, step.keys)
        return boxes if isinstance(boxes, Failure) else secure_messages.write_boxes(boxes)
    if step.work is not None:
        work = partial(worker.work_group, step.work.phase, step.work.broadcast, (client,))
        like = worker.sums_shapes(step.work.phase, step.work.broadcast, client)
        context = context_of(of.run, of.phase, step.work.broadcast)
        masked = answered(client, parties.masked, of, client, step.boxes, work, like, context)
        return masked if isinstance(masked, Failure) else reply_messages.write_partial(masked)
    folder = Path(str(path)) if (path := node_config.get("state-dir")) else None
    revealed = answered(client, parties.reveal, of, client, step.arrived, folder)
    return revealed if isinstance(revealed, Failure) else secure_messages.write_revealed(revealed)
