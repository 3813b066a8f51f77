"""Run `fcil deploy`: send a run to a SuperLink, show what it says, wait for its end and tell the truth about it."""

import argparse
import json
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import tomli_w
from rich.console import Console

from fcil.cli.arguments import output_folder, set_argument, sweep_note
from fcil.cli.deployment.flwr_command import (
    FlwrError,
    app_folder,
    check_connection,
    environment,
    find,
    flwr,
    flwr_json,
)
from fcil.cli.server_errors import STOPPED, told
from fcil.data.progress import waiting
from fcil.errors import ConfigError, RunError

__all__ = ["carry_out", "deploy_command", "deployed"]

_POLL_SECONDS = 2.0
_LOOK_SECONDS = 30.0
"""Seconds between questions while the log goes on, which ends with the run: each is a process that imports Flower."""
_PATIENCE = 10
"""Answers in a row that a SuperLink may fail to give: it may be about to start again."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LEVEL = re.compile(r"^(INFO|WARNING|ERROR|DEBUG)\s*:\s*")
_OF_FLOWER = re.compile(
    r"Starting logstream|Start `flwr-|Exit Code|For more information|ServerApp process|The ServerApp code|"
    r"Exiting logstream|Using SuperLink|Successfully installed|An unhandled exception occurred in the ServerApp"
)
"""Lines of Flower's own that say nothing about the run."""


def _layers(config: Path, overrides: list[str]) -> str:
    """The settings as layers in JSON, which the server reads as it would read the file.

    Raises:
        ConfigError: a mistake in them.
    """
    from fcil.config import from_table
    from fcil.config.layers import layers_of, together, without_asides
    from fcil.engine.checks import check_across_nodes, check_settings

    layers = [*without_asides(layers_of(config)), together(overrides)]
    checked = from_table(layers)
    here = replace(checked, run=replace(checked.run, log=()))  # the server's machine needs the loggers' packages
    check_across_nodes(here, check_settings(here))
    return json.dumps(layers)


def deployed(app: Path, name: str, config: Path, overrides: list[str], output: str, env: Mapping[str, str]) -> str:
    """Start a run and return its id.

    Args:
        app: the folder of the Flower app.
        name: of the connection in Flower's config.toml.
        output: the run folder, on the SuperLink's machine.

    Raises:
        ConfigError: a mistake in the settings.
        FlwrError: Flower did not start the run.
    """
    values = {"settings": _layers(config, overrides), "output": output}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.toml"
        file.write_text(tomli_w.dumps(values))
        answer = flwr_json("run", str(app), name, "--run-config", str(file), env=env)
    return str(answer["run-id"])


def _shown(line: str) -> str:
    """Reduce a line of the run's log to what a person should see of it; empty for nothing."""
    text = _LEVEL.sub("", _COLOUR.sub("", line).strip())
    return "" if _OF_FLOWER.search(text) else text.strip()


