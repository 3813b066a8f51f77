"""Starts runs for a person, by command or by call: settings are checked at once, progress is shown, plots are drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcil.data.progress import waiting
from fcil.engine.checks import check_settings
from fcil.scenario.partition import unread

if TYPE_CHECKING:
    from rich.console import Console

    from fcil.config import Config
    from fcil.engine.simulation import Session
    from fcil.loggers import Logger
    from fcil.method import Method
    from fcil.server.plan import Plan, Progress
    from fcil.server.replies import Emit

__all__ = ["LOADING", "Watch", "carry_out", "checked", "left_out_settings"]

LOADING = "loading code, data and weights"
"""What goes on before a run begins."""


def left_out_settings(config: Config) -> str:
    """Name the settings that a run does without, a line each; empty if there are none.

    They are those that a file gives to another method and this one has too, with other values, and those of a split of
    which its kind makes no use.
    """
    from fcil.options import describe
    from fcil.registry import method_class

    choice, partition = config.method, config.partition
    unused = unread(partition) if method_class(choice.name).stream == "federated" else []
    defaults = {setting.name: setting.default for setting in describe(method_class(choice.name))}
    odd = {k: v for k, v in choice.left_out.items() if k in defaults and defaults[k] != v}
    lines = [
        f"method.{key} = {value!r} in the file is another method's: {choice.label} runs with {defaults[key]!r}; "
        f"--set method.{key}={value} gives it the same"
        for key, value in odd.items()
    ]
    return "\n".join([*lines, *(f'{name}: means nothing with kind = "{partition.kind}"' for name in unused)])


def checked(
    config: Config, folder: Path | None = None, method: Method | None = None, console: Console | None = None
) -> Session:
    """Make a run ready to start. Settings are checked before torch is imported, so that a slip is answered at once.

    Args:
        method: in place of the one that the settings name; see `fcil.engine.own_method`.
        console: where it is shown that this takes seconds; nowhere without one.

    Raises:
        ConfigError: whatever would stop the run later.
    """
    check_settings(config, method)
    with waiting(console, LOADING):
        from fcil.engine.session import prepare_to_run  # which imports torch

        return prepare_to_run(config, folder, method)


Watch = Callable[["Plan", Mapping[str, Any]], None]
"""(plan, event) -> None: called with every event of a run after it is recorded; what it raises ends the run."""


def _watched(
    listen: Callable[[Emit, Progress], Emit] | None, plan: Plan, watch: Watch
) -> Callable[[Emit, Progress], Emit]:
    def both(record: Emit, progress: Progress) -> Emit:
        emit = listen(record, progress) if listen else record

        def tell(event: Mapping[str, Any]) -> None:
            emit(event)
            watch(plan, event)

        return tell

    return both


def carry_out(
    session: Session,
    folder: Path,
    console: Console | None = None,
    loggers: Sequence[Logger] = (),
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Carry out a run, or what is left of it, and draw its plots; return the figures of the finished run.

    Args:
        console: where progress is shown; nowhere without one.
        loggers: told of the run beside those that `run.log` names.
        watch: called with every event; what it raises ends the run, which may go on later.

    Raises:
        ConfigError: the folder holds something else.
        RunError: the run had to stop; the folder's last checkpoint is good.
    """
    from fcil.engine.simulation import simulate
    from fcil.report.live import live
    from fcil.report.run import draw_run

    silent: AbstractContextManager[Callable[[Emit, Progress], Emit] | None] = nullcontext()
    with live(session.plan, console) if console else silent as listen:
        listen = _watched(listen, session.plan, watch) if watch else listen
        summary = simulate(session, folder, listen, loggers=loggers)
    with waiting(console, "drawing"):
        draw_run(session, folder, summary)
    return summary
