"""Tables of settings, as files and records hold them, become a checked `Config`, and a `Config` a table again."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from fcil.config.sections import SECTIONS, Config, MethodChoice
from fcil.data.settings import one_form
from fcil.errors import ConfigError
from fcil.options import nearest, parse
from fcil.scenario.tasks import read_order

__all__ = ["IDENTITY", "Table", "from_table", "identity", "to_table"]

Table = dict[str, dict[str, Any]]
"""Section -> key -> value."""
IDENTITY = (
    "seed", "threads", "device", "min_clients", "aggregate_on_worker", "filter", "secure_sums", "evaluation_batch",
)  # fmt: skip
"""Settings of [run] that its numbers depend on; a run may go on with other values of all the rest."""
RECORDED = (
    "recorded by a run, whose config.toml this is: `fcil resume` and its folder go on with it; a copy of the file "
    "without this section is the configuration of another run"
)


def from_table(layers: Sequence[tuple[str, Mapping[str, Any]]], places: Mapping[str, str] | None = None) -> Config:
    """Merge tables, each with the name of where it came from, and check every setting.

    Args:
        layers: (the name to show in messages, section -> settings), those that win last.
        places: section.key -> where this setting came from, of those in the last table that came from elsewhere.

    Raises:
        ConfigError: names the place, the key and the remedy.
    """
    merged = _merged(layers, places or {})
    method = dict(merged.values.pop("method", {}))
    left_out = {key: value for key, value in merged.left_out.items() if key not in method}
    name = method.pop("name", MethodChoice().name)
    if not isinstance(name, str):
        raise ConfigError(f"{merged.origin['method', 'name']}: method.name = {name!r}: must be text")

    def where(section: str) -> Any:
        return lambda key: f"{merged.origin[section, key]}: {section}.{key}"

    sections = {s: parse(SECTIONS[s], entries, where(s)) for s, entries in merged.values.items()}
    config = Config(**sections, method=MethodChoice(name, method, left_out))
    config = _with_order(config)
    return _with_sites(config, merged.origin.get(("partition", "clients")))


@dataclass
class _Merged:
    """Settings of several tables, one over another."""

    values: Table = field(default_factory=dict)
    origin: dict[tuple[str, str], str] = field(default_factory=dict)
    """(section, key) -> the place that its value comes from."""
    left_out: dict[str, Any] = field(default_factory=dict)
    """Settings that were given to a method which another has taken the place of."""


def _merged(layers: Sequence[tuple[str, Mapping[str, Any]]], places: Mapping[str, str]) -> _Merged:
    """Merge tables as `from_table` does; raises ConfigError for what is no section."""
    merged, names = _Merged(), [*SECTIONS, "method"]
    for number, (place, table) in enumerate(layers):
        places_of_layer = places if number == len(layers) - 1 else {}
        for section, entries in table.items():
            keys = entries if isinstance(entries, Mapping) else ()
            elsewhere = (places_of_layer[f"{section}.{key}"] for key in keys if f"{section}.{key}" in places_of_layer)
            source = next(elsewhere, place)
            if section not in names:
                hint = RECORDED if section == "provenance" else f"unknown section. {nearest(section, names)}"
                raise ConfigError(f"{source}: [{section}]: {hint}")
            if not isinstance(entries, Mapping):
                raise ConfigError(f"{source}: {section} = {entries!r}: must be a section, [{section}]")
            below = merged.values.get("method", {}).get("name", MethodChoice().name)
            if section == "method" and entries.get("name", below) != below:
                merged.left_out = {k: v for k, v in merged.values.get("method", {}).items() if k != "name"}
                merged.values["method"] = {}  # another method: the settings of the one below are not its
            for key, value in entries.items():
                merged.values.setdefault(section, {})[key] = value
                merged.origin[section, key] = places_of_layer.get(f"{section}.{key}", place)
    return merged


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
