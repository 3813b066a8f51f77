"""Split folders of images, one per class, where their authors did not: by a list of files, or by a seed."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fcil.data.family import CACHE, Listing, Part
from fcil.data.settings import Data, sorted_names
from fcil.errors import ConfigError
from fcil.seeding import generator

__all__ = [
    "SUFFIXES", "TEST_SHARE", "FilesByClass", "check_no_split_file", "class_folders", "empty_folders", "list_digest",
    "some", "split_classes", "stamp_of", "test_samples",
]  # fmt: skip

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
TEST_SHARE = 0.2
NAMED = 5
"""Most names in a sentence."""
FilesByClass = dict[str, list[str]]
"""Class folder -> its image files."""
Pairs = list[tuple[str, int]]
"""(class folder/file, label)."""


def some(names: Sequence[str]) -> str:
    """Join the first few names, and the number of all where there are more."""
    return ", ".join(names[:NAMED]) + (f", ... ({len(names)} in all)" if len(names) > NAMED else "")


def class_folders(root: Path) -> FilesByClass:
    """List class folders and their image files, both sorted by name; folders without images are left out.

    Folders of which all are named by whole numbers are sorted by their value; files never are.

    Raises:
        ConfigError: no folder has images.
    """
    by_class = _folders(root)
    if not any(by_class.values()):
        raise ConfigError(f"data.root: {root} holds no folders with images; it must hold one per class")
    return {name: files for name, files in by_class.items() if files}


def _folders(root: Path) -> FilesByClass:
    try:
        folders = [path for path in root.iterdir() if path.is_dir() and path.name[0] != "." and path.name != CACHE]
    except OSError as error:
        raise ConfigError(f"data.root: {root}: {error.strerror}; it must hold one folder of images per class") from None
    names = sorted_names(folder.name for folder in folders)
    return {name: sorted(p.name for p in (root / name).iterdir() if _is_image(p)) for name in names}


def _is_image(path: Path) -> bool:
    """Tell by its name whether a file is an image; hidden ones are not, as a Mac packs `._1.jpg`."""
    return path.suffix.lower() in SUFFIXES and path.name[0] != "."


def stamp_of(paths: Iterable[Path], root: Path) -> str:
    """Hash names, relative to `root` for those in it, sizes and times of files, by which replaced ones are noticed."""
    sha = hashlib.sha256()
    for path in paths:
        stat = path.stat()
        name = path.relative_to(root) if path.is_relative_to(root) else path
        sha.update(f"{name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return sha.hexdigest()


def empty_folders(root: Path) -> list[str]:
    """List class folders that have no images, which `class_folders` leaves out."""
    return [name for name, files in _folders(root).items() if not files]


def _test_places(count: int, name: str, settings: Data) -> np.ndarray:
    """Draw the places of a class's test images among its `count`: a fifth, rounded, but one of two images or more."""
    held_out = max(round(TEST_SHARE * count), int(count > 1))
    return generator(settings.split_seed, "split", settings.name, name).permutation(count)[:held_out]


def test_samples(labels: np.ndarray, classes: Sequence[str], settings: Data) -> np.ndarray:
    """Draw a fifth of each class for the test part: (n,) bool. The draw depends on seed, data set and class name."""
    test = np.zeros(len(labels), bool)
    for label, name in enumerate(classes):
        members = np.flatnonzero(labels == label)
        test[members[_test_places(len(members), name, settings)]] = True
    return test


def _draw_split(by_class: FilesByClass, settings: Data) -> tuple[Pairs, Pairs]:
    """Draw a fifth of each class, rounded, for the test part, but at least one of two images or more."""
    train: Pairs = []
    test: Pairs = []
    for label, (name, files) in enumerate(by_class.items()):
        test_indices = set(_test_places(len(files), name, settings).tolist())
        for i, file in enumerate(files):
            (test if i in test_indices else train).append((f"{name}/{file}", label))
    return train, test


def _list_files(settings: Data) -> dict[str, Path]:
    """Part -> the file that lists its images."""
    path = Path(settings.split_file).expanduser()
    return {part: Path(str(path).replace("{part}", part)) for part in ("train", "test")}


def list_digest(settings: Data) -> str:
    """SHA-256 of the files that `data.split_file` names; empty where it names none."""
    if not settings.split_file:
        return ""
    try:
        return hashlib.sha256(b"".join(p.read_bytes() for p in _list_files(settings).values())).hexdigest()
    except OSError as error:
        raise ConfigError(f"data.split_file = {settings.split_file!r}: {error.filename}: {error.strerror}") from None


