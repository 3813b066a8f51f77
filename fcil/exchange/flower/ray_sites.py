"""Sites on the nodes of a Ray cluster: a file on each machine names the folders of the sites that it holds.

    [1]                                    # number of the client
    data-root = "/data/coast"
    class-map = "/etc/fcil/coast.toml"     # and the other keys of a SuperNode's --node-config

    FCIL_SITES=/etc/fcil/sites.toml ray start --address head:6379 --resources '{"fcil_site_1": 1}'

The resource brings the site's worker to the machine, and the variable, which the worker inherits, to its settings.
"""

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fcil.errors import ConfigError

__all__ = ["FILE", "check_places", "resource", "site_settings"]

FILE = "FCIL_SITES"
"""The environment variable of a Ray node that names its file of sites."""
_PATHS = ("data-root", "data-cache", "class-map", "weights", "state-dir")
_KEYS = (*_PATHS, "device")


def resource(site: int) -> str:
    """The resource of a Ray node that holds this site."""
    return f"fcil_site_{site}"


def _table(site: int) -> tuple[Path, dict[str, Any]]:
    """The file of sites, and what it says of one."""
    path = Path(os.environ.get(FILE, ""))
    if not os.environ.get(FILE):
        raise ConfigError(
            f"{FILE} is not set on this Ray node: start it with {FILE}=/path/to/sites.toml in the environment of `ray "
            "start` (docs/deployment.md)"
        )
    try:
        with path.open("rb") as file:
            tables = tomllib.load(file)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{FILE} = {path}: cannot be read ({error})") from None
    table = tables.get(str(site))
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: has no section [{site}], and this Ray node has the resource {resource(site)}")
    return path, table


def site_settings(site: int) -> dict[str, Any]:
    """A site's settings on this machine, as a SuperNode's --node-config has them. Relative paths begin at the file.

    What is wrong becomes the setting `problem`, which is told where the node introduces itself.
    """
    try:
        path, table = _table(site)
        for key, value in table.items():
            if key not in _KEYS or not isinstance(value, str):
                close = difflib.get_close_matches(key.replace("_", "-"), _KEYS, n=1)
                hint = (
                    f"; did you mean {close[0]!r}?" if close and close[0] != key else "; keys are " + ", ".join(_KEYS)
                )
                raise ConfigError(
                    f"{path}: [{site}] {key} = {value!r}{hint if key not in _KEYS else ': must be a text'}"
                )
    except ConfigError as error:
        return {"partition-id": site, "problem": str(error)}
    settings = {key: str(path.parent / value) if key in _PATHS else value for key, value in table.items()}
    return {"partition-id": site, **settings}


def check_places(sites: int, threads: int, nodes: Iterable[Mapping[str, float]]) -> None:
    """Check that the nodes of a cluster hold all sites, and have a worker's CPUs for each of theirs.

    Args:
        nodes: the resources of each node.

    Raises:
        ConfigError: a site is nowhere or in two places, or a node is too small.
    """
    listed = list(nodes)
    for site in range(sites):
        holders = sum(resource(site) in node for node in listed)
        if holders != 1:
            raise ConfigError(
                f"site {site}: {holders} nodes of the Ray cluster have the resource {resource(site)}, and one must: "
                f"start the node that holds its images with {FILE}=/path/to/sites.toml ray start --address HEAD:6379 "
                f"--resources '{{\"{resource(site)}\": 1}}'"
            )
    for node in listed:
        here = [site for site in range(sites) if resource(site) in node]
        if (have := node.get("CPU", 0)) < threads * len(here):
            raise ConfigError(
                f"run.threads = {threads}: the Ray node of sites {', '.join(map(str, here))} has {have:g} CPUs, too "
                "few for a worker of so many threads for each"
            )
