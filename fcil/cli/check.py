"""Run `fcil check-method NAME`: read the arguments, call the battery, print."""

import argparse
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from fcil.errors import ConfigError, MethodError
from fcil.options import toml_or_text
from fcil.words import counted

if TYPE_CHECKING:
    from fcil.battery import CheckResult

__all__ = ["check_command"]

_MARKS = {"holds": "✓", "fails": "✗", "not asked": "–", "not reached": "?"}
_ASCII = {"holds": "ok   ", "fails": "FAILS", "not asked": "-    ", "not reached": "?    "}


def _settings(texts: Sequence[str]) -> dict[str, Any]:
    """Parse texts of the form `key=value`, the value in TOML, or taken as text where it is not TOML."""
    values: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        key = key.strip().removeprefix("method.")
        if not equals or not key.isidentifier():
            raise ConfigError(f"--set {text}: write it as key=value, a setting of the method: --set rank=4")
        values[key] = toml_or_text(value)
    return values


def _short(place: str) -> str:
    """Shorten the path of `file.py:12` to the one from here, where that is shorter."""
    file, _, line = place.rpartition(":")
    return f"{min(file, os.path.relpath(file), key=len)}:{line}"


def _lines(result: "CheckResult", marks: dict[str, str]) -> list[str]:
    """Format a result: one line, and below it what failed and where."""
    title = f"{marks[result.outcome]} {result.title.rstrip('.')}"
    if result.outcome in ("not asked", "not reached"):
        return [f"{title} ({result.message})"]
    where = [f"    {_short(result.place)}"] if result.place else []
    return [f"{title}  {result.seconds:.1f} s", *([f"    {result.message}", *where] if result.message else [])]


def _check(args: argparse.Namespace, console: Console) -> None:
    from fcil.config import MethodChoice
    from fcil.data.progress import waiting

    choice, results = MethodChoice(args.name, _settings(args.set)), []
    marks = _MARKS if console.encoding.startswith("utf") else _ASCII
    with waiting(console, "loading code") as step:
        from fcil.battery import examine, remarks, trial_of

        trial = trial_of(choice.name, choice.settings)
        step("checking")
        for result in examine(trial):
            results.append(result)
            console.print("\n".join(_lines(result, marks)), soft_wrap=True, markup=False)
    for remark in remarks(type(trial.method)):
        place = f"{_short(remark.place)}: " if remark.place else ""
        console.print(f"remark: {place}{remark.message}", soft_wrap=True, markup=False)
    seconds, outcomes = sum(result.seconds for result in results), [result.outcome for result in results]
    if failures := outcomes.count("fails"):
        raise MethodError(f"{choice.label}: {failures} of {len(results)} checks failed, in {seconds:.1f} s")
    verdict = f"{choice.label} keeps to the contract: {counted(outcomes.count('holds'), 'check')} in {seconds:.1f} s"
    console.print(verdict, soft_wrap=True, markup=False)


def check_command(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command `check-method`."""
    check = command("check-method", _check, "try out whether a method keeps to the contract, in seconds")
    check.add_argument("name", metavar="NAME", help="a method's name, path/to/file.py:Class, or package.module:Class")
    check.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set one of the method's settings; may be repeated",
    )
