"""Introductions: what a node tells of itself before a run, and how it must agree with the server.

A node whose code, settings, weights or data are others would send updates that look right and are of another run. So
nodes tell hashes of all four, and the numbers of their images; what differs is refused by name before the first round.
Versions of packages and the kind of processor change last bits only: they are recorded, and told where they differ.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from fcil.config import Config, to_table
from fcil.data.dataset import Dataset, digest_of
from fcil.exchange.device import local_device
from fcil.exchange.versions import code_sha256, versions
from fcil.exchange.worker import Worker
from fcil.model.backbone import weights_sha256
from fcil.scenario.labels import known_counts

__all__ = ["Introduction", "differences", "introduce", "remarks"]

ARITHMETIC = ("torch", "torchvision", "timm", "numpy")
"""Packages whose versions may change the bits of a result."""
LOCAL = {
    "data": ("root", "cache", "sites", "class_maps"),
    "model": ("weights",),
    "run": ("device", "exchange", "workers", "gpus_per_client", "ray_address"),
}
"""Settings that may differ from machine to machine; what they lead to is compared by its hash."""
SHOWN = 12
"""Characters of a hash in a message."""
_LONGEST, _MOST = 200, 20_000
"""Most characters of a text, and most classes, tasks and versions, that an introduction may have."""


@dataclass(frozen=True)
class Introduction:
    """An introduction holds all that a node tells of itself before a run."""

    client: int
    code: str
    """SHA-256 of the code of fcil and its methods."""
    settings: str
    """SHA-256 of the settings that must be the same everywhere."""
    weights: str
    """SHA-256 of the backbone's weights."""
    data: str
    """SHA-256 of the images, labels and class names."""
    classes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Class name -> numbers of training and test images at a site; empty where it does not tell them by class."""
    tasks: tuple[tuple[int, int], ...] = ()
    """Numbers of training and test images of each task, at a site that does not tell them by class."""
    versions: Mapping[str, str] = field(default_factory=dict)
    processor: str = ""
    device: str = ""

    @property
    def identity(self) -> str:
        """A hash of everything that an update depends on beside the message: code, weights and data."""
        return digest_of({"code": self.code, "weights": self.weights, "data": self.data})

    def table(self) -> dict[str, Any]:
        """Everything as a table for the records, without what is empty."""
        return {name: value for name, value in asdict(self).items() if value not in ("", {}, ())}

    @classmethod
    def read(cls, text: str) -> "Introduction":
        """Read what `write` wrote.

        Raises:
            ValueError: it is not what a node tells.
        """
        try:
            table = json.loads(text)
            pairs = {"classes": table.pop("classes"), "tasks": table.pop("tasks")}
            classes = {str(name): _counts(pair) for name, pair in pairs["classes"].items()}
            versions = {str(name): str(version) for name, version in table.pop("versions").items()}
            client = table.pop("client")
            words = {str(name): value for name, value in table.items() if isinstance(value, str)}
            if type(client) is not int or len(words) != len(table):
                raise ValueError("it has values of other types")
            _check_sizes([*classes, *versions, *versions.values(), *words.values()], classes, pairs["tasks"], versions)
            return cls(client, classes=classes, tasks=tuple(map(_counts, pairs["tasks"])), versions=versions, **words)
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise ValueError(f"the introduction is malformed ({type(error).__name__}: {error})"[:300]) from None

    def write(self) -> str:
        """Write the introduction as JSON."""
        return json.dumps(asdict(self))


def _check_sizes(texts: Sequence[str], *collections: Collection[Any]) -> None:
    """Raise ValueError for what would fill memory or the records, or cannot be written there."""
    if any(len(collection) > _MOST for collection in collections):
        raise ValueError(f"more than {_MOST} classes, tasks or versions")
    for text in texts:
        if len(text) > _LONGEST:
            raise ValueError(f"a text of {len(text)} characters")
        text.encode()  # surrogates cannot be written: UnicodeEncodeError is a ValueError


def _counts(pair: Sequence[int]) -> tuple[int, int]:
    train, test = pair
    if type(train) is not int or type(test) is not int or not (0 <= train < 1 << 31 and 0 <= test < 1 << 31):
        raise ValueError(f"{pair} are no numbers of images")
    return train, test


def _settings_sha256(config: Config) -> str:
    table = to_table(config)
    for section, keys in LOCAL.items():
        for key in keys:
            table[section].pop(key)
    table["method"].pop("name")  # a path may differ; its file is compared by its hash before any work
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def _common_data(data: Dataset) -> str:
    """Hash of a data set that all nodes have: its images, its labels and the names of its classes."""
    return digest_of({"images": data.sha256(), "classes": json.dumps(data.classes)})


def _device(config: Config) -> str:
    device = local_device(config.run.device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _of_site(worker: Worker, client: int) -> dict[str, Any]:
    """The part of an introduction that is about a site's own images."""
    data, names = worker.dataset, worker.dataset.classes
    digest = data.digests[f"site {client}"]
    if not worker.config.data.class_counts:
        scenario = worker.scenario
        test = scenario.test_counts(data)[client] if worker.config.sites_evaluate else np.zeros(len(scenario.parts))
        pairs = [(scenario.num_examples(t, client), int(test[t])) for t in range(len(scenario.parts))]
        return {"data": digest, "tasks": tuple(pairs)}
    train, test = (np.bincount(part.labels, minlength=len(names)) for part in (data.train, data.test))
    train = known_counts(train, worker.config.tasks.label_share)
    if not worker.config.sites_evaluate:
        test = np.zeros_like(train)
    classes = {name: (int(a), int(b)) for name, a, b in zip(names, train, test, strict=True) if a or b}
    return {"data": digest, "classes": classes}


def introduce(worker: Worker, client: int = -1) -> Introduction:
    """Say what a process has of a run; -1 is the server, which tells no images of sites.

    Raises:
        ConfigError: data or weights that are missing or damaged here.
    """
    config = worker.config
    if config.partition.kind != "sites":
        about: dict[str, Any] = {"data": _common_data(worker.dataset)}
    else:
        about = _of_site(worker, client) if client >= 0 else {"data": ""}
    return Introduction(
        client, code_sha256(), _settings_sha256(config), weights_sha256(config.model), versions=versions(),
        processor=torch.backends.cpu.get_cpu_capability(), device=_device(config), **about,
    )  # fmt: skip


def differences(node: Introduction, wanted: Introduction) -> list[str]:
    """List in words where a node differs from what it must have; an empty hash is not compared."""
    remedies = {
        "code": "install the same fcil, or send it along (fcil deploy, flwr run)",
        "settings": "its fcil reads the settings otherwise; install the same one",
        "weights": "give its node the same file (node config: weights)",
        "data": "give its node the same images under the same class names (node config: data-root, class-map)",
    }
    return [
        f"other {name}: sha256 {ours[:SHOWN]} instead of {theirs[:SHOWN]}; {remedy}"
        for name, remedy in remedies.items()
        if (theirs := getattr(wanted, name)) and (ours := getattr(node, name)) != theirs
    ]


def remarks(node: Introduction, server: Introduction) -> list[str]:
    """List in words what makes last bits differ from a run on the server's machine alone."""
    out = [
        f"{name} {node.versions.get(name, 'unknown')}, the server has {server.versions.get(name)}"
        for name in ARITHMETIC
        if node.versions.get(name) != server.versions.get(name)
    ]
    if node.processor != server.processor:
        out.append(f"processor {node.processor}, the server has {server.processor}")
    return out
