"""Checks the settings of a run and lays it out, before anything starts: from data here, or from what nodes told."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from fcil.client.store import ClientStore
from fcil.config import Config
from fcil.engine.checks import check_across_nodes, check_privacy, check_settings
from fcil.engine.provenance import provenance
from fcil.errors import ConfigError
from fcil.exchange.device import check_device
from fcil.exchange.inline import Inline
from fcil.exchange.introduction import Introduction, introduce, remarks
from fcil.exchange.shared import Shared
from fcil.exchange.sites import data_sha256, sites_census, with_classes
from fcil.exchange.worker import Worker
from fcil.method import Backbone, Method
from fcil.model.backbone import describe_backbone
from fcil.scenario.census import Census
from fcil.server.filtering import check_filter
from fcil.server.loop import Exchange
from fcil.server.plan import Plan, check_sums, initial_progress, make_plan

__all__ = ["Session", "prepare", "prepare_to_run"]

HOLDS_IMAGES = (
    "as it is set, the server reconstructs images of the clients' data out of what they send, and keeps them in its "
    "checkpoints (docs/leaks.md)"
)
"""Warns of what `Method.server_holds_images` declares."""


@dataclass(frozen=True)
class Session:
    """A run that is checked and ready to start: whatever can be checked beforehand has been."""

    worker: Worker
    plan: Plan
    nodes: Mapping[int, Introduction] = field(default_factory=dict)
    """Client -> what its node told of itself, where nodes are on other machines."""
    connected: Exchange | None = None
    """The exchange that these nodes were asked over; whoever does not carry the run out closes it."""

    @cached_property
    def warnings(self) -> list[str]:
        """What whoever starts the run should know: a server with images, nodes that may compute other last bits."""
        name = self.plan.config.method.label
        told = [f"{name}: {HOLDS_IMAGES}"] if self.plan.method.server_holds_images else []
        if not self.nodes:
            return told
        server = introduce(self.worker)
        return told + [
            f"client {client}: {text}" for client, node in self.nodes.items() for text in remarks(node, server)
        ]

    def provenance(self) -> dict[str, Any]:
        """Everything that the numbers depend on beside the settings, for the records."""
        config, files = self.plan.config, ""
        if not self.nodes or config.partition.kind != "sites":
            files = self.worker.dataset.files
        data = data_sha256(config, self.nodes, self.worker)
        return provenance(config, self.worker.method, data, files, [self.nodes[c] for c in sorted(self.nodes)])

    def exchange(self, folder: Path) -> Exchange:
        """Make the exchange that the settings name."""
        if self.connected is not None:
            return self.connected
        if self.plan.config.run.exchange == "inline":
            return Inline(self.worker)
        from fcil.exchange.flower.exchange import ray_exchange  # Ray takes seconds to import

        return ray_exchange(self.plan.config, folder, self.worker.shared)


def prepare(
    config: Config,
    folder: Path | None = None,
    method: Method | None = None,
    nodes: Mapping[int, Introduction] | None = None,
    shared: Shared | None = None,
) -> Session:
    """Check settings, data and weights, and lay out the run. Loads no backbone.

    Args:
        folder: the run folder, where clients may keep arrays of their own; without one they keep them in memory.
        method: in place of the one that the settings name, of a class that the registry does not know.
        nodes: client -> what its node told of itself; the images of sites are then counted from that alone.
        shared: what other runs of this process have loaded or computed, and this one may use.

    Raises:
        ConfigError: whatever would stop the run later.
    """
    config = with_classes(config, nodes) if nodes else config
    method = check_settings(config, method)
    worker = Worker(config, method, ClientStore(folder / "clients") if folder else None, shared)
    if config.run.exchange == "inline":  # elsewhere it is the workers' machines that need it
        check_device(config.run.device)
    plan = make_plan(config, method, _census(config, worker, nodes or {}).check(), _backbone(config, shared))
    check_filter(plan)
    check_privacy(plan)
    check_sums(plan)
    initial_progress(plan)  # raises where the method's settings do not fit the backbone
    return Session(worker, plan, nodes or {})


def _backbone(config: Config, shared: Shared | None) -> Backbone:
    """Describe the backbone, or take the description that a run before this one made."""
    model = config.model
    if shared is None:
        return describe_backbone(model)
    description: Backbone = shared.keep("description", model, lambda: describe_backbone(model))
    return description


def prepare_to_run(config: Config, folder: Path | None = None, method: Method | None = None) -> Session:
    """Prepare a run that begins now: as `prepare`, but sites on a Ray cluster's nodes are asked what they have.

    Raises:
        ConfigError: as `prepare`; or a site is nowhere, or has other code, settings or weights.
    """
    if not config.sites_on_ray:
        return prepare(config, folder, method)
    check_across_nodes(config, check_settings(config, method))
    from fcil.exchange.flower.exchange import ray_exchange  # Ray takes seconds to import

    exchange = ray_exchange(config, folder)
    try:
        return replace(prepare(config, folder, method, exchange.introductions), connected=exchange)
    except BaseException:
        exchange.close()
        raise


def _census(config: Config, worker: Worker, nodes: Mapping[int, Introduction]) -> Census:
    """Count the samples: here, or from what sites on other machines told."""
    if config.partition.kind != "sites" or not nodes:
        if "" in config.data.sites:
            raise ConfigError(
                f"data.sites: names no folder for site {config.data.sites.index('')}; name it to simulate the site, or "
                "start the run across machines, with `fcil deploy` or on the nodes of a Ray cluster (run.ray_address)"
            )
        return worker.census
    check_across_nodes(config, worker.method)
    return sites_census(config, nodes, worker)
