"""Carries out a run from its settings: checks them, lets the loop walk through the phases, and records its events."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fcil.config import Config, unlike
from fcil.data.progress import tell
from fcil.engine.arrivals import KeptArrivals
from fcil.engine.checkpoints import newest_first
from fcil.engine.client_events import Summary
from fcil.engine.diagnostics import DIAGNOSTICS, Diagnostics
from fcil.engine.records import CONFIG, Recorder, left_at_start, read_config, read_provenance, read_summary
from fcil.engine.run_loggers import RunLoggers, named
from fcil.engine.session import Session, prepare, prepare_to_run
from fcil.engine.summary import summary_of
from fcil.errors import ConfigError
from fcil.loggers import Logger
from fcil.options import typed
from fcil.registry import method_class, method_names
from fcil.server.loop import Exchange, run
from fcil.server.plan import Progress, initial_progress
from fcil.server.replies import Emit

__all__ = ["Session", "check_same_run", "open_folder", "prepare", "resume", "simulate"]


def _differences(folder: Path, config: Config, info: Mapping[str, Any]) -> list[str]:
    """Settings, weights or data in which `config` differs from the run in `folder`; empty if it is the same run.

    Raises:
        ConfigError: it is the same run, but the method's file has changed, or its "auto" precision means another one
            on this machine.
    """
    recorded, old = read_provenance(folder), read_config(folder)
    names = unlike(old, config)
    names += _changed_defaults(config, recorded.get("method", {}), info["method"])
    images_then = {node["client"]: node["data"] for node in recorded.get("nodes", ())}
    images_now = {node["client"]: node["data"] for node in info.get("nodes", ())}
    names += [
        f"images of client {client}"
        for client in sorted(images_then.keys() & images_now.keys())
        if images_then[client] != images_now[client]
    ]
    names += [f"{of} files" for of in ("weights", "data") if recorded.get(f"{of}_sha256") != info[f"{of}_sha256"]]
    precision = recorded.get("precision", old.model.precision)
    if not names and any(newest_first(folder)):  # else it begins now
        _check_sources(folder, recorded.get("method_sources", {}), info.get("method_sources", {}))
    if names or precision == info["precision"]:
        return names
    if config.model.precision != "auto":
        return ["model.precision"]
    raise ConfigError(
        f'{folder}: was begun in {precision}, and model.precision = "auto" means {info["precision"]} on this machine. '
        f"Go on where it began, or here with `fcil run CONFIG --set model.precision={precision} --output {folder}`"
    )


def _changed_defaults(config: Config, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Settings of the method that nobody gives, and whose defaults are no longer those that the run began with."""
    method, names = config.method, []
    shipped = typed(method_class(method.name)) if method.name in method_names() else {}
    for name in sorted(now.keys() - method.settings.keys() - {"adapter"}):
        then = before.get(name, shipped[name][2].was if name in shipped else None) if before else None
        if then is not None and then != now[name]:
            names.append(f"method.{name} (its default was {then!r} and is {now[name]!r})")
    return names


