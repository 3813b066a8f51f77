"""The exchange that calls clients in this process: the definition of a run, and usable under a debugger."""

from collections.abc import Iterator

import numpy as np

from fcil.arrays import Arrays
from fcil.loop import Failure, Request
from fcil.method import ClientUpdate
from fcil.tasks import Task
from fcil.worker import Worker

__all__ = ["Inline"]


class Inline:
    """Clients one after the other, in the order of their numbers."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def __call__(self, request: Request) -> Iterator[ClientUpdate | Failure]:
        """A client that raises costs its own update."""
        for client in request.num_examples:
            try:
                yield self.worker.work(request.phase, request.broadcast, client)
            except Exception as error:  # whatever a client's code may raise
                yield Failure(client, f"{type(error).__name__}: {error}")

    def evaluate(self, arrays: Arrays, task: Task) -> np.ndarray:
        """All batches, here."""
        return self.worker.evaluate(arrays, task)

    def close(self) -> None:
        """Nothing was started."""
