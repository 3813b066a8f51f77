"""The exchange that calls clients in this process: the definition of a run, and usable under a debugger."""

from collections.abc import Iterator

import numpy as np

from fcil.arrays import Arrays
from fcil.exchange.worker import Worker
from fcil.method import Task
from fcil.server.loop import Request
from fcil.server.replies import Reply

__all__ = ["Inline"]


class Inline:
    """Clients one after the other, in the order of their numbers."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def __call__(self, request: Request) -> Iterator[Reply]:
        """Updates, or sums over groups of clients."""
        for group in request.groups:
            yield self.worker.work_group(request.phase, request.broadcast, group)
        if not request.groups:
            yield from self.worker.work_all(request.phase, request.broadcast, request.num_examples)

    def evaluate(self, arrays: Arrays, task: Task) -> np.ndarray:
        """All batches, here."""
        return self.worker.evaluate(arrays, task)

    def close(self) -> None:
        """Nothing was started."""
