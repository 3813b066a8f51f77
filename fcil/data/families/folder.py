"""Your own images: `train/CLASS/*.jpg` and `test/CLASS/*.jpg` (or `val/`) in data.root."""

from pathlib import Path

import numpy as np

from fcil.data.family import PROTOCOL_TEST, Family, Listing, Part
from fcil.data.labelled import PARTS
from fcil.data.settings import Data, sorted_names
from fcil.data.splits import FilesByClass, check_no_split_file, class_folders, empty_folders, some, stamp_of
from fcil.errors import ConfigError

__all__ = ["FOLDER"]

NAMES = {"validation": "val"}
"""A part -> the folder in which it is read, where that has another name."""


def _test_folder(root: Path) -> Path:
    return next((root / name for name in ("test", "val") if (root / name).is_dir()), root / "test")


def _validation(root: Path, classes: tuple[str, ...]) -> Part | None:
    """The validation part, if there is one beside a test part."""
    if _test_folder(root).name != "test" or not (root / "val").is_dir():
        return None
    by_class = class_folders(root / "val")
    _check_classes(root / "val", by_class, classes)
    return _part(root / "val", by_class, classes)


def _check_classes(folder: Path, by_class: FilesByClass, classes: tuple[str, ...]) -> None:
    strange = sorted(by_class.keys() - set(classes))
    if bare := [name for name in strange if (folder.parent / "train" / name).is_dir()]:
        raise ConfigError(
            f"data.root: {folder} has images of {some(bare)}, and train/ has such folders without any: images lie "
            "directly in their class's folder"
        )
    if strange:
        raise ConfigError(f"data.root: {folder} has classes that are not in train: {some(strange)}")


def _misnamed(root: Path) -> str:
    """Say which folders to rename, where parts have other names than those that are read; empty for none."""
    meant = [(path.name, PARTS.get(path.name.lower(), "")) for path in sorted(root.iterdir()) if path.is_dir()]
    pairs = [(name, NAMES.get(part, part)) for name, part in meant if part]
    return ", ".join(f"{name}/ to {to}/" for name, to in pairs if name != to and not (root / to).is_dir())


def _remarks(root: Path) -> tuple[str, ...]:
    """Name class folders without images, and say which part takes the place of a missing one."""
    parts = [root / name for name in ("train", "test", "val") if (root / name).is_dir()]
    empty = [f"{part.name}/{name}" for part in parts for name in empty_folders(part)]
    remarks = [f"no images in {some(empty)}: left out"] if empty else []
    if _test_folder(root).name == "val":
        remarks.append("there is no test/: val/ takes its place")
    if misnamed := _misnamed(root):
        remarks.append(f"to have it read, rename {misnamed}")
    return tuple(remarks)


def _part(root: Path, by_class: FilesByClass, classes: tuple[str, ...]) -> Part:
    paths = [root / name / file for name, files in by_class.items() for file in files]
    labels = [classes.index(name) for name, files in by_class.items() for _ in files]
    return Part(paths, np.array(labels, np.int64))


def _listing(root: Path, settings: Data) -> Listing:
    """List the images; the classes are the training folders, in the order of their names."""
    check_no_split_file(settings)
    if settings.test_at == "server":  # a server has test images only, and its sites training images only
        train, test = (
            class_folders(folder) if folder.is_dir() else {} for folder in (root / "train", _test_folder(root))
        )
        classes = tuple(sorted_names(train.keys() | test.keys()))
        if not classes:
            raise ConfigError(f"data.root: {root} holds neither train/CLASS nor test/CLASS folders of images")
        return Listing(
            classes, _part(root / "train", train, classes), _part(_test_folder(root), test, classes),
            remarks=_remarks(root),
        )  # fmt: skip
    if not ((root / "train").is_dir() and _test_folder(root).is_dir()) and (misnamed := _misnamed(root)):
        raise ConfigError(f"data.root: {root} holds parts of other names than those that are read: rename {misnamed}")
    if (root / "train").is_dir() and not _test_folder(root).is_dir():
        raise ConfigError(
            f"data.root: {root} holds no test/ and no val/ beside its train/. To hold out a fifth of train/ for tests: "
            f'data.name = "imagefolder" with data.root = "{root / "train"}"'
        )
    train, test = class_folders(root / "train"), class_folders(_test_folder(root))
    classes = tuple(train)
    _check_classes(_test_folder(root), test, classes)
    return Listing(
        classes, _part(root / "train", train, classes), _part(_test_folder(root), test, classes),
        validation=_validation(root, classes), remarks=_remarks(root),
    )  # fmt: skip


def _stamp(root: Path, settings: Data) -> str:
    """Hash the names, sizes and modification times of all files."""
    parts = ("train", "test", "val")
    return stamp_of(sorted(p for part in parts for p in (root / part).rglob("*") if p.is_file()), root)


def _fits(root: Path) -> bool:
    return any((root / part).is_dir() for part in ("train", "test", "val")) or bool(_misnamed(root))


FOLDER = Family(
    name="folder",
    source="train/CLASS/ and test/CLASS/ folders of images in data.root (for CLASS/ folders alone: imagefolder)",
    listing=_listing,
    own=True,
    fits=_fits,
    stamp=_stamp,
    shrunk=True,
    train_view=PROTOCOL_TEST,
    test_view=PROTOCOL_TEST,
)
