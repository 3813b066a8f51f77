"""Typed settings: TOML files that hold only differences, resolved into one frozen `Config`.

A file may name another as its `base` (relative to itself); later files and then `--set section.key=value` win. Every
value remembers which file it came from, so that a message can point at it.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from fcil.client.settings import Train
from fcil.data.settings import Data
from fcil.errors import ConfigError
from fcil.model.settings import Model
from fcil.options import Option, nearest, parse, toml_or_text
from fcil.registry import absolute, label
from fcil.scenario.partition import Partition
from fcil.scenario.tasks import Tasks

__all__ = [
    "BENCH",
    "SECTIONS",
    "Config",
    "MethodChoice",
    "Overrides",
    "RowFacts",
    "Run",
    "Source",
    "from_table",
    "load_config",
    "load_section",
    "load_variant",
    "row_facts",
    "rows_have_bases",
    "sweep_overrides",
    "to_table",
    "variant_names",
]

COMPARE, SWEEP, BENCH = ASIDE = "compare", "sweep", "bench"
"""Sections beside the settings of a run: what `fcil compare` and `fcil merge-bench` do with it."""

Table = dict[str, dict[str, Any]]
Source = Path | Mapping[str, Any]
"""Where settings come from: a TOML file, or a table of sections."""
Overrides = Sequence[str] | Mapping[str, Mapping[str, Any]]
"""What wins over them: texts `section.key=value`, or a table of sections."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """`[run]`: how it is carried out. Results depend on seed, threads, device and groups only, if no client is lost."""

    seed: Annotated[int, Option("the seed of everything", low=0)] = 0
    exchange: Annotated[Literal["inline", "ray"], Option("clients in this process, or on Ray workers")] = "inline"
    workers: Annotated[int, Option("Ray workers; 0 for as many as cores allow", low=0)] = 0
    threads: Annotated[int, Option("CPU threads of each client's arithmetic, and of the server's", low=1)] = 1
    gpus_per_client: Annotated[float, Option("GPU share of a Ray worker", "GPUs", low=0)] = 0.0
    device: Annotated[str, Option('"cpu", "cuda", or "auto": CUDA where a worker has a GPU')] = "auto"
    ray_address: Annotated[str, Option("a running Ray cluster to join; empty starts one for the run")] = ""
    client_timeout: Annotated[float, Option("a client that takes longer loses its update", "seconds", above=0)] = 3600.0
    min_clients: Annotated[int, Option("good updates without which a round stops the run", low=1)] = 1
    on_client_error: Annotated[
        Literal["stop", "skip"], Option("an exception in a client's code stops the run, or costs that client's update")
    ] = "stop"
    aggregate_on_worker: Annotated[
        bool, Option("clients of one group are summed where they work, and only the sums are sent")
    ] = False
    evaluate_rounds: Annotated[bool, Option("evaluate after every round, not only after every task")] = False
    diagnostics: Annotated[
        bool,
        Option("kinship of clients and tasks, spectra and intruder dimensions go to the run folder; changes no result"),
    ] = False
    evaluation_batch: Annotated[int, Option("images per batch in evaluation", "images", low=1)] = 64


@dataclass(frozen=True, kw_only=True)
class RowFacts:
    """`[compare.<label>]`: what a row of a comparison says beside settings of its run."""

    base: Annotated[
        str, Option("file with the row's settings, relative to the file that names it; what that one says itself wins")
    ] = ""
    published: Annotated[
        float | None, Option("final accuracy that somebody else has published", "%", low=0, high=100)
    ] = None
    tolerance: Annotated[
        float | None, Option("difference from it that an independent run may show", "points", above=0)
    ] = None


_FACTS = tuple(f.name for f in fields(RowFacts))


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


SECTIONS: dict[str, Any] = {
    "data": Data, "tasks": Tasks, "partition": Partition, "model": Model, "train": Train, "run": Run
}  # fmt: skip


def _absolute(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_absolute(item) for item in value)
    return absolute(value) if isinstance(value, str) else value


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (IsADirectoryError, UnicodeDecodeError):
        raise ConfigError(f"{path}: not a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from None


def _layers(path: Source, seen: tuple[Path, ...] = ()) -> list[tuple[str, dict[str, Any]]]:
    """The file and its bases, base first, each with the name to show for it."""
    if isinstance(path, Mapping):
        return [("settings", dict(path))]
    if path.resolve() in seen:
        raise ConfigError(f"{path}: `base` leads back to itself")
    table = _read(path)
    base = table.pop("base", None)
    if base is not None and not isinstance(base, str):
        raise ConfigError(f"{path}: base = {base!r}: must be the path of another file")
    below = _layers(path.parent / base, (*seen, path.resolve())) if base else []
    return [*below, (str(path), table)]


def _together(*several: Overrides) -> tuple[str, dict[str, Any]]:
    """Join all overrides into one layer, so that their order does not matter unless they set the same key."""
    table: Table = {}
    for overrides in several:
        tables = [overrides] if isinstance(overrides, Mapping) else [_override(text)[1] for text in overrides]
        for section, entries in (pair for layer in tables for pair in layer.items()):
            table.setdefault(section, {}).update(entries)
    return "overrides" if any(isinstance(o, Mapping) for o in several) else "--set", table


def _override(text: str) -> tuple[str, dict[str, Any]]:
    """Parse `section.key=value`, the value in TOML, or taken as text where it is not TOML."""
    dotted, equals, value = text.partition("=")
    section, dot, key = dotted.strip().partition(".")
    if not (equals and dot and section and key):
        raise ConfigError(f"--set {text}: write it as section.key=value, for example --set partition.beta=0.1")
    return "--set", {section: {key: toml_or_text(value)}}


def from_table(layers: Sequence[tuple[str, Mapping[str, Any]]]) -> Config:
    """Merge tables, each with the name of where it came from, and check every setting.

    Raises:
        ConfigError: names the place, the key and the remedy.
    """
    known = [*SECTIONS, "method"]
    values: Table = {}
    origin: dict[tuple[str, str], str] = {}
    left_out: dict[str, Any] = {}
    for source, table in layers:
        for section, entries in table.items():
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
                origin[section, key] = source
    method = dict(values.pop("method", {}))
    left_out = {key: value for key, value in left_out.items() if key not in method}
    name = method.pop("name", MethodChoice().name)
    if not isinstance(name, str):
        raise ConfigError(f"{origin['method', 'name']}: method.name = {name!r}: must be text")

    def where(section: str) -> Any:
        return lambda key: f"{origin[section, key]}: {section}.{key}"

    sections = {s: parse(SECTIONS[s], entries, where(s)) for s, entries in values.items()}
    return Config(**sections, method=MethodChoice(name, method, left_out))


def load_config(path: Source, overrides: Overrides = ()) -> Config:
    """Read a file, its bases and the overrides into a checked `Config`.

    Raises:
        ConfigError: as `from_table`; or the file is a table of several runs, each with a base of its own.
    """
    if rows_have_bases(path):
        raise ConfigError(
            f"{path}: is a table of runs, each with a base of its own, and no single run. `fcil compare {path}` "
            "carries them out, `fcil plan` says what they will take; one of them alone is the file that its row names"
        )
    return from_table([*_without_variants(_layers(path)), _together(overrides)])


def _without_variants(layers: Sequence[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    return [(source, {s: entries for s, entries in table.items() if s not in ASIDE}) for source, table in layers]


def load_section(path: Path, section: str, overrides: Sequence[str] = ()) -> list[tuple[str, dict[str, Any]]]:
    """Read a section beside a run's own from a file, its bases and the overrides: (source, entries), base first.

    Raises:
        ConfigError: it is no section.
    """
    layers = [(source, table[section]) for source, table in [*_layers(path), _together(overrides)] if section in table]
    for source, entries in layers:
        if not isinstance(entries, dict):
            raise ConfigError(f"{source}: {section} = {entries!r}: must be a section, [{section}]")
    return layers


def variant_names(path: Source) -> list[str]:
    """The variants that a file describes under [compare.<label>], in their order; its base's if it has none itself."""
    return next((list(table[COMPARE]) for _, table in reversed(_layers(path)) if table.get(COMPARE)), [])