def _parse(path: Path) -> Any:
    import yaml  # slow to import, and only needed here

    try:
        text = path.read_text()
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where PyYAML was built with it
        return json.loads(text) if path.suffix == ".json" else yaml.load(text, loader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"data.split_file: {path}: {error}") from None


def _pairs(listing: Any, where: str) -> Pairs:
    """Read pairs (class folder/file, label) from {data: [...], targets: [...]} or from [[path, label, ...], ...]."""
    try:
        rows = zip(listing["data"], listing["targets"], strict=True) if isinstance(listing, Mapping) else listing
        return [("/".join(Path(row[0]).parts[-2:]), int(row[1])) for row in map(tuple, rows)]
    except (KeyError, TypeError, ValueError, IndexError):
        raise ConfigError(
            f"data.split_file: {where}: must be lists `data` (paths) and `targets` (class numbers) of equal length, or "
            "a list of [path, class number]"
        ) from None


def _read_split(settings: Data) -> tuple[Pairs, Pairs]:
    """Read both parts from `data.split_file`: two files named by {part}, or one with sections train and test."""
    parts = []
    for part, path in _list_files(settings).items():
        parsed = _parse(path)
        if "{part}" not in settings.split_file:
            if not (isinstance(parsed, Mapping) and part in parsed):
                raise ConfigError(
                    f"data.split_file: {path} has no section `{part}`; where train and test are in two files, write "
                    "{part} in place of the word that tells them apart"
                )
            parsed = parsed[part]
        parts.append(_pairs(parsed, f"{path}: {part}"))
    return parts[0], parts[1]


def _class_names(pairs: Pairs, settings: Data) -> tuple[str, ...]:
    """The class folders in the order of their labels; each must have one label, and labels must be 0 to n - 1."""
    labels: dict[int, str] = {}
    where = f"data.split_file = {settings.split_file!r}"
    for path, label in pairs:
        folder = path.partition("/")[0]
        if labels.setdefault(label, folder) != folder:
            raise ConfigError(
                f"data.split_file = {settings.split_file!r}: class {label} is {labels[label]} and {folder}"
            )
    if sorted(labels) != list(range(len(labels))) or len(set(labels.values())) != len(labels):
        raise ConfigError(f"{where}: classes must be numbered 0, 1, ... without gaps, each folder once")
    return tuple(labels[i] for i in range(len(labels)))


def _check_listed(train: Pairs, test: Pairs, by_class: FilesByClass, settings: Data) -> None:
    where = f"data.split_file = {settings.split_file!r}"
    paths = [path for path, _ in train + test]
    existing = {f"{name}/{file}" for name, files in by_class.items() for file in files}
    if missing := [path for path in paths if path not in existing]:
        raise ConfigError(f"{where}: {len(missing)} of its images are not there, the first is {missing[0]}")
    if len(set(paths)) < len(paths):
        twice = next(path for i, path in enumerate(paths) if path in paths[:i])
        raise ConfigError(f"{where}: lists {twice} twice; training and test images must differ")


def _part(root: Path, pairs: Pairs) -> Part:
    return Part([root / path for path, _ in pairs], np.array([label for _, label in pairs], np.int64))


def split_classes(root: Path, settings: Data) -> Listing:
    """Split the class folders of `root` as `data.split_file` lists them, or else at random by `data.split_seed`."""
    by_class = class_folders(root)
    if settings.split_file:
        train, test = _read_split(settings)
        _check_listed(train, test, by_class, settings)
        classes, origin = _class_names(train + test, settings), f"split listed in {Path(settings.split_file).name}"
    else:
        (train, test), classes = _draw_split(by_class, settings), tuple(by_class)
        origin = f"80/20 within each class by seed {settings.split_seed}"
    lines = (f"{part} {path} {label}\n" for part, pairs in (("train", train), ("test", test)) for path, label in pairs)
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    return Listing(classes, _part(root, train), _part(root, test), f"{origin}, sha256 {digest}")


def check_no_split_file(settings: Data) -> None:
    """Raise ConfigError if `data.split_file` is set for a data set that has its authors' split."""
    if settings.split_file:
        raise ConfigError(f"data.split_file: {settings.name} has its authors' split; leave it empty")
