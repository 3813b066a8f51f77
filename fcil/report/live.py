"""The live display of a run, fed with its events: one moving line on a terminal, plain lines when piped."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import isnan
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from fcil.server.loop import Plan
from fcil.server.loop import Progress as RunProgress
from fcil.server.replies import Emit

__all__ = ["Live", "live", "phase_weights"]


def phase_weights(plan: Plan) -> list[float]:
    """The work of each phase in passes over images: a training step costs about three forward passes, a report one."""
    epochs = plan.config.train.epochs
    share = plan.config.train.participation
    return [
        sum(map(len, plan.scenario.parts[phase.task.index]))
        * (3 * epochs * share + 1 if phase.kind == "train" else 1.0)
        for phase in plan.phases
    ]


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return (
        f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
        if whole >= 3600
        else f"{whole // 60}:{whole % 60:02d}"
    )


class Live:
    """Turns events into what a person wants to see: task, round, clients done, images/s, time left."""

    def __init__(self, plan: Plan, done: int, console: Console) -> None:
        self.console = console
        self._tasks, self._weights, self._done = len(plan.scenario.tests), phase_weights(plan), done
        self._first = done
        self._began = float("nan")
        self._images = 0.0
        self._training = 0.0
        self._asked: Mapping[str, Any] = {}
        self._replies = 0
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(24),
            TextColumn("{task.percentage:3.0f} %  {task.fields[rest]}"), console=console, transient=True,
        )  # fmt: skip
        self._id: TaskID = self._bar.add_task("starting", total=sum(self._weights), rest="")

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Show one event."""
        show: Callable[[Mapping[str, Any]], None] | None = getattr(self, f"_on_{event['event']}", None)
        if show:
            show(event)
        self._refresh()

    def _line(self, text: str, style: str = "") -> None:
        """One line, whatever a client wrote into it: nothing of it may move the cursor or colour the terminal."""
        printable = "".join(c if c.isprintable() else " " for c in text)
        self._bar.console.print(printable, style=style, soft_wrap=True, markup=False)

    def _place(self, event: Mapping[str, Any]) -> str:
        kind = "report" if self._asked.get("kind") == "report" else f"round {event['round']}"
        return f"task {event['task'] + 1}/{self._tasks}, {kind}"

    def _on_phase(self, event: Mapping[str, Any]) -> None:
        self._asked, self._replies, self._phase_began = event, 0, time.monotonic()

    def _on_client(self, event: Mapping[str, Any]) -> None:
        if isnan(self._began):  # the clock starts with the first client's work, not with workers that start and load
            worked = event.get("train_seconds", 0.0) + event.get("report_seconds", 0.0)
            self._began = time.monotonic() - worked
        self._replies += 1
        self._images += event.get("images", 0)

    def _on_refused(self, event: Mapping[str, Any]) -> None:
        self._replies += 1
        self._line(f"{self._place(event)}: client {event['client']} has no update: {event['reason']}", "yellow")

    def _on_warning(self, event: Mapping[str, Any]) -> None:
        self._line(f"warning: {event['reason']}", "yellow")

    def _on_merged(self, event: Mapping[str, Any]) -> None:
        self._training += event["seconds_clients"]
        self._done += 1
        if not self.console.is_terminal:
            asked = len(self._asked.get("clients", ()))
            self._line(f"{self._place(event)}: {event['updates']}/{asked} clients, {self._rest()}")

    def _on_task(self, event: Mapping[str, Any]) -> None:
        each = "  ".join(f"{100 * r / t:.1f}" for r, t in zip(event["correct"], event["total"], strict=True))
        self._line(
            f"after task {event['task'] + 1}/{self._tasks}: accuracy {100 * event['accuracy']:.1f} %  (by task: {each})"
        )

    def _on_round(self, event: Mapping[str, Any]) -> None:
        self._line(f"after {self._place(event)}: accuracy {100 * event['accuracy']:.1f} %")

    def _rest(self) -> str:
        """Images per second while clients work, and the time left by the share of work done in this process."""
        worked = sum(self._weights[self._first : self._done])
        left = sum(self._weights[self._done :])
        known = worked and not isnan(self._began)
        eta = f", {_clock((time.monotonic() - self._began) * left / worked)} left" if known else ""
        return f"{self._images / self._training:.0f} images/s{eta}" if self._training else "first round"

    def _refresh(self) -> None:
        if not self.console.is_terminal or not self._asked:
            return
        asked = len(self._asked["clients"])
        part = self._replies / asked if self._done < len(self._weights) and asked else 0
        ahead = self._weights[self._done] * part if self._done == self._asked["phase"] else 0.0
        self._bar.update(
            self._id,
            description=f"{self._place(self._asked)}, clients {self._replies}/{asked}",
            completed=sum(self._weights[: self._done]) + ahead,
            rest=self._rest(),
        )

    def start(self) -> None:
        """Show the moving line, on a terminal."""
        if self.console.is_terminal:
            self._bar.start()

    def stop(self) -> None:
        """Take it away, on a terminal; elsewhere it would leave an empty line."""
        if self.console.is_terminal:
            self._bar.stop()


@contextmanager
def live(plan: Plan, console: Console) -> Iterator[Callable[[Emit, RunProgress], Emit]]:
    """A `listen` for `engine.simulate` that records every event and shows it."""
    shown: list[Live] = []

    def listen(record: Emit, progress: RunProgress) -> Emit:
        display = Live(plan, progress.position, console)
        shown.append(display)
        display.start()
        if progress.position:
            console.print(f"going on after phase {progress.position} of {len(plan.phases)}", soft_wrap=True)

        def emit(event: Mapping[str, Any]) -> None:
            record(event)
            display(event)

        return emit

    try:
        yield listen
    finally:
        for display in shown:
            display.stop()
