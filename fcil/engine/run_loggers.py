"""Tells loggers what a run's records hold: after every phase that is saved, and of the past where they missed it.

A logger is told from metrics.jsonl, and loggers.json in the run folder says up to which byte each has been told. So one
that failed, or was added to a run that was going on or had ended, is told the rest the next time; and of a phase that
was not saved nobody is told, since it will be done again.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from fcil.config import flat, to_table
from fcil.engine.records import EVENTS, GRID, read_config, read_provenance
from fcil.errors import ConfigError
from fcil.files import write_atomic
from fcil.loggers import Logger, RunInfo, build_loggers, figures_of, final_figures
from fcil.registry.misnamed import check_names

__all__ = ["LOGGERS", "RunLoggers", "named"]

LOGGERS = "loggers.json"
REASON = 200
"""Characters of an error that a warning repeats."""


@dataclass(frozen=True)
class Told:
    """Says how far a logger has been told of a run."""

    bytes: int = 0
    """Number of bytes of metrics.jsonl that it has been told."""
    phases: int = 0
    finished: bool = False


def named(names: Sequence[str], objects: Sequence[Logger] = ()) -> dict[str, Logger]:
    """Make the loggers of `run.log`, and put objects beside them under the names of their classes.

    Raises:
        ConfigError: as `build_loggers`; or an object is no `Logger`.
    """
    loggers = build_loggers(names)
    for logger in objects:
        if not isinstance(logger, Logger):
            raise ConfigError(
                f"loggers: {logger!r} is no logger; make its class a subclass of fcil.loggers.Logger, or "
                'name a package, run.log = ["tensorboard"]'
            )
        check_names(type(logger), "loggers")
        name = type(logger).__qualname__
        loggers[name if name not in loggers else f"{name} {len(loggers)}"] = logger
    return loggers


def _shown(path: Path) -> str:
    """The path of a folder as a name: from here, without the folder of all runs; else its last part."""
    path, here = path.absolute(), Path.cwd()
    parts = path.relative_to(here).parts if path.is_relative_to(here) and path != here else path.parts[-1:]
    return "/".join(parts[1:] if len(parts) > 1 and parts[0] == "runs" else parts)


def _names(folder: Path) -> tuple[str, str]:
    """Name a run, and the comparison in whose folder it lies; empty where it lies in none."""
    for parent in list(folder.absolute().parents)[:2]:  # the second of a sweep's point
        if (parent / GRID).exists():
            return "/".join(folder.absolute().relative_to(parent).parts), _shown(parent)
    return _shown(folder), ""


def _settings(folder: Path) -> dict[str, Any]:
    """All settings of a run by `section.key`, with the defaults of its method, and what else its numbers depend on."""
    about = read_provenance(folder)
    table = to_table(read_config(folder))
    table["method"] |= about.pop("method", {})
    for name, value in about.items():
        entries = value.items() if isinstance(value, Mapping) else [("", value)]
        table[f"provenance.{name}"] = dict(entries)
    return {name.removesuffix("."): value for name, value in flat(table).items()}


class RunLoggers:
    """The loggers of one run; leaving the context closes them."""

    def __init__(
        self,
        folder: Path,
        loggers: Mapping[str, Logger],
        warn: Callable[[str], None],
        done: int,
        phases: int,
        classes: Sequence[str] = (),
    ) -> None:
        """Read how far each has been told, and start those that have not been told all.

        Args:
            folder: of a run whose settings are written.
            loggers: name -> logger.
            warn: called with a line of text about a logger that failed, which is told nothing more.
            done: number of phases done.
            phases: number of phases of the whole run.
            classes: names of the classes in the order of arrival.
        """
        self.folder, self.warn, self.classes = folder, warn, classes
        self.id, self.told = self._read(loggers, done)
        self.loggers = {name: logger for name, logger in loggers.items() if not self.told[name].finished}
        if not self.loggers:
            return
        self._write()
        shown, group = _names(folder)
        about = RunInfo(folder, shown, group, self.id, 0, phases, _settings(folder))
        for name, logger in list(self.loggers.items()):
            self._call(name, logger.started, replace(about, done=self.told[name].phases))

    def _read(self, loggers: Mapping[str, Logger], done: int) -> tuple[str, dict[str, Told]]:
        """Read the run's id, and how far each logger has been told; a damaged file counts as none."""
        try:
            content = json.loads((self.folder / LOGGERS).read_text())
            positions = {name: Told(**entry) for name, entry in content["told"].items()}
            identifier = str(content["id"])
        except (OSError, ValueError, KeyError, TypeError):
            positions, identifier = {}, uuid4().hex[:12]
        size = (self.folder / EVENTS).stat().st_size if (self.folder / EVENTS).exists() else 0
        # a run whose newest checkpoint was damaged goes on from the one before, and its log was cut back
        positions = {name: Told(size, done) if entry.phases > done else entry for name, entry in positions.items()}
        return identifier, {**positions, **{name: positions.get(name, Told()) for name in loggers}}

    def _write(self) -> None:
        content = {"id": self.id, "told": {name: asdict(told) for name, told in self.told.items()}}
        try:
            write_atomic(self.folder / LOGGERS, (json.dumps(content, indent=1) + "\n").encode())
        except OSError as error:  # the records tell the user of a full disk, with what to do
            self.warn(f"{self.folder / LOGGERS}: cannot be written ({error.strerror}); loggers may be told twice")

    def _call(self, name: str, do: Callable[..., None], *arguments: object) -> bool:
        """Call a method of a logger; where it raises, say so once and tell this logger nothing more of the run."""
        try:
            do(*arguments)
        except (Exception, SystemExit) as error:  # whatever a service or a user's code may raise
            text = f"{type(error).__name__}: {error}"[:REASON]
            self.warn(f"logger {name} failed, and the run goes on without it: {text}")
            if logger := self.loggers.pop(name, None):
                self._close(logger, text)
            return False
        return True

    @staticmethod
    def _close(logger: Logger, reason: str) -> None:
        """Close a logger that failed; ignore errors while closing."""
        try:
            logger.closed(reason)
        except Exception:
            return

    def follow(self, done: int) -> None:
        """Tell every logger what the event log has beyond what it was told; called when a checkpoint is written.

        Args:
            done: number of phases done.
        """
        if not self.loggers or not (self.folder / EVENTS).exists():
            return
        first = min(self.told[name].bytes for name in self.loggers)
        with open(self.folder / EVENTS, "rb") as file:
            file.seek(first)
            log = file.read()
        for name, logger in list(self.loggers.items()):
            new = log[self.told[name].bytes - first :].splitlines()
            if self._call(name, self._tell, logger, [json.loads(line) for line in new]):
                self.told[name] = Told(first + len(log), done)
        self._write()

    def _tell(self, logger: Logger, events: Sequence[Mapping[str, Any]]) -> None:
        phases: dict[int, list[Mapping[str, Any]]] = {}
        for event in events:
            logger.event(event)
            if "phase" in event:
                phases.setdefault(event["phase"], []).append(event)
        for phase, of_phase in phases.items():
            logger.figures(phase + 1, figures_of(of_phase, self.classes))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Tell every logger the figures of the finished run."""
        for name, logger in list(self.loggers.items()):
            if self._call(name, logger.finished, final_figures(summary)):
                self.told[name] = replace(self.told[name], finished=True)
        if self.loggers:
            self._write()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close every logger, with the reason why the run stopped where it did."""
        reason = "" if kind is None else f"{kind.__name__}: {error}".rstrip(": ")
        for name, logger in list(self.loggers.items()):
            self._call(name, logger.closed, reason)
