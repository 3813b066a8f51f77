"""The sections of a run's settings, and the `Config` that tables of them resolve to."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from fcil.client.settings import Train
from fcil.data.settings import Data, one_form
from fcil.errors import ConfigError
from fcil.filters import parse_filter
from fcil.model.settings import Model
from fcil.options import Option, nearest, parse
from fcil.registry import absolute, label
from fcil.scenario.partition import Partition
from fcil.scenario.tasks import Tasks, read_order

__all__ = ["SECTIONS", "Config", "MethodChoice", "Run", "Table", "from_table", "to_table"]

Table = dict[str, dict[str, Any]]
"""Section -> key -> value."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """`[run]`: how it is carried out.

    Results depend on seed, threads, device, filter, secure_sums, aggregate_on_worker and evaluation_batch alone, as
    long as no client is lost.
    """

    seed: Annotated[int, Option("the seed of everything", low=0)] = 0
    exchange: Annotated[Literal["inline", "ray"], Option("clients in this process, or on Ray workers")] = "inline"
    workers: Annotated[int, Option("Ray workers; 0 for as many as cores allow", low=0)] = 0
    threads: Annotated[int, Option("CPU threads of each client's arithmetic, and of the server's", low=1)] = 1
    gpus_per_client: Annotated[float, Option("GPU share of a Ray worker", "GPUs", low=0)] = 0.0
    device: Annotated[str, Option('"cpu", "cuda", or "auto": CUDA where a worker has a GPU')] = "auto"
    mixed_processors: Annotated[
        bool, Option("Ray workers may have unlike processors, whose last bits differ with who works for whom")
    ] = False
    ray_address: Annotated[str, Option("a running Ray cluster to join; empty starts one for the run")] = ""
    client_timeout: Annotated[float, Option("a client that takes longer loses its update", "seconds", above=0)] = 3600.0
    introduction_timeout: Annotated[
        float, Option("nodes read and decode their images within this time before a run", "seconds", above=0)
    ] = 900.0
    wait_for_clients: Annotated[
        float, Option("how long a phase waits for nodes on other machines that are away or failed", "seconds", low=0)
    ] = 0.0
    min_clients: Annotated[int, Option("good updates without which a round stops the run", low=1)] = 1
    on_client_error: Annotated[
        Literal["stop", "skip"], Option("an exception in a client's code stops the run, or costs that client's update")
    ] = "stop"
    client_events: Annotated[
        Literal["all", "summary"],
        Option("metrics.jsonl has a line for each client's reply, or one a phase with their sums; changes no result"),
    ] = "all"
    aggregate_on_worker: Annotated[
        bool, Option("clients of one group are summed where they work, and only the sums are sent")
    ] = False
    secure_sums: Annotated[
        bool,
        Option(
            "clients mask their sums, of which the server sees the total only; a phase takes four messages, not one"
        ),
    ] = False
    filter: Annotated[
        str,
        Option(
            "what is done to good updates before they are merged, against poisoned ones: none, norm(factor = 3), "
            "median, trimmed(share = 0.2), krum(malicious = 1), multi_krum(malicious = 1, keep = 0)"
        ),
    ] = "none"
    evaluate_rounds: Annotated[bool, Option("evaluate after every round, not only after every task")] = False
    diagnostics: Annotated[
        bool,
        Option("kinship of clients and tasks, spectra and intruder dimensions go to the run folder; changes no result"),
    ] = False
    evaluation_batch: Annotated[int, Option("images per batch in evaluation", "images", low=1)] = 64
    log: Annotated[
        tuple[str, ...],
        Option(
            "also told of the run: tensorboard, wandb, mlflow, trackio, csv, path/to/my_logger.py; no result changes"
        ),
    ] = ()

    def __post_init__(self) -> None:
        parse_filter(self.filter)
        object.__setattr__(self, "log", tuple(map(absolute, self.log)))


@dataclass(frozen=True)
class MethodChoice:
    """`[method]`: its name, and its settings as given; the method's own class checks them.

    Paths of method files are made absolute, in the settings too, where they name parts: others work in other folders.
    """

    name: str = "lorm"
    settings: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """Settings that a file gives to another method, which this one has taken the place of."""

    def __post_init__(self) -> None:
        settings = {key: _absolute(value) for key, value in self.settings.items()}
        object.__setattr__(self, "name", absolute(self.name))
        object.__setattr__(self, "settings", settings)

    @property
    def label(self) -> str:
        """The method's name as tables and pictures show it: of a path only the last part."""
        return label(self.name)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of a whole run, one field a section."""

    data: Data = field(default_factory=Data)
    tasks: Tasks = field(default_factory=Tasks)
    partition: Partition = field(default_factory=Partition)
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    method: MethodChoice = field(default_factory=MethodChoice)
    run: Run = field(default_factory=Run)

    @property
    def sites_evaluate(self) -> bool:
        """Tell whether every client is a site that evaluates on test images of its own."""
        return self.partition.kind == "sites" and self.data.test_at == "sites"

    @property
    def sites_on_ray(self) -> bool:
        """Tell whether nodes of a Ray cluster hold the images of sites: those of which no folder is named here."""
        sites = self.data.sites
        return self.partition.kind == "sites" and self.run.exchange == "ray" and not (sites and all(sites))

    @property
    def answers_by_class(self) -> bool:
        """Tell whether right answers are told by class; of sites that keep their classes to themselves, by task."""
        return self.data.class_counts or not self.sites_evaluate


IDENTITY = (
    "seed", "threads", "device", "min_clients", "aggregate_on_worker", "filter", "secure_sums", "evaluation_batch",
)  # fmt: skip
"""Settings of [run] that its numbers depend on; a run may go on with other values of all the rest."""
SECTIONS: dict[str, Any] = {
    "data": Data, "tasks": Tasks, "partition": Partition, "model": Model, "train": Train, "run": Run
}  # fmt: skip


def _absolute(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_absolute(item) for item in value)
    return absolute(value) if isinstance(value, str) else value


def from_table(layers: Sequence[tuple[str, Mapping[str, Any]]], places: Mapping[str, str] | None = None) -> Config:
    """Merge tables, each with the name of where it came from, and check every setting.

    Args:
        layers: (the name to show in messages, section -> settings), those that win last.
        places: section.key -> where this setting came from, of those in the last table that came from elsewhere.

    Raises:
        ConfigError: names the place, the key and the remedy.
    """
    known = [*SECTIONS, "method"]
    values: Table = {}
    origin: dict[tuple[str, str], str] = {}
    left_out: dict[str, Any] = {}
    for number, (place, table) in enumerate(layers):
        told = places or {} if number == len(layers) - 1 else {}
        for section, entries in table.items():
            inside = entries if isinstance(entries, Mapping) else ()
            source = next((told[f"{section}.{key}"] for key in inside if f"{section}.{key}" in told), place)
            if section not in known:
                raise ConfigError(f"{source}: [{section}]: unknown section. {nearest(section, known)}")
            if not isinstance(entries, Mapping):
                raise ConfigError(f"{source}: {section} = {entries!r}: must be a section, [{section}]")
            below = values.get("method", {}).get("name", MethodChoice().name)
            if section == "method" and entries.get("name", below) != below:
                left_out = {k: v for k, v in values.get("method", {}).items() if k != "name"}
                values["method"] = {}  # another method: the settings of the one below are not its
            for key, value in entries.items():
                values.setdefault(section, {})[key] = value
                origin[section, key] = told.get(f"{section}.{key}", place)
    method = dict(values.pop("method", {}))
    left_out = {key: value for key, value in left_out.items() if key not in method}
    name = method.pop("name", MethodChoice().name)
    if not isinstance(name, str):
        raise ConfigError(f"{origin['method', 'name']}: method.name = {name!r}: must be text")

    def where(section: str) -> Any:
        return lambda key: f"{origin[section, key]}: {section}.{key}"

    sections = {s: parse(SECTIONS[s], entries, where(s)) for s, entries in values.items()}
    config = Config(**sections, method=MethodChoice(name, method, left_out))
    config = _with_order(config)
    return _with_sites(config, origin.get(("partition", "clients")))


def _with_order(config: Config) -> Config:
    """Put the class order that a file has in the place of its name: records and nodes then have all of it."""
    tasks = config.tasks
    if not tasks.order_file or tasks.order_list:  # both: a contradiction, which `class_order` names
        return config
    return replace(config, tasks=replace(tasks, order_file="", order_list=read_order(tasks.order_file)))


def _with_sites(config: Config, clients_from: str | None) -> Config:
    """Make the number of clients that of the sites, where data.sites names any.

    Args:
        clients_from: the place that sets partition.clients, None where nothing does.
    """
    data, partition = config.data, config.partition
    if partition.kind == "sites":
        config = replace(config, tasks=replace(config.tasks, classes=tuple(map(one_form, config.tasks.classes))))
    if not data.sites:
        return config
    if partition.kind != "sites":
        raise ConfigError(
            f'data.sites: names {len(data.sites)} folders, but partition.kind = "{partition.kind}" splits one data set '
            'among the clients; set partition.kind = "sites", or give data.root alone'
        )
    if len(data.class_maps) not in (0, len(data.sites)):
        raise ConfigError(
            f'data.class_maps: {len(data.class_maps)} for {len(data.sites)} sites; one for each, "" where a site uses '
            "the common names"
        )
    if clients_from is not None and partition.clients != len(data.sites):
        raise ConfigError(
            f"{clients_from}: partition.clients = {partition.clients}, but data.sites names {len(data.sites)} folders; "
            "leave partition.clients out"
        )
    sites, maps = (tuple(map(_absolute_folder, paths)) for paths in (data.sites, data.class_maps))
    data = replace(data, sites=sites, class_maps=maps)
    return replace(config, data=data, partition=replace(partition, clients=len(data.sites)))


def _absolute_folder(path: str) -> str:
    """Make a path absolute, so that a run can be gone on with from another folder; an empty one stays empty."""
    return str(Path(path).expanduser().absolute()) if path else ""


def identity(table: Table) -> Table:
    """Select from a run's settings, as a table, those that its numbers depend on, but `model.precision`.

    The latter may be "auto": it has to be compared as it was carried out.
    """
    model = {key: value for key, value in table["model"].items() if key != "precision"}
    run = {key: value for key, value in table["run"].items() if key in IDENTITY}
    return {**table, "model": model, "run": run}


def to_table(config: Config) -> Table:
    """The resolved settings, every default written out, in a form that `from_table` reads back."""
    table = {f.name: asdict(getattr(config, f.name)) for f in fields(config) if f.name != "method"}
    for entries in table.values():
        for key, value in entries.items():
            entries[key] = list(value) if isinstance(value, tuple) else value
    return {**table, "method": {"name": config.method.name, **config.method.settings}}
