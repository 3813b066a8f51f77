"""Lay out a run over sites from what their nodes told of themselves, without an image."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from fcil.config import Config
from fcil.data.dataset import digest_of
from fcil.data.settings import sorted_names
from fcil.data.sites import check_distinct
from fcil.errors import ConfigError
from fcil.exchange.introduction import Introduction
from fcil.exchange.worker import Worker
from fcil.scenario.census import Census
from fcil.scenario.tasks import carried_out, class_order, make_tasks

__all__ = ["data_sha256", "sites_census", "with_classes"]


def with_classes(config: Config, nodes: Mapping[int, Introduction]) -> Config:
    """Settings in which tasks.classes names all classes of the sites, sorted, where it named none."""
    if config.partition.kind != "sites" or config.tasks.classes:
        return config
    names = tuple(sorted_names({name for node in nodes.values() for name in node.classes}))
    return replace(config, tasks=replace(config.tasks, classes=names))


def sites_census(config: Config, nodes: Mapping[int, Introduction], server: Worker) -> Census:
    """Count the images of all sites from what they told; the same census as from the images themselves.

    Args:
        config: settings with `tasks.classes`.
        nodes: client -> its introduction, one for every client.
        server: the server's own worker, for a test part of its own.

    Raises:
        ConfigError: a site has a class that is not in `tasks.classes`, or tells other things than it was asked; or two
            have the same images.
    """
    check_distinct({f"site {client}": node.data for client, node in nodes.items()})
    names = sorted_names(config.tasks.classes)
    order = class_order(names, config.tasks, config.run.seed)
    classes = tuple(names[c] for c in order)
    tasks = carried_out(make_tasks(len(names), config.tasks), config.tasks)
    by_class = np.zeros((config.partition.clients, len(classes), 2), np.int64)
    counts = np.zeros((config.partition.clients, len(tasks), 2), np.int64)
    for client, node in nodes.items():
        if not config.data.class_counts:
            if len(node.tasks) != len(tasks):
                raise ConfigError(f"site {client}: tells images of {len(node.tasks)} tasks, and there are {len(tasks)}")
            counts[client] = node.tasks
            continue
        for name, pair in node.classes.items():
            if name not in classes:
                raise ConfigError(f"site {client}: has images of {name!r}, which is not in tasks.classes")
            by_class[client, classes.index(name)] = pair
        counts[client] = [by_class[client, task.first : task.seen].sum(0) for task in tasks]
    class_counts = config.data.class_counts
    test, test_by_class = counts[..., 1], by_class[..., 1] if class_counts else None
    if not config.sites_evaluate:
        test = server.scenario.test_counts(server.dataset)
        test_by_class = server.scenario.test_counts_by_class(server.dataset)
    return Census(tasks, classes, counts[..., 0].T, test, by_class[..., 0] if class_counts else None, test_by_class)


def data_sha256(config: Config, nodes: Mapping[int, Introduction], server: Worker) -> str:
    """SHA-256 of all data of a run: of the server's data set, or of what the sites told of theirs."""
    if config.partition.kind != "sites" or not nodes:
        return server.dataset.sha256()
    parts = {f"site {client}": node.data for client, node in nodes.items()}
    if not config.sites_evaluate:
        parts["test"] = server.dataset.digests["test"]
    return digest_of(parts)
