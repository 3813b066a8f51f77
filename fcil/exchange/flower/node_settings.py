"""Read a node's own settings, which differ from machine to machine, from the --node-config of its SuperNode."""

import difflib
from collections.abc import Mapping
from typing import Any

from fcil.config.tables import Table
from fcil.errors import ConfigError

__all__ = ["KEYS", "local_settings"]

KEYS = {
    "partition-id": "number of the client whose data this node holds, from 0",
    "data-root": "folder with the images of this node",
    "data-cache": "folder for its decoded images; by default fcil-cache in data-root",
    "class-map": 'TOML file of lines "own class name" = "common name"',
    "weights": "file with the backbone's weights",
    "device": '"cpu", "cuda" or "cuda:1"',
    "state-dir": "folder for what its client keeps between rounds",
    "resident": "false: every message is worked on in a process of its own",
    "resident-seconds": "seconds without a message after which the resident process ends",
    "resident-dir": "folder for the socket and the log of the resident process",
}
"""Key of --node-config -> what it means."""
_SETTINGS = {
    "data-root": ("data", "root"), "data-cache": ("data", "cache"), "weights": ("model", "weights"),
    "device": ("run", "device"),
}  # fmt: skip


def _check(node_config: Mapping[str, Any]) -> None:
    """Refuse a misspelt key, which would leave a node with the server's setting; others may be of other apps."""
    if "problem" in node_config:  # found where the settings of a Ray node were read
        raise ConfigError(str(node_config["problem"]))
    for name in node_config.keys() - KEYS.keys():
        close = difflib.get_close_matches(name.replace("_", "-"), KEYS, n=1, cutoff=0.8)
        if close:
            raise ConfigError(f"node config: {name}: did you mean {close[0]!r}?")


def _site(message: Table, node_config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings under [data] of a node that is a site: its own folder in its place, all others elsewhere."""
    client, clients, data = node_config.get("partition-id"), message["partition"]["clients"], message["data"]
    if type(client) is not int or not 0 <= client < clients:
        raise ConfigError(f"node config: partition-id = {client!r}: must be a number from 0 to {clients - 1}")
    roots, maps = data["sites"] or [""] * clients, data["class_maps"] or [""] * clients
    root, class_map = (str(node_config.get(k, v[client])) for k, v in (("data-root", roots), ("class-map", maps)))
    if not root:
        raise ConfigError(
            "node config: data-root is missing: start this SuperNode with --node-config "
            f"\"partition-id={client} data-root='/folder/with/its/images'\""
        )

    def alone(value: str) -> list[str]:
        return [value if k == client else "" for k in range(clients)]

    return {"root": "", "sites": alone(root), "class_maps": alone(class_map)}


def local_settings(message: Table, node_config: Mapping[str, Any]) -> Table:
    """Settings of this node that take the place of the server's.

    Args:
        message: the server's settings, resolved.
        node_config: what --node-config of this SuperNode says.

    Raises:
        ConfigError: a misspelt key, or a site without images or a number of its own.
    """
    _check(node_config)
    local: Table = {}
    for name, (section, key) in _SETTINGS.items():
        if name in node_config:
            local.setdefault(section, {})[key] = str(node_config[name])
    if message["partition"]["kind"] == "sites" and node_config:  # our Ray workers have none and serve all sites
        local.setdefault("data", {}).update(_site(message, node_config))
    return local
