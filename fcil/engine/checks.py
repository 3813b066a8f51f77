"""Checks a run's settings before torch is imported, so that a slip is answered at once.

Loading torch and timm takes seconds. `fcil.engine.simulation.prepare` asks this first, and then looks at what takes
them: weights, data, devices.
"""

from fcil.config import Config
from fcil.data import family
from fcil.data.views import shown
from fcil.errors import ConfigError
from fcil.filters import parse_filter
from fcil.loggers import check_loggers
from fcil.method import Method
from fcil.registry import build_method
from fcil.scenario.tasks import check_order, make_tasks
from fcil.server.plan import Plan

__all__ = ["check_across_nodes", "check_privacy", "check_settings"]


def check_settings(config: Config, method: Method | None = None) -> Method:
    """Check that the settings of all sections and of the method go together; returns the method.

    Args:
        method: in place of the one that the settings name, of a class that the registry does not know.

    Raises:
        ConfigError: no such method or data set, a setting that the method does not admit, or two that contradict.
    """
    if method is None:
        method = build_method(config.method.name, config.method.settings)
    elif config.run.exchange != "inline":
        raise ConfigError(
            f'run.exchange = "{config.run.exchange}": its workers are other processes, which build methods by name; '
            f"{type(method).__name__} was given as an object. Keep its class in a file of its own and set "
            f'method.name = "path/to/file.py:{type(method).__name__}", or run.exchange = "inline"'
        )
    data_set = shown(family(config.data.name), config.data)
    if data_set.classes and not config.data.unofficial:  # otherwise the files say how many there are
        make_tasks(data_set.classes, config.tasks)
    _check_sites(config)
    if config.run.min_clients > config.partition.clients:
        raise ConfigError(
            f"run.min_clients = {config.run.min_clients}: there are only partition.clients = {config.partition.clients}"
        )
    check_order(config.tasks)
    check_loggers(config.run.log)
    _check_split(config)
    _check_sums(config, method)
    return method


def _check_sums(config: Config, method: Method) -> None:
    """Refuse sums, by workers or under masks, where the method, the filter or diagnostics take single updates."""
    if config.run.aggregate_on_worker and not method.additive:
        raise ConfigError(
            f"run.aggregate_on_worker: merging by {config.method.name} needs the clients' single updates, not their "
            "sums; set it to false"
        )
    if config.run.secure_sums:
        _check_secure_sums(config, method)
    if config.run.aggregate_on_worker and parse_filter(config.run.filter):
        raise ConfigError(
            f"run.filter = {config.run.filter!r}: looks at the clients' single updates, which run.aggregate_on_worker "
            'sums far away; set that to false, or the filter to "none"'
        )
    if config.run.diagnostics and config.run.aggregate_on_worker:
        raise ConfigError(
            "run.diagnostics: compares the clients' single updates, which run.aggregate_on_worker sums far away; set "
            "one of the two to false"
        )


def check_across_nodes(config: Config, method: Method) -> None:
    """Check what cannot be carried out by nodes with one client each, before they are asked anything.

    Raises:
        ConfigError: sums of several clients' updates, all images of sites in one place, or a server with images.
    """
    if config.run.aggregate_on_worker:
        raise ConfigError(
            "run.aggregate_on_worker: every node works for one client, so there is nothing to sum; set it to false"
        )
    if config.partition.kind == "sites" and method.stream != "federated":
        raise ConfigError(
            f'method.name = "{config.method.label}": trains on all images in one place, and those of sites stay there'
        )
    if method.server_holds_images:
        raise ConfigError(
            f'method.name = "{config.method.label}": as it is set, the server comes to hold images of clients\' data, '
            "which is for simulations only (docs/leaks.md); run it in one process or on Ray"
        )


