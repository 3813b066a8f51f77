"""The Python interface: what the commands `fcil run`, `compare` and `methods` do, with results as objects.

Everything is reached as `fcil.run`, `fcil.compare` and so on. Nothing is printed unless asked for; mistakes raise the
errors whose messages the commands print.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from fcil import config as settings
from fcil.config import Config, to_table
from fcil.data.progress import waiting
from fcil.engine.folders import run_folder
from fcil.engine.given import (
    SEEDS,
    Section,
    changes_of,
    class_given,
    is_method_class,
    jobs_of,
    loggers_of,
    mapping_of,
    method_names_of,
    plain,
    seeds_of,
)
from fcil.engine.own_method import choice_of
from fcil.engine.records import read_config
from fcil.errors import ConfigError
from fcil.loggers import Logger
from fcil.method import Method
from fcil.registry import installed_names, method_names
from fcil.report.comparison_result import Comparison
from fcil.report.methods import MethodInfo, methods_info
from fcil.report.run_result import Run

__all__ = ["compare", "load_config", "methods", "open_run", "run"]

Settings = str | Path | Config | Mapping[str, Any]
"""A TOML file, a `Config`, or a dict of sections."""


def _source(config: Settings) -> settings.Source:
    if isinstance(config, Config):
        return to_table(config)
    if not isinstance(config, str | Path | Mapping):
        raise ConfigError(f"config = {config!r}: must be a TOML file, a Config or a dict of sections")
    return Path(config) if isinstance(config, str | Path) else plain(config)


def load_config(config: Settings, overrides: Mapping[str, Any] | None = None, **sections: Section) -> Config:
    """Load settings and check them.

    Args:
        config: a TOML file, which may name another as its base; or a `Config`; or a dict of sections, which begins with
            the defaults.
        overrides: what wins over them: `{"train.lr": 1e-3}`, or `{"train": {"lr": 1e-3}}`.
        sections: the same by keyword: `train={"lr": 1e-3}`.

    Raises:
        ConfigError: names the place, the key and the remedy.
    """
    return settings.load_config(_source(config), changes_of(overrides, sections, load_config))


def _name(config: Settings) -> str:
    """Name the default folder: after a settings file, or after a hash of settings that are no file."""
    if isinstance(config, str | Path):
        return Path(config).stem
    rows = not isinstance(config, Config) and settings.rows_have_bases(config)
    table = plain(config) if rows and isinstance(config, Mapping) else to_table(load_config(config))
    return f"run-{hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:12]}"


def _words(changes: Mapping[str, Section]) -> list[str]:
    """Write changes as the command line has them after --set."""

    def word(value: object) -> str:
        return value if isinstance(value, str) else json.dumps(value, default=str)

    return [f"{name}={word(value)}" for name, value in settings.flat(changes).items()]


def _sweep_words(sweep: Mapping[str, Any]) -> list[str]:
    """Write a sweep as the command line has it after --sweep, for the name of a folder."""

    def word(value: object) -> str:
        return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)

    several = {key: values if isinstance(values, list | tuple) else [values] for key, values in sweep.items()}
    return [f"{key}={','.join(map(word, values))}" for key, values in several.items()]


def _exchange(changes: Mapping[str, Section], exchange: str | None) -> dict[str, dict[str, Any]]:
    """Add the exchange, which has no part in the name of a folder: results do not depend on it."""
    table = {section: dict(entries) for section, entries in changes.items()}
    if exchange is not None:
        table["run"] = {**table.get("run", {}), "exchange": exchange}
    return table


def _console(progress: bool) -> Console | None:
    return Console(highlight=False) if progress else None


def _settings_of_methods(
    config: Settings, changes: Mapping[str, Section], sweep: Mapping[str, Any] | None = None
) -> set[str]:
    """Name the settings of a method that a configuration, changes of it or a sweep set; an object has its own."""
    source = _source(config)
    given = {} if settings.rows_have_bases(source) else settings.load_config(source, changes).method.settings
    swept = {*settings.swept_settings(source), *(sweep or {})}
    return {*given, *changes.get("method", {}), *(k.removeprefix("method.") for k in swept if k.startswith("method."))}


@contextmanager
def _arguments_named() -> Iterator[None]:
    """Name an argument as this module has it in messages that begin with the command line's option."""
    try:
        yield
    except ConfigError as error:
        told = re.sub(r"^--(methods|seeds) ", r"\1: ", str(error)).replace("give --methods a,b", 'give methods="a,b"')
        error.args = (told, *error.args[1:])
        raise