class _Log:
    """Shows a run's log while it lasts, in a process and a thread of its own."""

    def __init__(self, run: str, name: str, env: Mapping[str, str], show: Callable[[str], None]) -> None:
        command = [find("flwr"), "log", run, name, "--stream"]
        self._process = subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        self.why: list[str] = []
        """The lines that say why the run stopped: they are not shown, for the run's end tells it."""
        self._thread = threading.Thread(target=self._follow, args=(show,), daemon=True)
        self._thread.start()

    def _follow(self, show: Callable[[str], None]) -> None:
        ending = False
        for line in self._process.stdout or ():
            if _LEVEL.match(_COLOUR.sub("", line)):  # a record begins, of one line or more
                ending = _shown(line).startswith(STOPPED)
            if text := _shown(line):
                (self.why.append if ending else show)(text)

    def ended(self, seconds: float) -> bool:
        """Wait for the end of the log, for `seconds` at most; tell whether it has come."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self._process.poll() is not None

    def close(self, seconds: float) -> None:
        """Wait for the rest of the log, for `seconds` at most, and end the process."""
        self._thread.join(seconds)
        self._process.terminate()
        self._process.wait()
        self._thread.join()
        if self._process.stdout:
            self._process.stdout.close()


def _end(run: str, name: str, env: Mapping[str, str], log: _Log) -> tuple[str, str]:
    """Wait until a run is over; its status, and the details of it.

    Raises:
        FlwrError: the SuperLink has not answered several times in a row.
    """
    failed, ended = 0, log.ended(_LOOK_SECONDS)
    while True:
        try:
            listed = flwr_json("ls", name, "--run-id", run, env=env)["runs"]
        except FlwrError:
            failed += 1
            if failed == _PATIENCE:
                raise
        else:
            failed = 0
            if str(listed[0]["status"]).startswith("finished"):
                return str(listed[0]["status"]), str(listed[0].get("status-details", ""))
        if failed or ended:
            time.sleep(_POLL_SECONDS)
        else:
            ended = log.ended(_LOOK_SECONDS)


def _followed(run: str, name: str, env: Mapping[str, str], show: Callable[[str], None]) -> tuple[str, str]:
    """Show a run's log until the run ends; returns its status and details."""
    log, status, details = _Log(run, name, env, show), "", ""
    try:
        status, details = _end(run, name, env, log)
    finally:
        log.close(10.0 if status else 0.0)
        if not details:  # so that nothing else tells it
            for text in log.why:
                show(text)
    return status, details


def carry_out(
    app: Path, name: str, config: Path, overrides: list[str], output: str, env: Mapping[str, str],
    show: Callable[[str], None], console: Console | None = None,
) -> None:  # fmt: skip
    """Start a run, show its log, and return when it is completed.

    Args:
        console: where it is shown that sending the run takes seconds; nowhere without one.

    Raises:
        ConfigError: a mistake in the settings, found here or by the server.
        RunError: the run failed, was stopped, or its SuperLink cannot be reached.
    """
    with waiting(console, f"sending code and settings to {name}"):
        run = deployed(app, name, config, overrides, output, env)
    try:
        show(f"run {run} on {name}; interrupt this command, or `flwr stop {run} {name}`, to stop it")
        show("its server and nodes load their code first, which may take a minute")
        status, details = _followed(run, name, env, show)
    except KeyboardInterrupt:
        show("interrupted; stopping the run")
        flwr("stop", run, name, env=env)
        raise
    if status != "finished:completed":
        message, code = told(details)
        raise (ConfigError if code == ConfigError.exit_code else RunError)(f"{status}: {message}")


def _deploy(args: argparse.Namespace, console: Console) -> None:
    from fcil.config import load_config

    output = str(args.output or output_folder(args).absolute())
    show = Console(highlight=False, soft_wrap=True, markup=False).print
    app, env = app_folder(args.app), environment()
    check_connection(args.federation, env)
    if note := sweep_note(args, load_config(args.config, args.set)):
        show(note)
    carry_out(app, args.federation, args.config, args.set, output, env, show, console)
    console.print(f"completed; run folder on the SuperLink's machine: {output}", soft_wrap=True)


def deploy_command(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command `fcil deploy` to the parser."""
    parser = command("deploy", _deploy, "carry out one run on the nodes of a Flower SuperLink")
    parser.add_argument("config", type=Path, metavar="CONFIG", help="a TOML file on this machine; it is sent along")
    parser.add_argument(
        "--federation", required=True, metavar="NAME", help="the SuperLink's name in Flower's config.toml"
    )
    set_argument(parser)
    parser.add_argument("--output", type=Path, metavar="DIR", help="the run folder, on the SuperLink's machine")
    parser.add_argument(
        "--app",
        type=Path,
        metavar="DIR",
        help="checkout of fcil whose code is sent to the nodes, a Flower app (default: this one)",
    )
