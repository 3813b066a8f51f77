"""Your own images as a table of paths and labels, CSV, TSV or Parquet: `data.name = "table:FILE"`."""

import csv
import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from fcil.data.families.columns import find_column
from fcil.data.family import PROTOCOL_TEST, Family, Listing
from fcil.data.labelled import PARTS, Rows, listing_of
from fcil.data.settings import Data
from fcil.data.splits import some, stamp_of
from fcil.errors import ConfigError

__all__ = ["table"]

SEPARATORS = {".csv": ",", ".tsv": "\t"}


def _check_columns(names: Sequence[str], path: Path) -> None:
    if path.suffix == ".csv" and len(names) == 1 and ";" in names[0]:
        raise ConfigError(f"{path}: its values are separated by semicolons, those of a .csv file are by commas")
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ConfigError(f"{path}: has two columns {twice!r}; rename or remove one of the two")


def _read_parquet(path: Path) -> dict[str, list[Any]]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_table
    except ImportError:
        raise ConfigError(f"{path}: reading Parquet needs pyarrow: pip install 'fcil[datasets]'") from None
    try:
        table = read_table(path)
        _check_columns(table.column_names, path)
        return dict(table.to_pydict())
    except (ArrowException, OSError) as error:
        raise ConfigError(f"{path}: cannot be read as Parquet ({error})") from None


def _read(path: Path) -> dict[str, list[Any]]:
    """Read a table: column -> its values, texts where it is CSV.

    Raises:
        ConfigError: no such file, another kind of file, or rows of unequal length; names the line.
    """
    if path.suffix == ".parquet":
        return _read_parquet(path)
    if path.suffix not in SEPARATORS:
        raise ConfigError(f"{path}: a table must be a .csv, .tsv or .parquet file")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file, delimiter=SEPARATORS[path.suffix], strict=True))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 ({error}); save it as UTF-8") from None
    except (OSError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read as a table ({error})") from None
    rows = [row for row in rows if row]
    if len(rows) < 2:
        raise ConfigError(f"{path}: has no rows below its line of column names")
    _check_columns(rows[0], path)
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(rows[0]):
            raise ConfigError(f"{path}: row {number} has {len(row)} values, and there are {len(rows[0])} columns")
    return dict(zip(rows[0], map(list, zip(*rows[1:], strict=True)), strict=True))


def _content(value: Any) -> Any:
    """The contents of an image or the path of its file, of a pair of both where it is one."""
    if not isinstance(value, Mapping):
        return value
    return value.get("path") if value.get("bytes") is None else value["bytes"]


def _images(values: Sequence[Any], folder: Path, path: Path) -> list[Path] | list[bytes]:
    """The files that a column names, or their contents where it has them, as Hugging Face's Parquet files do."""
    content = [_content(value) for value in values]
    if all(isinstance(value, bytes) for value in content):
        return content
    if not all(isinstance(value, str) for value in content):
        raise ConfigError(f"{path}: its column of images has neither paths nor contents of files in every row")
    files = [folder / value for value in content]
    missing = [i for i, file in enumerate(files) if not file.is_file()]
    if missing:
        raise ConfigError(
            f"{path}: {len(missing)} of its {len(files)} images are not there, the first is {content[missing[0]]!r} "
            f"(row {missing[0] + 2}); paths are relative to {folder}"
        )
    first: dict[str, int] = {}
    for i, file in enumerate(files):
        other = first.setdefault(os.path.normpath(file), i)
        if other != i and (file == files[other] or file.samefile(files[other])):
            before = "" if content[i] == content[other] else f", as {content[other]!r} in row {other + 2}"
            raise ConfigError(f"{path}: row {i + 2} names {content[i]!r} a second time{before}; an image has one row")
    return files


def _full(what: str, values: Sequence[Any], path: Path) -> list[Any]:
    empty = [i for i, value in enumerate(values) if value is None or value == "" or value != value]
    if empty:
        raise ConfigError(f"{path}: row {empty[0] + 2} has no {what}")
    return list(values)


def _parts(columns: Mapping[str, list[Any]], settings: Data, path: Path) -> dict[str, Rows]:
    """Divide the rows by the column that names their part; all are for training where there is none."""
    column_of = {
        what: find_column(what, list(columns), settings, str(path)) for what in ("image", "label", "split", "domain")
    }
    images = _images(columns[column_of["image"]], path.parent, path)
    labels = _full("label", columns[column_of["label"]], path)
    domains = _full("domain", columns[column_of["domain"]], path) if column_of["domain"] else None
    names = _full("part", columns[column_of["split"]], path) if column_of["split"] else ["train"] * len(labels)
    strange = sorted({str(part) for part in names if str(part).lower() not in PARTS})
    if strange:
        raise ConfigError(
            f"{path}: column {column_of['split']!r} has {some(strange)}; a part is train, test or validation"
        )
    parts = [PARTS[str(part).lower()] for part in names]
    rows = {}
    for name in dict.fromkeys(parts):
        chosen = [i for i, part in enumerate(parts) if part == name]
        of_part = None if domains is None else [domains[i] for i in chosen]
        rows[name] = Rows([images[i] for i in chosen], [labels[i] for i in chosen], of_part)
    return rows


def _listing(root: Path, settings: Data, file: str) -> Listing:
    path = root / file
    rows = _parts(_read(path), settings, path)
    origin = f"{path.name}, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
    return listing_of(rows, settings, str(path), origin=origin)


def _stamp(root: Path, settings: Data, file: str) -> str:
    """Hash the names, sizes and modification times of the table and of the images that it names."""
    path = root / file
    columns = _read(path)
    images = _images(columns[find_column("image", list(columns), settings, str(path))], path.parent, path)
    return stamp_of([path, *(image for image in images if isinstance(image, Path))], root)


@cache
def table(file: str) -> Family:
    """Describe the set of a table in data.root."""
    return Family(
        name=f"table:{file}",
        source=f"{file} in data.root, with a line of column names, and the images that it names",
        listing=partial(_listing, file=file),
        own=True,
        fits=lambda root: (root / file).is_file(),
        stamp=partial(_stamp, file=file),
        shrunk=True,
        columns=True,
        train_view=PROTOCOL_TEST,
        test_view=PROTOCOL_TEST,
    )
