"""Display a run's progress from its events: one moving line on a terminal, plain lines when piped."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import isnan
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from fcil.data.progress import Lines
from fcil.engine.client_events import asked
from fcil.server.plan import Plan, phase_weights
from fcil.server.plan import Progress as RunProgress
from fcil.server.replies import Emit

__all__ = ["Live", "clock", "live"]


def clock(seconds: float) -> str:
    """Write seconds as minutes and seconds, and hours where there are any: 61 -> 1:01."""
    whole = round(seconds)
    return (
        f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
        if whole >= 3600
        else f"{whole // 60}:{whole % 60:02d}"
    )


class Live:
    """Shows a run's events as task, round, clients done, images/s and time left."""

    def __init__(self, plan: Plan, done: int, console: Console, on_ray: bool = False) -> None:
        self.console = console
        self._starting = "starting Ray" if on_ray else "starting"
        self._first = "workers load code and data" if on_ray else "first round"
        self._doing = ""
        self._lines: Lines | None = None
        self._tasks, self._weights, self._done = len(plan.census.totals), phase_weights(plan), done
        self._resumed_at = done
        self._start_time = float("nan")
        self._images = 0.0
        self._client_seconds = 0.0
        self._phase: Mapping[str, Any] = {}
        self._replies = 0
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(24),
            TextColumn("{task.percentage:3.0f} %  {task.fields[rest]}"), console=console, transient=True,
        )  # fmt: skip
        self._id: TaskID = self._bar.add_task(self._starting, total=sum(self._weights), rest="")

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Update the display with one event of the run."""
        show: Callable[[Mapping[str, Any]], None] | None = getattr(self, f"_on_{event['event']}", None)
        if show:
            show(event)
        self._refresh()

    def _line(self, text: str, style: str = "") -> None:
        """Print one line, control characters removed: no client may move the cursor or colour the terminal."""
        printable = "".join(c if c.isprintable() else " " for c in text)
        self._bar.console.print(printable, style=style, soft_wrap=True, markup=False)
        if self._lines:
            self._lines.heard()

    def _place(self, event: Mapping[str, Any]) -> str:
        kind = "report" if self._phase.get("kind") == "report" else f"round {event['round']}"
        return f"task {event['task'] + 1}/{self._tasks}, {kind}"

    def _on_phase(self, event: Mapping[str, Any]) -> None:
        self._phase, self._replies, self._doing = event, 0, ""

    def _on_client(self, event: Mapping[str, Any]) -> None:
        if isnan(self._start_time):  # the clock starts with the first client's work, not with workers that load
            worked = event.get("train_seconds", 0.0) + event.get("report_seconds", 0.0)
            self._start_time = time.monotonic() - worked
        self._replied()
        self._images += event.get("images", 0)

    def _replied(self) -> None:
        self._replies += 1
        if self._replies >= asked(self._phase):
            self._doing = ", merging"

    def _on_refused(self, event: Mapping[str, Any]) -> None:
        self._replied()
        self._line(f"{self._place(event)}: client {event['client']} has no update: {event['reason']}", "yellow")

    def _on_filtered(self, event: Mapping[str, Any]) -> None:
        self._line(f"{self._place(event)}: client {event['client']} is filtered out: {event['reason']}", "yellow")

    def _on_warning(self, event: Mapping[str, Any]) -> None:
        self._line(f"warning: {event['reason']}", "yellow")

    def _on_merged(self, event: Mapping[str, Any]) -> None:
        self._client_seconds += event["seconds_clients"]
        self._done, self._doing = self._done + 1, ", evaluating"
        if not self.console.is_terminal:
            wanted = asked(self._phase) if self._phase else 0
            parts = [f"{event['updates']}/{wanted} clients", *filter(None, [self._speed()])]
            self._line(f"{self._place(event)}: {', '.join(parts)}")

    def _on_task(self, event: Mapping[str, Any]) -> None:
        accuracies = "  ".join(f"{100 * r / t:.1f}" for r, t in zip(event["correct"], event["total"], strict=True))
        place = f"after task {event['task'] + 1}/{self._tasks}"
        self._line(f"{place}: accuracy {100 * event['accuracy']:.1f} %  (by task: {accuracies})")
        if notes := event.get("notes"):
            self._line("  chosen: " + "; ".join(f"{name} {text}" for name, text in notes.items()))

    def _on_round(self, event: Mapping[str, Any]) -> None:
        self._line(f"after {self._place(event)}: accuracy {100 * event['accuracy']:.1f} %")

    def _speed(self) -> str:
        """Images trained on per second, where there are any, and the time left by the work done in this process."""
        worked = sum(self._weights[self._resumed_at : self._done])
        remaining_work = sum(self._weights[self._done :])
        is_measured = worked and not isnan(self._start_time)
        eta = f"{clock((time.monotonic() - self._start_time) * remaining_work / worked)} left" if is_measured else ""
        rate = f"{self._images / self._client_seconds:.0f} images/s" if self._images and self._client_seconds else ""
        if not self._client_seconds:
            return "first round" if self._replies else self._first
        return ", ".join(filter(None, [rate, eta]))

    def _refresh(self) -> None:
        if not self._phase:
            return
        wanted = asked(self._phase)
        description = f"{self._place(self._phase)}, clients {self._replies}/{wanted}{self._doing}"
        if self._lines:
            self._lines.text = description
        if not self.console.is_terminal:
            return
        part = self._replies / wanted if self._done < len(self._weights) and wanted else 0
        ahead = self._weights[self._done] * part if self._done == self._phase["phase"] else 0.0
        self._bar.update(
            self._id,
            description=description,
            completed=sum(self._weights[: self._done]) + ahead,
            rest=self._speed(),
        )

    def start(self) -> None:
        """Show the moving line if the console is a terminal; elsewhere lines are said from the beginning on."""
        if self.console.is_terminal:
            self._bar.start()
        else:
            self._lines = Lines(self._starting)

    def stop(self) -> None:
        """Remove the moving line from a terminal; when piped, this would leave an empty line."""
        if self._lines:
            self._lines.stop()
        if self.console.is_terminal:
            self._bar.stop()


@contextmanager
def live(plan: Plan, console: Console) -> Iterator[Callable[[Emit, RunProgress], Emit]]:
    """Give a `listen` for `engine.simulate` that records every event and shows it."""
    displays: list[Live] = []

    def listen(record: Emit, progress: RunProgress) -> Emit:
        display = Live(plan, progress.position, console, plan.config.run.exchange == "ray")
        displays.append(display)
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
        for display in displays:
            display.stop()
