"""Data sets of Hugging Face, and those that were saved from there: `data.name = "hf:NAME"`; needs `fcil[datasets]`.

NAME is a folder in data.root, or else a set that the package `datasets` has in its own cache: it is fetched where
that is asked for, and nothing goes over the network otherwise. `hf:NAME(subset = "full", revision = "COMMIT")`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from fcil.data.families.calls import call
from fcil.data.families.columns import find_column
from fcil.data.family import PROTOCOL_TEST, Family, Listing
from fcil.data.labelled import Lazy, Rows, listing_of, named_parts, under_one_numbering
from fcil.data.settings import Data
from fcil.data.splits import some, stamp_of
from fcil.errors import ConfigError
from fcil.options import nearest

__all__ = ["hub_set"]

ARGUMENTS = {"subset", "revision"}
SAVED = "dataset_dict.json", "state.json"
"""Files by which a folder is known that `save_to_disk` has written."""


def _package() -> Any:
    try:
        import datasets
    except ImportError:
        raise ConfigError("data.name = \"hf:...\" needs the package datasets: pip install 'fcil[datasets]'") from None
    return datasets


@contextmanager
def _offline(package: Any, offline: bool) -> Iterator[None]:
    """Let `datasets` look into its cache only."""
    before = package.config.HF_HUB_OFFLINE
    package.config.HF_HUB_OFFLINE = offline or before
    try:
        yield
    finally:
        package.config.HF_HUB_OFFLINE = before


def _texts(value: Any) -> Iterator[str]:
    """All texts in nested tables and lists."""
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple | set):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


def _check_local(folder: Path, where: str) -> None:
    """Make sure that a folder of the user's own holds no script to run and that its card names no files elsewhere.

    Raises:
        ConfigError: it does.
    """
    import yaml
    from huggingface_hub import DatasetCard

    if (folder / f"{folder.name}.py").is_file():
        raise ConfigError(
            f"{where}: {folder / folder.name}.py is a script that loads the set, which is never run; remove it, and "
            "keep images or Parquet files, or what `save_to_disk` writes"
        )
    card, more = folder / "README.md", folder / ".huggingface.yaml"
    metadata = dict(DatasetCard.load(card, ignore_metadata_errors=True).data.to_dict()) if card.is_file() else {}
    extra = yaml.safe_load(more.read_text(encoding="utf-8")) if more.is_file() else None
    for file, table in ((card, metadata), (more, extra if isinstance(extra, Mapping) else {})):
        if away := next((text for text in _texts(table.get("configs")) if "://" in text or "::" in text), ""):
            raise ConfigError(
                f"{where}: `configs` in {file} names files elsewhere, {away!r}: a folder in data.root is read without "
                "a network; put the files into it and name them there, or remove that entry"
            )


def _load(root: Path, name: str, arguments: Mapping[str, Any], fetch: bool) -> Any:
    """Load a set, as a mapping of its parts.

    Raises:
        ConfigError: it is not there, or of another revision, or cannot be read.
    """
    package, folder, where = _package(), root / name, f"hf:{name}"
    try:
        if folder.is_dir() and any((folder / file).is_file() for file in SAVED):
            loaded_set = package.load_from_disk(str(folder))
        elif folder.is_dir():
            _check_local(folder, where)
            with _offline(package, True):
                loaded_set = package.load_dataset(str(folder), arguments.get("subset"))
        else:
            if Path(name).exists():  # the package would take it for the set
                raise ConfigError(
                    f"{where}: is not in data.root = {str(root)!r}, and the folder that fcil was started in holds "
                    f"{name}: data.root must name the folder that holds the set, or start fcil elsewhere"
                )
            with _offline(package, not fetch):
                loaded_set = package.load_dataset(name, arguments.get("subset"), revision=arguments.get("revision"))
    except ConfigError:
        raise
    except Exception as error:  # the package raises many kinds
        reason = " ".join(str(error).split())[:300]
        if fetch and not folder.is_dir():
            raise ConfigError(
                f"{where}: could not be fetched ({reason}); try again, or put a folder {name} of it into {root} by hand"
            ) from None
        remedy = "" if folder.is_dir() else f"; `fcil data prepare '{where}' --root {root} --download` fetches it"
        raise ConfigError(f"{where}: cannot be loaded ({reason}){remedy}") from None
    parts = loaded_set if isinstance(loaded_set, Mapping) else {"train": loaded_set}
    if not folder.is_dir():
        _check_revision(parts, arguments.get("revision"), where)
    return parts


def _check_revision(parts: Mapping[str, Any], revision: str | None, where: str) -> None:
    """Make sure that what was cached is the revision that was asked for: from its cache, `datasets` gives any."""
    files = [file["filename"] for part in parts.values() for file in part.cache_files]
    if revision and not all(revision in file for file in files):
        raise ConfigError(
            f"{where}: what is cached is not revision {revision}; `fcil data prepare --download` fetches it"
        )


def _contents(column: Any) -> Sequence[Path | bytes]:
    """The image files of a column, or their contents, read only when asked for."""

    def item(index: int) -> Path | bytes:
        value = column[index]
        return Path(value["path"]) if value["bytes"] is None else bytes(value["bytes"])

    return Lazy(len(column), item)


def _column_of_images(package: Any, part: Any, settings: Data, where: str) -> str:
    """The column that holds the images: the only one of that kind, or the one that `data.columns` names."""
    images = [name for name, feature in part.features.items() if isinstance(feature, package.Image)]
    if not images:
        raise ConfigError(f"{where}: no column holds images; its columns are {part.features}")
    if len(images) == 1 and not any(text.strip().startswith("image") for text in settings.columns):
        return str(images[0])
    return find_column("image", images, settings, where)


def _values(part: Any, column: str) -> tuple[list[Any], list[str]]:
    """The values of a column, and the names of what its numbers stand for, where they stand for names."""
    names = getattr(part.features[column], "names", None)
    return list(part[column]), [str(name) for name in names or ()]


def _rows(package: Any, part: Any, settings: Data, where: str) -> tuple[Rows, list[str]]:
    columns = [*part.features]
    image = _column_of_images(package, part, settings, where)
    label, domain = (find_column(what, columns, settings, where) for what in ("label", "domain"))
    labels, classes = _values(part, label)
    if any(value is None for value in labels):
        raise ConfigError(f"{where}: some of its images have no {label}")
    domains = None
    if domain:
        values, names = _values(part, domain)
        domains = [names[value] if names else str(value) for value in values]
    pictures = part.cast_column(image, package.Image(decode=False)).select_columns([image])
    return Rows(_contents(pictures[image]), labels, domains), classes


def _listing(root: Path, settings: Data, name: str, arguments: Mapping[str, Any]) -> Listing:
    package, where = _package(), f"hf:{name}"
    loaded_set = _load(root, name, arguments, fetch=False)
    splits = named_parts(loaded_set, where)
    unused = [split for split in loaded_set if split not in splits.values()]
    read = {part: _rows(package, loaded_set[split], settings, where) for part, split in splits.items()}
    names = {part: names_of_part for part, (_, names_of_part) in read.items()}
    rows, classes = under_one_numbering({part: of_part for part, (of_part, _) in read.items()}, names, where)
    details = "".join(f", {key} {arguments[key]}" for key in sorted(arguments))
    origin = f"{where}{details}, fingerprints {_prints(loaded_set)}"
    listing = listing_of(rows, settings, where, classes, origin)
    extra = (f"nothing uses its parts {some(unused)}: a part is train, test or validation",) if unused else ()
    return replace(listing, remarks=(*listing.remarks, *extra))


def _stamp(root: Path, settings: Data, name: str, arguments: Mapping[str, Any]) -> str:
    """Hash the names, sizes and times of the files of a folder, or tell the fingerprints of a set in the cache.

    Where the cache has the set no longer, the text is empty: the decoded images are used as they are.
    """
    folder = root / name
    if folder.is_dir():
        return stamp_of(sorted(path for path in folder.rglob("*") if path.is_file()), root)
    try:
        return _prints(_load(root, name, arguments, fetch=False))
    except ConfigError:
        return ""


def _prints(parts: Mapping[str, Any]) -> str:
    """The package's fingerprints of all parts."""
    return ", ".join(f"{split} {part._fingerprint}" for split, part in parts.items())


def _fetch(root: Path, settings: Data, name: str, arguments: Mapping[str, Any]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    _load(root, name, arguments, fetch=True)


@cache
def hub_set(text: str) -> Family:
    """Describe a set of Hugging Face, by its name and its arguments."""
    where = f'data.name = "hf:{text}"'
    name, arguments = call(text, where)
    if strange := sorted(arguments.keys() - ARGUMENTS):
        raise ConfigError(f"{where}: {strange[0]}: no such argument. {nearest(strange[0], ARGUMENTS)}")
    if "revision" in arguments and not re.fullmatch("[0-9a-f]{40}", str(arguments["revision"])):
        raise ConfigError(f"{where}: revision must be a whole commit hash, 40 hex digits: others move")
    return Family(
        name=f"hf:{text}",
        source=f"a folder {name}, or else that set in the cache of the package datasets; decoded images go there too",
        listing=partial(_listing, name=name, arguments=arguments),
        fetch=partial(_fetch, name=name, arguments=arguments),
        stamp=partial(_stamp, name=name, arguments=arguments),
        own=True,
        shrunk=True,
        columns=True,
        train_view=PROTOCOL_TEST,
        test_view=PROTOCOL_TEST,
    )
