"""Runs any fcil method as a Flower Strategy.

    strategy = FcilStrategy(prepare(config).plan)
    strategy.start(grid)                                                # our loop over Flower's grid
    Strategy.start(strategy, grid, ArrayRecord(), strategy.num_phases)  # or Flower's own, in a ServerApp of yours

In Flower's loop, round k is phase k - 1 of the plan, so it has to run `num_phases` rounds. The server's state is more
than one set of arrays: it lives in `progress`, and the arrays that Flower hands around are only for looking at.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fcil.errors import ConfigError, RunError
from fcil.exchange.flower import messages
from fcil.exchange.flower.exchange import FlowerExchange
from fcil.exchange.flower.settling import settled
from fcil.method import Phase
from fcil.server.arrivals import Arrivals
from fcil.server.evaluation import read_answers, with_answers
from fcil.server.loop import ask, checked, deployed_arrays, receive, run
from fcil.server.plan import Plan, Progress, initial_progress
from fcil.server.replies import Emit
from fcil.server.request import Request

__all__ = ["FcilStrategy"]

_log = logging.getLogger("flwr")


def _nothing(_: Any) -> None:
    """Do nothing with an event or a checkpoint."""


def _accuracy(correct: Sequence[int], total: int) -> MetricRecord:
    return MetricRecord({"accuracy": sum(correct) / total, "correct": list(correct)})


class FcilStrategy(Strategy):
    """A Flower Strategy that carries out the plan of a run with any method."""

    def __init__(
        self,
        plan: Plan,
        *,
        progress: Progress | None = None,
        emit: Emit = _nothing,
        save: Callable[[Progress], None] = _nothing,
        store: str = "",
        arrivals: Arrivals | None = None,
    ) -> None:
        """Begin a run, or go on with one.

        Args:
            plan: the run's plan, from `fcil.engine.simulation.prepare`.
            progress: the progress at which an earlier run stopped.
            emit: called with every event.
            save: called with the progress after every phase; with secure sums also before a phase's evaluation.
            store: folder of the clients' own arrays, where the nodes share this machine's disk.
            arrivals: of which clients secure sums may have been had by an earlier process of this run; by default that
                is remembered while this object lives. `fcil.engine.arrivals.KeptArrivals` keeps it in a folder.
        """
        if plan.method.server_holds_images:
            raise ConfigError(
                f'method.name = "{plan.config.method.label}": as it is set, the server comes to hold images of '
                "clients' data, which is for simulations of fcil's own only (docs/leaks.md)"
            )
        self.plan, self.emit, self.save, self.store = plan, emit, save, store
        self.progress = progress or initial_progress(plan)
        self.arrivals = arrivals or Arrivals()
        self._exchange: FlowerExchange | None = None
        self._asked: Request | None = None
        self._sent: dict[int, Message] = {}

    @property
    def num_phases(self) -> int:
        """Number of rounds that Flower's loop has to run."""
        return len(self.plan.phases)

    def summary(self) -> None:
        """Log what is going to run."""
        config = self.plan.config
        _log.info("\t├── method: %s, %d tasks, %d clients, seed %d", config.method.name, len(self.plan.census.tasks),
                  config.partition.clients, config.run.seed)  # fmt: skip
        _log.info("\t└── phases done: %d of %d", self.progress.position, self.num_phases)

    # ---- our loop over Flower's grid ---------------------------------------------------------------------------------

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord | None = None,
        num_rounds: int | None = None,
        timeout: float | None = None,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run all phases that are left; the plan decides what Flower's other arguments would."""
        self.summary()
        result = Result()

        def listen(event: Mapping[str, Any]) -> None:
            if event["event"] in ("task", "round"):
                result.evaluate_metrics_serverapp[event["phase"] + 1] = _accuracy(event["correct"], sum(event["total"]))
            self.emit(event)

        def save(progress: Progress) -> None:
            self.progress = progress
            self.save(progress)

        self.progress = run(self.plan, self.progress, self._connect(grid), listen, save, arrivals=self.arrivals)
        result.arrays = self._deployed(self.plan.phases[-1])
        return result

    def _connect(self, grid: Grid) -> FlowerExchange:
        if self._exchange is None or self._exchange.grid is not grid:
            self._exchange = FlowerExchange(grid, self.plan.config, store=self.store)
        return self._exchange

    def _deployed(self, phase: Phase) -> ArrayRecord:
        arrays = deployed_arrays(self.plan, self.progress, phase)
        return ArrayRecord({name: Array(np.ascontiguousarray(a)) for name, a in arrays.items()})

    # ---- steps for Flower's stock loop -------------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The messages of phase `server_round` - 1; none after the last phase."""
        if server_round > self.num_phases:
            return []
        if server_round != self.progress.position + 1:
            raise RunError(
                f"round {server_round} was asked for, but the plan stands at phase {self.progress.position + 1} of "
                f"{self.num_phases}: run rounds in order, once each; go on with an earlier run by FcilStrategy.start"
            )
        request = ask(self.plan, self.progress)
        if request.secure:
            raise ConfigError(
                "run.secure_sums: takes four messages a phase, and Flower's own loop has one; use FcilStrategy.start"
            )
        exchange = self._connect(grid)
        contents = messages.request_contents(request, exchange.job)
        self._sent = exchange.address(contents, messages.message_type(request.phase), str(request.phase.index))
        self._asked = request
        return list(self._sent.values())

    def _emit_and_log(self, event: Mapping[str, Any]) -> None:
        """Emit an event, and name refused and filtered updates in Flower's log too."""
        if event["event"] in ("refused", "filtered"):
            _log.warning("task %d, client %d: %s", event["task"] + 1, event["client"], event["reason"])
        self.emit(event)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check and merge the replies; returns the arrays to deploy and the numbers of good and refused updates.

        Raises:
            RunError, MergeError: as in our loop (`fcil.server.loop.step`).
        """
        request, self._asked = self._asked, None
        if request is None:
            return None, None
        settling = settled(self._sent, replies, request, "no reply")
        gathered = checked(self.plan, request, settling, self._emit_and_log)
        self.progress = receive(self.plan, self.progress, request, gathered)
        self.save(self.progress)
        counts: dict[str, Any] = {"updates": len(gathered.updates), "refused": gathered.missing}
        counts |= {"filtered": len(gathered.left_out)} if gathered.left_out else {}
        return self._deployed(request.phase), MetricRecord(counts)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return no messages: test data are the server's (or our workers'), and `aggregate_evaluate` sees to them."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Evaluate at a task's end, which adds a row to the accuracy matrix, or after a round where that is asked."""
        if self._exchange is None or server_round > self.num_phases:
            return None
        phase = self.plan.phases[server_round - 1]
        if not self.plan.evaluates(phase):
            return None
        counts = self._exchange.evaluate(deployed_arrays(self.plan, self.progress, phase), phase.task)
        answers = read_answers(self.plan, phase.task, counts)
        if self.plan.ends_task(phase.index):
            self.progress = with_answers(self.progress, answers)
            self.save(self.progress)
        return _accuracy(answers.by_task, sum(self.plan.census.totals[: len(answers.by_task)]))
