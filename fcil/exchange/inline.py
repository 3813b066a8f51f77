"""The exchange that runs clients in this process: the reference for all others, and usable under a debugger."""

from collections.abc import Iterator

import numpy as np

from fcil.arrays import Arrays
from fcil.exchange.secure import secure_sums
from fcil.exchange.worker import Worker
from fcil.method import Task
from fcil.server.loop import Request
from fcil.server.replies import Reply

__all__ = ["Inline"]


class Inline:
    """Runs clients one after the other, in the order of their numbers."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def __call__(self, request: Request) -> Iterator[Reply]:
        """Yield the clients' updates, or the sums over groups of clients, or masked sums over all."""
        if request.secure:
            yield secure_sums(self.worker, request)
            return
        for group in request.groups:
            yield self.worker.work_group(request.phase, request.broadcast, group)
        if not request.groups:
            yield from self.worker.work_all(request.phase, request.broadcast, request.num_examples)

    def evaluate(self, arrays: Arrays, task: Task) -> np.ndarray:
        """Count the correct answers on all test images in this process; see `Worker.evaluate`."""
        return self.worker.evaluate(arrays, task)

    def scores(self, arrays: Arrays, images: np.ndarray) -> np.ndarray:
        """Score the server's images in this process; see `Worker.scores`."""
        return self.worker.scores(arrays, images)

    def close(self) -> None:
        """Do nothing: this exchange has started no process."""