def _check_sources(folder: Path, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Refuse to go on where a file that defines the method is not the one that the run began with."""
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if names:
        raise ConfigError(
            f"{folder}: the run began with another content of {', '.join(names)}, and would be a run of two methods. "
            f"To go on, put back what [provenance] in its {CONFIG} has the SHA-256 of; or choose another --output, or "
            "delete the folder"
        )


def open_folder(folder: Path, config: Config, session: Session) -> tuple[Recorder, Progress | None, list[str]]:
    """Open the folder of a new run or of this run; returns its recorder, progress and warnings of damaged checkpoints.

    Raises:
        ConfigError: the folder holds other files, another run, or this run with other weights or data.
    """
    info = session.provenance()
    check_same_run(folder, config, info)
    if (folder / CONFIG).exists():
        recorder = Recorder(folder)
        progress, warnings = recorder.latest()
        if progress is None:
            recorder.write_settings(config, info)  # what a mended file of a method, or another version, begins anew
        return recorder, progress, warnings
    return Recorder.create(folder, config, info), None, []


def check_same_run(folder: Path, config: Config, info: Mapping[str, Any]) -> None:
    """Check that a folder holds this run, or nothing.

    Raises:
        ConfigError: it holds other files, another run, or this run with other weights or data.
    """
    if (folder / CONFIG).exists():
        if names := _differences(folder, config, info):
            are_own_images = "data files" in names and config.data.name == "folder"
            view = ", or its images were shown otherwise by an earlier version (CHANGELOG.md)" if are_own_images else ""
            raise ConfigError(
                f"{folder}: holds another run, which differs in {', '.join(names)} (see its {CONFIG}){view}. "
                "Choose another --output, or delete the folder"
            )
        return
    foreign = folder.exists() and (not folder.is_dir() or not all(map(left_at_start, folder.iterdir())))
    if foreign and not (folder / CONFIG).exists():  # which another process may have written in the meantime
        raise ConfigError(f"{folder}: exists and is not a run folder; choose another --output")


def simulate(
    session: Session,
    folder: Path,
    listen: Callable[[Emit, Progress], Emit] | None = None,
    exchange: Exchange | None = None,
    loggers: Sequence[Logger] = (),
) -> dict[str, Any]:
    """Carry out a run, or what is left of it, in `folder`; returns the figures of the finished run. Draws nothing.

    Args:
        listen: (the recorder's emit, where the run stands) -> what to call with every event, for a live display.
        exchange: used in place of the one that the settings name; closed at the end, whatever happens.
        loggers: told of the run beside those that `run.log` names.

    Raises:
        ConfigError: the folder holds other files or another run; or the data are no images but a stand-in.
        RunError: the run had to stop; the folder's last checkpoint is good.
    """
    plan = session.plan
    if plan.config.data.stand_in:
        raise ConfigError("data.stand_in: its images are noise, to plan with (`fcil plan`); no run takes them")
    with ExitStack() as ending:
        exchange = exchange or session.connected
        if exchange is not None:
            ending.callback(exchange.close)
        if (finished := read_summary(folder)) is not None:
            check_same_run(folder, plan.config, session.provenance())
            _tell_finished(session, folder, loggers, finished)
            return finished
        loggers_by_name = named(plan.config.run.log, loggers)
        recorder, progress, warnings = open_folder(folder, plan.config, session)
        ending.callback(recorder.close)
        if (finished := read_summary(folder)) is not None:  # by another process, since we looked
            return finished
        recorder.write_census(plan.census)
        progress = progress.add(resumed=1) if progress else initial_progress(plan)
        emit = _emit(session, recorder, progress, listen)
        log = ending.enter_context(_loggers(session, folder, loggers_by_name, progress.position, emit))
        for warning in [*warnings, *session.warnings]:
            emit({"event": "warning", "reason": warning})
        if exchange is None:
            exchange = session.exchange(folder)
            ending.callback(exchange.close)
        return _carry_out(session, progress, exchange, emit, recorder, log)


def _emit(
    session: Session, recorder: Recorder, progress: Progress, listen: Callable[[Emit, Progress], Emit] | None
) -> Emit:
    """Choose what is called with every event: the recorder, of sums where these are asked for, and a live display."""
    record: Emit = Summary(recorder.emit) if session.plan.config.run.client_events == "summary" else recorder.emit
    return listen(record, progress) if listen else record


def _carry_out(
    session: Session, progress: Progress, exchange: Exchange, emit: Emit, recorder: Recorder, log: RunLoggers
) -> dict[str, Any]:
    """Carry out what is left of a run, checkpoint by checkpoint, and record its end; returns its figures."""
    plan = session.plan

    def save(now: Progress) -> None:
        recorder.save(now)
        if now.unevaluated:  # loggers are told of whole phases
            return
        if plan.ends_task(now.position - 1):
            recorder.write_matrix(now.correct, plan.census.totals)
        log.follow(now.position)

    watch = Diagnostics(recorder.folder / DIAGNOSTICS, plan) if plan.config.run.diagnostics else None
    arrivals = KeptArrivals(recorder.folder) if plan.config.run.secure_sums else None
    done = run(plan, progress, exchange, emit, save, watch, arrivals)
    if session.worker.shared and session.worker.shared.beside_others:
        done = done.raise_to(beside=1)
    if images := session.worker.features_found:  # also by evaluations in this process, which no update tells of
        done = done.raise_to(cached=images)
    recorder.write_matrix(done.correct, plan.census.totals)
    summary = summary_of(plan, done)
    recorder.finish(summary)
    log.finish(summary)
    return summary


def _loggers(session: Session, folder: Path, loggers: Mapping[str, Logger], done: int, emit: Emit) -> RunLoggers:
    """Start the loggers of a run; of one that fails there is an event `warning`."""
    plan = session.plan

    def warn(text: str) -> None:
        emit({"event": "warning", "reason": text})

    return RunLoggers(folder, loggers, warn, done, len(plan.phases), plan.census.classes)


def _tell_finished(session: Session, folder: Path, objects: Sequence[Logger], summary: Mapping[str, Any]) -> None:
    """Tell loggers what they have not been told of a run that is finished; all of it, where one is new."""
    if not (session.plan.config.run.log or objects):
        return
    loggers, done = named(session.plan.config.run.log, objects), len(session.plan.phases)
    with _loggers(session, folder, loggers, done, lambda event: tell(f"warning: {event['reason']}")) as log:
        log.follow(done)
        log.finish(summary)


def resume(folder: Path) -> Session:
    """Make the session of the run in `folder`, from the settings recorded there."""
    return prepare_to_run(read_config(folder), folder)
