"""Finds a method's files on a node, where the app lies there; work is refused unless they are the server's."""

import hashlib
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fcil.errors import ConfigError
from fcil.method import Method
from fcil.registry import build_method, sources
from fcil.registry.references import app_folders

__all__ = ["paths_here", "node_method"]

_REMEDY = (
    "Every node needs the method's code: put the file into the folder of the app that Flower sends (the checkout of "
    "fcil, or what --app names), and name it by its path from there; or install the package that holds it on every node"
)


def _path_here(name: str, inside: str, sha256: str) -> str:
    """Find a file of the server's on this node, at the same path or inside the app; rather one of the same content."""
    candidates = [Path(name), *(folder / inside for folder in app_folders() if inside)]
    here = [path for path in candidates if path.is_file()]
    same = [path for path in here if hashlib.sha256(path.read_bytes()).hexdigest() == sha256]
    return str([*same, *here, name][0])


def paths_here(table: Mapping[str, Any], files: str) -> dict[str, Any]:
    """Rewrite the paths of method files in a run's settings to where they are on this node.

    Args:
        files: `Job.sources`.
    """
    settings = dict(table.get("method", {}))
    for name, inside, sha256 in json.loads(files):
        path = _path_here(name, inside, sha256) if name.endswith(".py") else name
        settings = {k: v.replace(name, path) if isinstance(v, str) else v for k, v in settings.items()}
    return {**table, "method": settings}


def node_method(name: str, settings: Mapping[str, Any], files: str) -> Method:
    """Build the method, of the same code as on the server.

    Args:
        files: `Job.sources`.

    Raises:
        ConfigError: a file, module or entry point is missing on this node, or holds other code; says what to do.
    """
    node = platform.node() or "this node"
    try:
        method = build_method(name, settings)
    except ConfigError as error:
        raise ConfigError(f"{node}: {error}. {_REMEDY}" if json.loads(files) else f"{node}: {error}") from error
    here = {file.sha256 for file in sources(method)}
    if other := [file for file, _, sha256 in json.loads(files) if sha256 not in here]:
        raise ConfigError(f"{node}: {', '.join(other)} holds other code here than on the server. {_REMEDY}")
    return method