def sweep_overrides(path: Source, overrides: Overrides = ()) -> list[str]:
    """One override for each value of the setting under [sweep], written `"section.key" = [values]`; none without it.

    Raises:
        ConfigError: anything but one setting with a list of different values, or one that `overrides` set as well.
    """
    sweeps = [(source, table[SWEEP]) for source, table in _layers(path) if SWEEP in table]
    if not sweeps:
        return []
    source, table = sweeps[-1]
    values = next(iter(table.values())) if isinstance(table, Mapping) and len(table) == 1 else None
    plain = isinstance(values, list) and all(isinstance(v, int | float | str) and "/" not in str(v) for v in values)
    if not isinstance(values, list) or not plain or len(set(map(str, values))) < max(1, len(values)):
        raise ConfigError(
            f"{source}: [{SWEEP}]: must be one setting and a list of different numbers or words, for example "
            '"partition.beta" = [0.5, 0.1]'
        )
    (key,) = table
    section, _, name = key.partition(".")
    where, overridden = _together(overrides)
    if name in overridden.get(section, {}):
        raise ConfigError(f"{where} {key}: {source} sweeps over it; leave it out, or change [{SWEEP}]")
    return [f"{key}={json.dumps(value)}" for value in values]


def _rows(layers: Sequence[tuple[str, dict[str, Any]]], label: str) -> list[tuple[str, dict[str, Any]]]:
    """What the file and its bases say under [compare.<label>], base first, each with the file's name.

    Raises:
        ConfigError: it is no section.
    """
    rows = [(source, table.get(COMPARE, {}).get(label, {})) for source, table in layers]
    for source, entries in rows:
        if not isinstance(entries, Mapping):
            raise ConfigError(
                f"{source}: {COMPARE}.{label} = {entries!r}: must be a section, [{COMPARE}.{label}.train]"
            )
    return rows


