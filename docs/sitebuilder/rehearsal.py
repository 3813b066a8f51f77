"""Rehearses methods on a small run, and reads off what each sends and keeps.

It is the rehearsal of `fcil plan` without its stop-watch: the server's half, the checks and the account of traffic are
those of a run.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fcil.arrays import Arrays, nbytes
from fcil.config import Config, load_config
from fcil.engine.dry_run import Cost, Rehearsal, Timed
from fcil.engine.simulation import prepare
from fcil.method import Phase, Task
from fcil.server.evaluation import groups
from fcil.server.loop import Request, run
from fcil.server.plan import initial_progress

from .traffic import Rehearsed

__all__ = ["rehearse"]

SMALL: dict[str, dict[str, Any]] = {
    "data": {"train_limit": 80, "test_limit": 20},
    "tasks": {"count": 2},
    "model": {"image_size": 16},
    "partition": {"clients": 2, "min_samples": 1},
    "train": {"rounds": 2, "epochs": 1},
    "run": {"exchange": "inline"},
}


class _Untimed(Rehearsal):
    """A rehearsal that measures no seconds."""

    def _time(self, request: Request) -> Timed:
        return Timed(Cost(0.0, 0.0), Cost(0.0, 0.0))

    def evaluate(self, arrays: Arrays, task: Task) -> np.ndarray:
        """Return zeros in place of correct answers, without answering."""
        return np.zeros((1, groups(self.plan, task)), np.int64)

    def kept(self) -> dict[str, int]:
        """Size of every array that the client keeps which keeps the most."""
        stores = [{name: int(a.nbytes) for name, a in store.items()} for store in self._stores.values()]
        return max(stores, key=lambda store: sum(store.values()), default={})


def rehearse(names: Iterable[str]) -> dict[str, Rehearsed]:
    """Rehearse methods at their defaults: two tasks of five classes, two clients, two rounds a task.

    Raises:
        ConfigError: a setting that the method cannot have on this run.
    """
    return {name: _rehearse(load_config({**SMALL, "method": {"name": name}})) for name in names}


def _words(phase: Phase) -> str:
    return f"task {phase.task.index + 1}, {f'round {phase.round}' if phase.kind == 'train' else 'report'}"


def _rehearse(config: Config) -> Rehearsed:
    session, events = prepare(config), list[Mapping[str, Any]]()
    plan = replace(session.plan, rehearsed=True)
    rehearsal = _Untimed(session.worker, plan)
    done = run(plan, initial_progress(plan), rehearsal, events.append, lambda progress: None)
    asked = {e["phase"]: e for e in events if e["event"] == "phase"}
    merged = {e["phase"]: e for e in events if e["event"] == "merged"}
    phases = []
    for phase in plan.phases:
        begun, ended = asked[phase.index], merged[phase.index]
        clients = len(begun["clients"])
        phases.append((_words(phase), ended["upload_bytes"] / clients, begun["download_bytes"] / clients))
    server = {group: nbytes(arrays) for group, arrays in done.state.items()}
    return Rehearsed(tuple(phases), server, rehearsal.kept())
