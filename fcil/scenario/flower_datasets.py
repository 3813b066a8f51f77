"""Splits samples by a partitioner of the package flwr-datasets, `partition.kind = "flwr"`; needs `fcil[partitioners]`.

A partitioner divides a table of the package `datasets`; here that has a row for each sample, in random order, with its
number, its class (`label`) and its domain (`domain`, where the data set tells it).
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fcil.errors import ConfigError
from fcil.options import nearest, parse_call

__all__ = ["flower_parts"]

WRITTEN = 'a partitioner, "IidPartitioner", or one with its settings, "DirichletPartitioner(alpha = 0.5)"'


def _class(name: str, where: str) -> Any:
    try:
        from flwr_datasets import partitioner
    except ImportError:
        raise ConfigError(
            "partition.kind = \"flwr\" needs the package flwr-datasets: pip install 'fcil[partitioners]'"
        ) from None
    known = [known for known in partitioner.__all__ if known != "Partitioner" and not known.startswith("Vertical")]
    if name not in known:
        raise ConfigError(f"{where}: no such partitioner. {nearest(name, known)}")
    return getattr(partitioner, name)


def _arguments(
    of: Any, settings: Mapping[str, Any], clients: int, least: int, rng: np.random.Generator
) -> dict[str, Any]:
    """The arguments of a partitioner: those given, and where they are not, what the settings of the run say."""
    defaults = {
        "num_partitions": clients, "partition_by": "label", "min_partition_size": least,
        "seed": int(rng.integers(2**31)),
    }  # fmt: skip
    parameters = inspect.signature(of.__init__).parameters
    return {**{name: value for name, value in defaults.items() if name in parameters}, **settings}


def flower_parts(
    labels: np.ndarray,
    written: str,
    clients: int,
    min_samples: int,
    domains: Sequence[str] | None,
    rng: np.random.Generator,
) -> list[np.ndarray]:
    """Split samples by a partitioner, with a random order of samples and a seed that come from the generator.

    Args:
        labels: (n,) class of each sample.
        written: `partition.partitioner`.
        domains: (n,) domain of each sample; None where that is not known.

    Returns:
        For each client the sorted indices of its samples.

    Raises:
        ConfigError: no such partitioner, settings that it does not admit, or parts that are not all samples, each once.
    """
    where = f'partition.partitioner = "{written}"'
    name, settings = parse_call(written, where, WRITTEN)
    of = _class(name, where)
    from datasets import Dataset, disable_progress_bars

    order = rng.permutation(len(labels))
    columns: dict[str, Any] = {"sample": order, "label": labels[order]}
    if domains is not None:
        columns["domain"] = [domains[i] for i in order]
    disable_progress_bars()
    try:
        partitioner = of(**_arguments(of, settings, clients, min_samples, rng))
        partitioner.dataset = Dataset.from_dict(columns)
        count = partitioner.num_partitions
        parts = [np.sort(np.array(partitioner.load_partition(k)["sample"], np.int64)) for k in range(count)]
    except Exception as error:  # partitioners raise many kinds
        raise ConfigError(f"{where}: {' '.join(str(error).split())} (columns: {', '.join(columns)})") from None
    return _checked(parts, len(labels), clients, where)


def _checked(parts: list[np.ndarray], samples: int, clients: int, where: str) -> list[np.ndarray]:
    if len(parts) != clients:
        raise ConfigError(f"{where}: makes {len(parts)} parts, and partition.clients = {clients}; set that to the same")
    times = np.bincount(np.concatenate(parts), minlength=samples)
    if (times != 1).any():
        raise ConfigError(
            f"{where}: gives {int((times == 0).sum())} of {samples} samples to nobody and {int((times > 1).sum())} to "
            "several clients; it must give each to one"
        )
    return parts