def check_privacy(plan: Plan) -> None:
    """Refuse what the account of a method's noise leaves out: every sample is taken to be in one unfiltered sum, once.

    Raises:
        ConfigError: a filter sees sums without noise, or several clients hold the same samples.
    """
    at, text = plan.method.privacy, plan.config.run.filter
    if at == "server" and parse_filter(text):
        raise ConfigError(
            f"run.filter = {text!r}: sees the clients' sums before the server adds noise, so that one sample may "
            "decide who is left out, which the noise does not hide; let clients add it (method.noise_at = "
            '"client") or leave the filter out'
        )
    if at != "none" and any(plan.census.shared(task.index) for task in plan.census.tasks):
        raise ConfigError(
            f'partition.kind = "{plan.config.partition.kind}": several clients hold the same samples, and the noise is '
            "accounted for samples that one client sends once; choose a split that shares none, or leave the noise out"
        )


def _check_split(config: Config) -> None:
    """Refuse partition and participation settings that have no effect, or contradict each other."""
    train, partition = config.train, config.partition
    if train.participants and train.participation != 1:
        raise ConfigError(
            f"train.participants = {train.participants}: the clients of a round are also given as a share, "
            f"train.participation = {train.participation:g}; leave one of the two out"
        )
    if train.participants > partition.clients:
        raise ConfigError(
            f"train.participants = {train.participants}: there are only partition.clients = {partition.clients}"
        )
    if partition.class_share and partition.kind not in ("quantity", "shared_classes"):
        raise ConfigError(
            f'partition.class_share = {partition.class_share:g}: has no meaning with kind = "{partition.kind}"; it is '
            'for "quantity" and "shared_classes"'
        )
    if partition.partitioner and partition.kind != "flwr":
        raise ConfigError(
            f'partition.partitioner = "{partition.partitioner}": has no meaning with kind = "{partition.kind}"; it is '
            'for "flwr"'
        )
    if partition.kind == "sites" and partition.over != "task":
        raise ConfigError(f'partition.over = "{partition.over}": sites have the images that they have; leave it out')


def _check_sites(config: Config) -> None:
    """Refuse settings that contradict what sites are: clients whose images nobody else has."""
    data = config.data
    if config.partition.kind != "sites":
        if data.test_at != "sites" or not data.class_counts:
            name = "test_at" if data.test_at != "sites" else "class_counts"
            raise ConfigError(
                f'data.{name}: says what sites do, and partition.kind = "{config.partition.kind}" has none'
            )
        return
    if not family(data.name).own:
        raise ConfigError(f'data.name = "{data.name}": is one data set for all; sites have folders: set it to "folder"')
    for key, is_set in (("long_tail", config.tasks.long_tail != 1), ("shots", config.tasks.shots > 0)):
        if is_set:
            raise ConfigError(f"tasks.{key}: sites have the images that they have; leave it out")
    if data.stand_in:
        raise ConfigError("data.stand_in: sites have images of their own, which noise cannot stand in for")
    if data.test_at == "server" and not data.root:
        raise ConfigError('data.test_at = "server": data.root must name the folder with the test images')
    if data.test_at == "sites" and data.root:
        raise ConfigError(
            f'data.root = "{data.root}": nothing would read it, since sites have images of their own; leave it out, or '
            'set data.test_at = "server" to measure accuracy on its test images'
        )
    if not data.class_counts and not config.tasks.classes:
        raise ConfigError("data.class_counts = false: sites do not tell their classes, so tasks.classes must name all")
    if not data.class_counts and (
        alone := [t for t in make_tasks(len(config.tasks.classes), config.tasks) if t.size == 1]
    ):
        raise ConfigError(
            f"data.class_counts = false: task {alone[0].index + 1} has one class, so that its number of images is that "
            "class's; give every task two classes or more"
        )


def _check_secure_sums(config: Config, method: Method) -> None:
    """Raise ConfigError where the server would have to see more than sums, or nobody could mask them."""
    where, run = "run.secure_sums", config.run
    if not method.additive:
        raise ConfigError(f"{where}: merging by {config.method.name} needs the clients' single updates, not their sums")
    for name, is_set in (("aggregate_on_worker", run.aggregate_on_worker), ("diagnostics", run.diagnostics)):
        if is_set:
            raise ConfigError(f"{where}: the server sees no update and no group's sums; set run.{name} to false")
    if parse_filter(run.filter):
        raise ConfigError(
            f"{where}: a filter looks at the clients' single updates, which the server does not see; set run.filter to "
            '"none"'
        )
