"""Prepares messages for Ray workers: shares the records they have in common, and puts several into one call."""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import ray
from flwr.app import ArrayRecord, Message

from fcil.exchange.flower.internals import Metadata, number

__all__ = ["CALL_SECONDS", "Call", "Letter", "letters", "portion"]

CALL_SECONDS = 2.0
"""Seconds that one call with several messages should take at most.

Between two calls a worker waits: 5 ms, and 20 ms where others want the processor too.
"""


@dataclass
class Letter:
    """One message, cut into records of its own and records that it shares."""

    message: Message
    own: dict[str, Any]
    common: dict[str, Any]
    """Records that other messages have too, by their references in Ray's store."""
    attempts: int = 0
    alone: bool = False
    """Whether it is sent alone: it is bound to one worker, or a batch failed and the culprit has to be found."""
    worker_number: int | None = None
    """Number of the worker that alone may take it; None for any."""


@dataclass
class Call:
    """Messages that one worker runs, one after the other."""

    letters: list[Letter]
    worker: Any
    start: float
    deadline: float = field(default=float("inf"))

    def content(self) -> tuple[list[tuple[Metadata, dict[str, Any]]], dict[str, Any]]:
        """Return the arguments for `ClientActor.handle`."""
        return [(letter.message.metadata, letter.own) for letter in self.letters], self.letters[0].common


def letters(messages: list[Message], worker_number_of: Callable[[Message], int | None]) -> deque[Letter]:
    """Number the messages and put into Ray's store what several have in common, and all arrays.

    Args:
        worker_number_of: message -> number of the worker that alone may take it, or None.
    """
    times = Counter(id(record) for message in messages for record in message.content.values())
    refs: dict[int, Any] = {}
    out: deque[Letter] = deque()
    for message in messages:
        number(message, uuid4().hex)
        records: dict[str, Any] = {}
        common: dict[str, Any] = {}
        for name, record in message.content.items():
            if times[id(record)] == 1 and not isinstance(record, ArrayRecord):
                records[name] = record
                continue
            if id(record) not in refs:
                refs[id(record)] = ray.put(record)
            common[name] = refs[id(record)]
        only = worker_number_of(message)
        out.append(Letter(message, records, common, alone=only is not None, worker_number=only))
    return out


def portion(waiting: deque[Letter], workers: int, seconds: float) -> list[Letter]:
    """Take the messages of the next call: several where many wait and each takes little time.

    Fewer and fewer towards the end, so that the workers end together.

    Args:
        seconds: what a message takes, inf where that is not known yet.
    """
    most = min(len(waiting) // (2 * workers), int(CALL_SECONDS / max(seconds, 1e-3)))
    load = [waiting.popleft()]
    while len(load) < most and not (load[0].alone or waiting[0].alone) and waiting[0].common == load[0].common:
        load.append(waiting.popleft())
    return load
