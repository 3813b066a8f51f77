"""Runs Flower's own commands, with the environment that they need."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fcil.errors import ConfigError, RunError

__all__ = ["FlwrError", "app_folder", "check_connection", "environment", "find", "flwr", "flwr_json"]

_SETTINGS = {
    "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}  # fmt: skip
"""Nothing is sent to or fetched from anybody but the SuperLink, unless the user asks for it."""


class FlwrError(RunError):
    """A command of Flower's that failed, with what it said."""


def environment(**changes: str) -> dict[str, str]:
    """This process's environment, with Flower's commands on PATH: they start one another by name."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**_SETTINGS, **os.environ, "PATH": path, **changes}


def find(command: str) -> str:
    """The path of one of Flower's commands.

    Raises:
        ConfigError: it is not installed.
    """
    if program := shutil.which(command, path=environment()["PATH"]):
        return program
    raise ConfigError(f"{command}: no such command; install fcil with its dependencies (pip install fcil)")


def flwr(*arguments: str, env: Mapping[str, str] | None = None, seconds: float = 300) -> str:
    """Run `flwr ARGUMENTS` and return what it prints.

    Raises:
        FlwrError: it failed, or did not end within `seconds`.
    """
    command = [find("flwr"), *arguments]
    try:
        done = subprocess.run(
            command, env=env or environment(), capture_output=True, text=True, check=False, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        raise FlwrError(f"flwr {arguments[0]}: no answer from the SuperLink within {seconds:g} seconds") from None
    if done.returncode:
        raise FlwrError(f"flwr {arguments[0]}: {' '.join((done.stderr or done.stdout).split())[-1000:]}")
    return done.stdout


def flwr_json(*arguments: str, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run `flwr ARGUMENTS --format json` and return its answer.

    Raises:
        FlwrError: it failed, told in the answer or by the exit code, or the answer is not JSON.
    """
    output = flwr(*arguments, "--format", "json", env=env)
    try:
        answer = json.loads(output[output.index("{") :])
    except ValueError:
        raise FlwrError(f"flwr {arguments[0]}: not an answer in JSON: {' '.join(output.split())[:500]}") from None
    if not isinstance(answer, dict) or not answer.get("success", False):
        output = answer.get("error-message", output) if isinstance(answer, dict) else output
        raise FlwrError(f"flwr {arguments[0]}: {' '.join(str(output).split())[:1000]}")
    return answer


def app_folder(chosen: Path | None) -> Path:
    """The folder of the Flower app to send: `chosen`, or the checkout that this code runs from.

    Raises:
        ConfigError: there is no app.
    """
    folder = (chosen or Path(__file__).parents[3]).resolve()
    file = folder / "pyproject.toml"
    if not file.is_file() or "[tool.flwr.app]" not in file.read_text():
        raise ConfigError(
            f"{folder}: no Flower app here, which is a folder whose pyproject.toml has [tool.flwr.app]; name the "
            "checkout of fcil with --app"
        )
    return folder


def check_connection(name: str, env: Mapping[str, str]) -> None:
    """Raise ConfigError for a connection that Flower's config.toml lacks; what cannot be read is left to Flower."""
    file = Path(env.get("FLWR_HOME") or Path.home() / ".flwr") / "config.toml"
    try:
        connections = tomllib.loads(file.read_text(encoding="utf-8"))["superlink"]
        known = [known for known, table in connections.items() if isinstance(table, dict)]
    except (OSError, ValueError, KeyError, AttributeError):
        return
    if name not in known:
        raise ConfigError(
            f"--federation {name}: no such connection in {file}. Known: {', '.join(known) or 'none'}. One is a "
            f'table [superlink.{name}] with address = "HOST:PORT" and root-certificates (docs/deployment.md)'
        )
