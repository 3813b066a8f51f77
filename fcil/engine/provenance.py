"""Records what a run's numbers depend on beside settings: versions, commit, processor, hashes of weights and data."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fcil.config import Config
from fcil.exchange.device import resolved
from fcil.exchange.introduction import Introduction
from fcil.exchange.versions import versions
from fcil.method import Method
from fcil.model.adapters import whole_text
from fcil.model.backbone import weights_left_out, weights_sha256
from fcil.options import keys_of
from fcil.registry import sources

__all__ = ["commit", "provenance"]


def commit() -> str:
    """The git commit of the checkout that this code runs from, with `-dirty` where files differ; empty outside one."""
    try:
        result = subprocess.run(
            ["git", "-C", str(Path(__file__).parents[1]), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


def _method(config: Config, method: Method) -> dict[str, Any]:
    """All settings of the method, its defaults included; [method] has those that were given."""
    values = {key: getattr(method, name) for key, name in keys_of(type(method)).items()}
    plain = {name: value for name, value in values.items() if isinstance(value, (bool, int, float, str))}
    settings = dict(config.method.settings)  # parts of a composed method stand as they were written
    if "adapter" in values and "rank" in values:
        settings["adapter"] = whole_text(str(values["adapter"]), int(values["rank"]))
    return {**plain, **settings}


def _sources(method: Method) -> dict[str, Any]:
    """The files that define the method and its parts, where they are not shipped ones: file or module -> SHA-256."""
    files = sources(method)
    return {"method_sources": {file.name: file.sha256 for file in files}} if files else {}


def provenance(
    config: Config, method: Method, data: str, files: str, nodes: Sequence[Introduction] = ()
) -> dict[str, Any]:
    """The [provenance] section of a run's config.toml.

    Args:
        data: SHA-256 of the images and labels.
        files: where they come from, in words.
        nodes: what the nodes of other machines told of themselves.
    """
    return {
        "method": _method(config, method),
        **_sources(method),
        "commit": commit(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "precision": resolved(config).model.precision,
        "weights_sha256": weights_sha256(config.model),
        "weights_left_out": weights_left_out(config.model),
        "data_sha256": data,
        "data_files": files,
        "versions": versions(),
        **({"nodes": [node.table() for node in nodes]} if nodes else {}),
    }
