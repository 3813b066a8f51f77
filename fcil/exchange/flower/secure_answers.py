"""Takes a client's steps in secure sums where it works: its secrets stay in this process."""

import hashlib
import json
from dataclasses import replace
from functools import partial

from flwr.app import RecordDict

from fcil.config import identity
from fcil.errors import ConfigError
from fcil.exchange.flower import messages, secure_messages
from fcil.exchange.flower.internals import for_one_message
from fcil.exchange.flower.secure_messages import Step
from fcil.exchange.secure_party import Parties, answered
from fcil.exchange.worker import Worker
from fcil.registry import label
from fcil.server.replies import Failure

__all__ = ["UNMASKED", "check_process", "of_run", "secure_answer"]

UNMASKED = "run.secure_sums: this client's update was asked for without masks, and is not sent"
STEPS = 4


def of_run(job: messages.Job) -> str:
    """Hash what a run's numbers depend on; it stays the same where the run goes on with other values of the rest."""
    table = identity(json.loads(job.config))
    table["method"]["name"] = label(table["method"]["name"])  # its file may lie elsewhere the next time
    return hashlib.sha256(json.dumps([table, job.sources], sort_keys=True).encode()).hexdigest()


def check_process(worker: Worker) -> None:
    """Raise ConfigError for a run with secure sums in a process that ends with its message, and secrets with it."""
    if worker.config.run.secure_sums and for_one_message():
        raise ConfigError(
            "run.secure_sums: this node works on each message in a process of its own, which cannot keep a sum's "
            "secrets until the next; leave resident = false out of its --node-config (on Windows there is no other way)"
        )


def secure_answer(parties: Parties, step: Step, worker: Worker) -> RecordDict:
    """Take a step for the client that it is meant for, or say why not."""
    answer = _answer(parties, replace(step, of=replace(step.of, run=of_run(step.job))), worker)
    return messages.write_failure(answer) if isinstance(answer, Failure) else answer


def _answer(parties: Parties, step: Step, worker: Worker) -> RecordDict | Failure:
    of, client = step.of, step.client
    if not worker.config.run.secure_sums:
        return Failure(client, "a secure sum was asked for, and run.secure_sums is false")
    if step.name == secure_messages.KEYS:
        keys = answered(client, parties.keys, of, client, STEPS * worker.config.run.client_timeout)
        return keys if isinstance(keys, Failure) else secure_messages.write_keys(keys)
    if step.name == secure_messages.SHARES:
        boxes = answered(client, parties.share, of, client, step.keys)
        return boxes if isinstance(boxes, Failure) else secure_messages.write_boxes(boxes)
    if step.work is not None:
        work = partial(worker.work_group, step.work.phase, step.work.broadcast, (client,))
        masked = answered(client, parties.masked, of, client, step.boxes, work)
        return masked if isinstance(masked, Failure) else messages.write_partial(masked)
    revealed = answered(client, parties.reveal, of, client, step.arrived)
    return revealed if isinstance(revealed, Failure) else secure_messages.write_revealed(revealed)
