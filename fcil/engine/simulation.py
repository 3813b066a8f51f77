"""Settings -> a finished run: checks everything, lets the loop walk through the phases, and records what it does."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcil.client.store import ClientStore
from fcil.config import Config, to_table
from fcil.engine.checks import check_settings
from fcil.engine.diagnostics import DIAGNOSTICS, Diagnostics
from fcil.engine.metrics import summarise
from fcil.engine.provenance import provenance
from fcil.engine.records import CONFIG, Recorder, left_aside, read_config, read_provenance, read_summary
from fcil.errors import ConfigError
from fcil.exchange.device import check_device
from fcil.exchange.inline import Inline
from fcil.exchange.worker import Worker
from fcil.model.backbone import describe_backbone
from fcil.server.loop import Exchange, Plan, Progress, initial_progress, make_plan, run, updates_asked
from fcil.server.replies import Emit

_IDENTITY = ("seed", "threads", "device", "min_clients", "aggregate_on_worker")
"""The settings of [run] that belong to what a run is; a run may go on with other values of all the rest."""
_COUNTS = ("upload_bytes", "download_bytes", "refused", "images", "peak_memory_bytes")

__all__ = ["Session", "open_run", "prepare", "resume", "simulate"]


@dataclass(frozen=True)
class Session:
    """A checked run, ready to start: nothing that can be found out beforehand is left to fail."""

    worker: Worker
    plan: Plan

    def exchange(self, folder: Path) -> Exchange:
        """The exchange that the settings name."""
        if self.plan.config.run.exchange == "inline":
            return Inline(self.worker)
        from fcil.exchange.flower.exchange import ray_exchange  # Ray takes seconds to import

        return ray_exchange(self.plan.config, folder)


def prepare(config: Config, folder: Path | None = None) -> Session:
    """Check settings, data and weights, and lay out the run. Loads no backbone.

    Args:
        folder: the run folder, where clients may keep what is theirs; without one they keep it in memory.

    Raises:
        ConfigError: whatever would stop the run later.
    """
    method = check_settings(config)
    worker = Worker(config, method, ClientStore(folder / "clients") if folder else None)
    if config.run.exchange == "inline":  # elsewhere it is the workers' machines that need it
        check_device(config.run.device)
    plan = make_plan(config, method, worker.scenario, describe_backbone(config.model))
    initial_progress(plan)  # raises where the method's settings do not fit the backbone
    return Session(worker, plan)


def _differences(folder: Path, config: Config, told: Mapping[str, Any]) -> list[str]:
    """What makes it another run than the folder's: settings that change its numbers, weights, data. None: the same run.

    Raises:
        ConfigError: it is the same, but the method's file has changed, or its "auto" precision means another one here.
    """

    def numbers(c: Config) -> dict[str, Any]:
        table = to_table(c)
        table["model"].pop("precision")  # compared as it was carried out
        table["run"] = {k: v for k, v in table["run"].items() if k in _IDENTITY}
        return {f"{section}.{key}": value for section, entries in table.items() for key, value in entries.items()}

    before, given = read_provenance(folder), read_config(folder)
    theirs, ours = numbers(given), numbers(config)
    found = sorted(key for key in theirs | ours if theirs.get(key) != ours.get(key))
    found += [f"{of} files" for of in ("weights", "data") if before.get(f"{of}_sha256") != told[f"{of}_sha256"]]
    began = before.get("precision", given.model.precision)
    if not found:
        _check_sources(folder, before.get("method_sources", {}), told.get("method_sources", {}))
    if found or began == told["precision"]:
        return found
    if config.model.precision != "auto":
        return ["model.precision"]
    raise ConfigError(
        f'{folder}: was begun in {began}, and model.precision = "auto" means {told["precision"]} on this machine. '
        f"Go on where it began, or here with `fcil run CONFIG --set model.precision={began} --output {folder}`"
    )


def _check_sources(folder: Path, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Refuse to go on where a file that defines the method is not the one that the run began with."""
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if names:
        raise ConfigError(
            f"{folder}: the run began with another content of {', '.join(names)}, and would be a run of two methods. "
            f"To go on, put back what [provenance] in its {CONFIG} has the SHA-256 of; or choose another --output, or "
            "delete the folder"
        )


def open_run(folder: Path, config: Config, session: Session) -> tuple[Recorder, Progress | None, list[str]]:
    """The run folder, new or of this very run, how far it is, and warnings about damaged checkpoints.

    Raises:
        ConfigError: the folder holds something else, another run, or the same on other weights or data.
    """
    told = provenance(config, session.worker.dataset)
    if (folder / CONFIG).exists():
        if other := _differences(folder, config, told):
            raise ConfigError(
                f"{folder}: holds another run, which differs in {', '.join(other)} (see its {CONFIG}). "
                "Choose another --output, or delete the folder"
            )
        recorder = Recorder(folder)
        return recorder, *recorder.latest()
    if folder.exists() and (not folder.is_dir() or not all(map(left_aside, folder.iterdir()))):
        raise ConfigError(f"{folder}: exists and is not a run folder; choose another --output")
    return Recorder.create(folder, config, told), None, []


def _totals(plan: Plan) -> list[int]:
    return [len(t) for t in plan.scenario.tests]


def _summary(plan: Plan, progress: Progress) -> dict[str, Any]:
    totals = progress.totals
    seconds = {name.removeprefix("seconds_"): value for name, value in totals.items() if name.startswith("seconds_")}
    return {
        "method": plan.config.method.label,
        "seed": plan.config.run.seed,
        **summarise(progress.right, _totals(plan)),
        **{name: int(totals.get(name, 0)) for name in _COUNTS},
        "asked": updates_asked(plan),
        "seconds": seconds,
        "right": progress.right,
        "total": _totals(plan),
        "sha256": progress.sha256(),
    }


def simulate(
    session: Session,
    folder: Path,
    listen: Callable[[Emit, Progress], Emit] | None = None,
    exchange: Exchange | None = None,
) -> dict[str, Any]:
    """Carry out a run, or what is left of it, in `folder`; the figures of the finished run. Draws nothing.

    Args:
        listen: (the recorder's emit, where the run stands) -> what to call with every event, for a live display.
        exchange: in place of the one that the settings name; closed at the end, whatever happens.

    Raises:
        ConfigError: the folder holds something else.
        RunError: the run had to stop; the folder's last checkpoint is good.
    """
    plan = session.plan
    with ExitStack() as ending:
        if exchange is not None:
            ending.callback(exchange.close)
        recorder, progress, warnings = open_run(folder, plan.config, session)
        ending.callback(recorder.close)
        finished = read_summary(folder)
        if finished is not None:
            return finished
        progress = progress or initial_progress(plan)
        emit = listen(recorder.emit, progress) if listen else recorder.emit
        for warning in warnings:
            emit({"event": "warning", "reason": warning})

        def save(now: Progress) -> None:
            recorder.save(now)
            if plan.ends_task(now.position - 1):
                recorder.write_matrix(now.right, _totals(plan))

        if exchange is None:
            exchange = session.exchange(folder)
            ending.callback(exchange.close)
        watch = Diagnostics(folder / DIAGNOSTICS, plan) if plan.config.run.diagnostics else None
        done = run(plan, progress, exchange, emit, save, watch)
        recorder.write_matrix(done.right, _totals(plan))
        summary = _summary(plan, done)
        recorder.finish(summary)
        return summary


def resume(folder: Path) -> Session:
    """The session of the run in `folder`, from its own settings."""
    return prepare(read_config(folder), folder)