def row_facts(path: Source, label: str) -> RowFacts:
    """What a row of a comparison says beside settings; its `base` as a path from the current folder.

    Raises:
        ConfigError: a value that does not fit; names the file and the key.
    """
    facts: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for source, entries in _rows(_layers(path), label):
        for key in entries.keys() & set(_FACTS):
            base = key == "base" and isinstance(path, Path) and isinstance(entries[key], str)
            facts[key], origin[key] = str(Path(source).parent / entries[key]) if base else entries[key], source
    return parse(RowFacts, facts, lambda key: f"{origin[key]}: [{COMPARE}.{label}] {key}")


def rows_have_bases(path: Source) -> bool:
    """Tell whether a file is a table of whole runs: whether any of its rows names a base."""
    return any(row_facts(path, label).base for label in variant_names(path))


def load_variant(path: Source, label: str, *overrides: Overrides) -> Config:
    """The settings of one row of a comparison.

    The base that the row names, the file's own settings, then those of its [compare.<label>], then the overrides. A
    label is the name of a method unless the base or [compare.<label>.method] names one.
    """
    layers, base = _layers(path), row_facts(path, label).base
    own: list[tuple[str, dict[str, Any]]] = [
        (f"{source}: [{COMPARE}.{label}]", {k: v for k, v in entries.items() if k not in _FACTS})
        for source, entries in _rows(layers, label)
    ]
    if not base and not any("name" in table.get("method", {}) for _, table in own):
        own.insert(0, (f"label {label!r}", {"method": {"name": label}}))
    below = _layers(Path(base)) if base else []
    return from_table([*_without_variants([*below, *layers]), *own, _together(*overrides)])


def to_table(config: Config) -> Table:
    """The resolved settings, every default written out, in a form that `from_table` reads back."""
    table = {f.name: asdict(getattr(config, f.name)) for f in fields(config) if f.name != "method"}
    for entries in table.values():
        for key, value in entries.items():
            entries[key] = list(value) if isinstance(value, tuple) else value
    return {**table, "method": {"name": config.method.name, **config.method.settings}}