def run(
    config: Settings,
    overrides: Mapping[str, Any] | None = None,
    *,
    output: str | Path | None = None,
    method: Method | str | Section | None = None,
    exchange: Literal["inline", "ray"] | None = None,
    loggers: Logger | Sequence[Logger] = (),
    progress: bool = False,
    **sections: Section,
) -> Run:
    """Carry out a run, or go on with it where it was stopped; a finished one is only read.

    Args:
        config, overrides, sections: as in `load_config`.
        output: the run folder; by default one in runs/ for each configuration with its overrides, so that the same call
            finds the same run again.
        method: a method's name, its section, or a method itself, `LoRM(rank=4)`. One whose class other processes cannot
            import, because it is defined in a notebook or in the script itself, works with the inline exchange only.
        exchange: clients in this process, or on Ray workers, in place of `run.exchange`; the same bits.
        loggers: objects that are told of the run, beside those that `run.log` names; see docs/loggers.md.
        progress: show how far it is.

    Raises:
        ConfigError: whatever would stop the run later; or the folder holds another run.
        RunError: the run had to stop; the folder's last checkpoint is good, and the same call goes on from there.
    """
    from fcil.report.running import carry_out, checked

    instance, changes = None, changes_of(overrides, sections, run)
    if is_method_class(method):
        raise class_given("method", method)
    if isinstance(method, Method):
        choice, instance = choice_of(method, _settings_of_methods(config, changes))
        changes["method"] = {"name": choice.name, **choice.settings}
    elif isinstance(method, str):
        changes["method"] = {"name": method}
    elif method is not None:
        changes["method"] = dict(plain(mapping_of("method", method, '{"name": "lorm", "rank": 4}')))
    resolved = settings.load_config(_source(config), _exchange(changes, exchange))
    folder = Path(output) if output is not None else run_folder(_name(config), _words(changes))
    console = _console(progress)
    carry_out(checked(resolved, folder, instance, console), folder, console, loggers_of(loggers))
    return Run(folder)


def open_run(folder: str | Path) -> Run:
    """Open the run in a folder, finished or not; nothing is carried out.

    Raises:
        ConfigError: the folder holds no run.
    """
    read_config(Path(folder))
    return Run(Path(folder))


def compare(
    config: Settings,
    overrides: Mapping[str, Any] | None = None,
    *,
    methods: str | Method | Sequence[str | Method] = (),
    seeds: Iterable[int] = SEEDS,
    sweep: Mapping[str, Any] | None = None,
    output: str | Path | None = None,
    exchange: Literal["inline", "ray"] | None = None,
    jobs: int | None = None,
    on: Literal["here", "ray"] = "here",
    ray_address: str = "",
    loggers: Logger | Sequence[Logger] = (),
    progress: bool = False,
    **sections: Section,
) -> Comparison:
    """Run several methods with several seeds, re-using finished runs; tables and plots lie in the folder.

    Args:
        config, overrides, sections, exchange, progress: as in `run`.
        methods: in a list, their names, also with settings, "lorm(rank = 4)", or methods themselves, `LoRM(rank=4)`,
            of classes that can be imported; or names in one text with commas. Variants that the configuration describes
            under [compare.<label>] are names too; all of those if none is named.
        seeds: of every run's draws, 0, 1 and 2 by default; each method runs with each of them.
        sweep: settings with lists of values, `{"partition.beta": [0.5, 0.1], "method.rank": [4, 16]}`: a table at each
            of their combinations, or with `"zip": True` at the first values of all, then at the second ones. It wins
            over the values of a setting under [sweep].
        output: the folder; by default one in runs/ for each configuration with its overrides and sweep.
        jobs: runs at a time, each in a process of its own, by default 1; 0 for as many as there are cores. On a cluster
            by default as many as it has room for.
        on: "ray": runs are tasks of a Ray cluster whose machines see the folder.
        ray_address: of that cluster; by default that of `run.ray_address`, or a Ray of this machine.
        loggers: objects that are told of every run, one after another; with one job only.

    Raises:
        ConfigError: nothing to compare, or settings that one of the runs cannot have: found before the first begins.
        RunError: runs failed; the others are finished and in the tables, and the same call tries those again.
    """
    from fcil.engine.comparison import LAYING_OUT, cells, figures

    jobs = jobs_of(jobs, on)
    changes = changes_of(overrides, sections, compare)
    sweep = plain(mapping_of("sweep", sweep, '{"partition.beta": [0.5, 0.1]}'))
    rows = settings.labels_of(_source(config))
    labels = method_names_of(methods, rows, lambda: _settings_of_methods(config, changes, sweep))
    numbers = seeds_of(seeds)
    words = [*_words(changes), *_sweep_words(sweep)]
    folder = Path(output) if output is not None else run_folder(_name(config), words, after="-compare")
    named = _exchange(changes, exchange or ("ray" if on == "ray" else None))
    console = _console(progress)
    with waiting(console, LAYING_OUT), _arguments_named():
        planned = cells(_source(config), labels, numbers, named, folder, sweep)
        from fcil.report.grid_running import carry_out_grid, check_missing  # which import torch

    tables = carry_out_grid(folder, planned, jobs, console, loggers=loggers_of(loggers), on=on, ray_address=ray_address)
    check_missing(folder, planned)
    points = {cell.value: dict(cell.point.settings) for cell in planned}
    done = figures(planned, {cell.folder: Run(cell.folder).summary for cell in planned})
    return Comparison(folder, tables, tuple(Run(cell.folder) for cell in planned), points, done)


def methods() -> list[MethodInfo]:
    """Describe all methods, shipped and installed: what each does, its source, what it needs, and its settings."""
    return methods_info([*method_names(), *installed_names()])
