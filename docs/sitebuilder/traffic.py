"""Rehearses every method on a small run, and reads off what it sends and keeps.

It is the rehearsal of `fcil plan` without its stop-watch: the server's half, the checks and the account of traffic are
those of a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .tables import table

if TYPE_CHECKING:
    from fcil.config import Config

__all__ = ["Rehearsed", "rehearse", "traffic_section"]

CLIENTS, CLASSES = 2, 5
SMALL: dict[str, dict[str, Any]] = {
    "data": {"train_limit": 80, "test_limit": 20}, "tasks": {"count": 2}, "model": {"image_size": 16},
    "partition": {"clients": CLIENTS, "min_samples": 1}, "train": {"rounds": 2, "epochs": 1}, "run": {"exchange": "inline"},
}  # fmt: skip


@dataclass(frozen=True)
class Rehearsed:
    """What a method sent and kept, in bytes."""

    phases: tuple[tuple[str, float, float], ...]
    """Each phase in words, with what one client sends and is sent."""
    server: Mapping[str, int]
    """Group of the state at the end -> its size."""
    client: Mapping[str, int]
    """Array that a client keeps at the end -> its size."""


def rehearse(names: Iterable[str]) -> dict[str, Rehearsed]:
    """Rehearse methods at their defaults: two tasks of five classes, two clients, two rounds a task.

    Raises:
        ConfigError: a reply would be refused.
    """
    from fcil.config import load_config

    return {name: _rehearse(load_config({**SMALL, "method": {"name": name}})) for name in names}


def _rehearse(config: Config) -> Rehearsed:
    from dataclasses import replace

    import numpy as np

    from fcil.arrays import nbytes
    from fcil.engine.dry_run import Rehearsal
    from fcil.engine.simulation import prepare
    from fcil.server.evaluation import groups
    from fcil.server.loop import Request, run
    from fcil.server.plan import initial_progress

    class Untimed(Rehearsal):
        """A rehearsal that measures no seconds."""

        def _time(self, request: Request) -> None:
            pass

        def evaluate(self, arrays: Any, task: Any) -> np.ndarray:
            return np.zeros((1, groups(self.plan, task)), np.int64)

    session, events = prepare(config), list[Mapping[str, Any]]()
    plan = replace(session.plan, rehearsed=True)
    rehearsal = Untimed(session.worker, plan)
    done = run(plan, initial_progress(plan), rehearsal, events.append, lambda progress: None)
    down = {e["phase"]: e["download_bytes"] / len(e["clients"]) for e in events if e["event"] == "phase"}
    clients = {e["phase"]: len(e["clients"]) for e in events if e["event"] == "phase"}
    up = {e["phase"]: e["upload_bytes"] / clients[e["phase"]] for e in events if e["event"] == "merged"}
    phases = []
    for phase in plan.phases:
        kind = f"round {phase.number}" if phase.kind == "train" else "report"
        phases.append((f"task {phase.task.index + 1}, {kind}", up[phase.index], down[phase.index]))
    kept = max(rehearsal._stores.values(), key=lambda store: sum(a.nbytes for a in store.values()), default={})
    return Rehearsed(
        tuple(phases), {group: nbytes(arrays) for group, arrays in done.state.items()},
        {name: int(a.nbytes) for name, a in kept.items()},
    )  # fmt: skip


def _kilo(size: float) -> str:
    return f"{size / 1000:,.1f}"


def _sizes(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"`{name}` {_kilo(size)}" for name, size in sizes.items() if size)


def _merged(sizes: Mapping[str, int]) -> dict[str, int]:
    """Add up arrays by the first part of their names."""
    out: dict[str, int] = {}
    for name, size in sizes.items():
        group = name.partition("/")[0].partition(".")[0]
        out[group] = out.get(group, 0) + size
    return out


def traffic_section(rehearsed: Rehearsed) -> str:
    """Write what was sent and kept, in kB."""
    rows = [(what, _kilo(up), _kilo(down)) for what, up, down in rehearsed.phases]
    client, server = _sizes(_merged(rehearsed.client)), _sizes(rehearsed.server)
    return "\n".join([
        "## What is sent and kept\n",
        "From a rehearsal as `fcil plan` does it, at the defaults: the embedded ViT (four blocks of width 128), "
        f"two tasks of {CLASSES} classes, two rounds a task; kB of payload of one client.\n",
        table(("phase", "a client sends", "a client is sent"), rows, 2),
        f"The server keeps at the end, in kB: {server or 'nothing'}. "
        f"A client keeps between phases, in kB: {client or 'nothing'}.\n",
    ])  # fmt: skip
