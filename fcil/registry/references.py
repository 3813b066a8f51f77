"""Paths of method files in settings: `path/to/file.py`, `path/to/file.py:Class`, also inside calls of other methods.

A path that is not absolute is looked for in the current folder, then in the folder of the app (that of `fcil/`, and
whatever else Python imports from outside its environment): Flower and Ray start processes elsewhere.
"""

import os
import re
import sys
from pathlib import Path

__all__ = ["absolute", "app_folders", "label", "locate", "split_file"]

_FILE = re.compile(r"(?P<path>.+?\.py)(?::(?P<name>\w+))?", re.DOTALL)
_CALL = re.compile(r"(?P<file>.+?\.py(?::\w+)?)(?P<settings>\(.*\))", re.DOTALL)
_INSIDE = re.compile(r"""(?P<before>^\s*|["'])(?P<path>[^"'\n]+?\.py)(?=\s*(?:[:("']|$))""")
"""A path at the beginning of a setting, or of a text inside it: `compose(round = "my.py:Mine")`."""


def app_folders() -> list[Path]:
    """List the folders that hold code and are no part of Python's environment; that of `fcil/` first."""
    environment = tuple(Path(prefix) for prefix in (sys.prefix, sys.base_prefix))
    others = [Path(os.path.abspath(path)) for path in sys.path if path and os.path.isdir(path)]
    outside = [path for path in others if not any(path.is_relative_to(prefix) for prefix in environment)]
    return list(dict.fromkeys([Path(__file__).parents[2], *outside]))


def locate(path: str) -> Path | None:
    """Find a file in the current folder or in one of the app's; its absolute path, or None."""
    candidates = [folder / Path(path).expanduser() for folder in (Path.cwd(), *app_folders())]
    return next((Path(os.path.abspath(p)) for p in candidates if p.is_file()), None)


def absolute(text: str) -> str:
    """Make the paths of method files in a setting absolute, where these exist; all other text stays as it is."""

    def substitute(match: re.Match[str]) -> str:
        return match["before"] + str(locate(match["path"]) or match["path"])

    return _INSIDE.sub(substitute, text)


def split_file(name: str) -> tuple[str, str] | None:
    """Split `path.py:Class` into path and class, empty where none is named; None where the name is not a file's."""
    match = _FILE.fullmatch(name.strip())
    return (match["path"], match["name"] or "") if match else None


def label(name: str) -> str:
    """Shorten a method's name for tables and pictures: of a path only its last part stays, `file.py:Class`.

    Settings in brackets after it stay: `file.py:Class(rank=4)`.
    """
    if call := _CALL.fullmatch(name):
        return label(call["file"]) + call["settings"]
    file = split_file(name)
    return f"{Path(file[0]).name}{':' if file[1] else ''}{file[1]}" if file else name
