"""Load a data set from its cache, which is built where it is missing or out of date."""

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fcil.data.cache import Stale, locked, open_part, write_part
from fcil.data.dataset import Dataset, Split
from fcil.data.decode import RULES
from fcil.data.family import CACHE, Family, Listing, Part
from fcil.data.files import ensure, refuse, remedy, require, stamps
from fcil.data.progress import tell
from fcil.data.remarks import remarks
from fcil.data.settings import Data
from fcil.data.splits import list_digest
from fcil.data.transforms import To
from fcil.data.views import shown
from fcil.errors import ConfigError, FilesMissing
from fcil.words import counted

__all__ = ["load_family", "readiness"]


SHOWN = 60
"""Most letters of a set's name in the names of folders."""


def _root(family: Family, settings: Data) -> Path:
    """The folder of the files; raises ConfigError where none is named, or columns are of a set that has none."""
    if settings.columns and not family.columns:
        raise ConfigError(f"data.columns: {settings.name} has no columns; leave it empty")
    if settings.root or not family.cached:
        return Path(settings.root).expanduser()
    raise FilesMissing(f"data.root: {family.name} needs the folder with its files. {remedy(family, 'DIR')}")


def _unofficial(family: Family, listing: Listing) -> list[str]:
    """Say how the numbers of classes and images differ from the official ones."""
    differences = []
    parts = (len(listing.train), len(listing.test))
    counts = parts if len(family.counts) == 2 else (sum(parts),)
    if family.classes and len(listing.classes) != family.classes:
        differences.append(f"{len(listing.classes)} classes, not {family.classes}")
    if family.counts and counts != family.counts:
        actual, official = (" + ".join(f"{n:,}" for n in pair) for pair in (counts, family.counts))
        differences.append(f"{actual} images, not {official}")
    return differences


def _read(family: Family, settings: Data, root: Path, download: bool) -> tuple[Listing, str]:
    """Read what the files list, and describe in words for the records whether they are official."""
    if download and family.fetch:
        family.fetch(root, settings)
    differences, checked = ensure(family, root, download, settings.unofficial)
    listing = family.listing(root, settings)
    differences += _unofficial(family, listing)
    if not settings.unofficial:
        refuse(family, root, differences)
    if listing.origin:
        return listing, listing.origin
    if differences:
        return listing, f"unofficial: {'; '.join(differences)}"
    remarks = ["official numbers of images and classes"] if family.counts else []
    if family.files:
        remarks.append(f"MD5 of {', '.join(checked)} right" if checked else "no checksum compared")
    return listing, "; ".join(remarks)


def _pixels(to: To) -> str:
    """The size as text: 256 for the shorter side, 224x224; empty for images as they are."""
    return "x".join(map(str, to)) if isinstance(to, tuple) else str(to or "")


def _key(settings: Data, part: str, to: To, root: Path | None) -> str:
    """Folder name of a cached part: all that its content depends on beside the files; `root` for users' own images."""
    at_sites = " train or test alone" if settings.test_at == "server" else ""  # another rule for the classes
    origin = f"{list_digest(settings) or settings.split_seed} {root or ''}{at_sites}"
    name = re.sub(r"[^\w.-]+", "_", settings.name)[:SHOWN]
    origin += f" {settings.name} {settings.columns}" if name != settings.name else ""
    return f"{name}-{part}-{_pixels(to) or 'native'}-{hashlib.sha256(origin.encode()).hexdigest()[:8]}"


def _check(family: Family, manifest: dict[str, Any], now: dict[str, str], settings: Data) -> None:
    if not {"classes", "files", "split", "sources"} <= manifest.keys():
        raise Stale("its manifest is damaged")
    if family.own and manifest.get("rules") != RULES:
        raise Stale("it was made by another version, which read some images or sorted some classes otherwise")
    replaced = [name for name, stamp in manifest["sources"].items() if now.get(name, stamp) != stamp]
    if replaced:
        raise Stale(f"{', '.join(replaced)} changed since")
    if manifest["files"].startswith("unofficial") and not settings.unofficial:
        raise Stale("it was made from unofficial files")


def _folders(family: Family, settings: Data, size: int, root: Path) -> dict[str, tuple[Path, To]]:
    """Part -> its cache folder, and the size to which its images are resized."""
    cache = Path(settings.cache).expanduser() if settings.cache else root / CACHE
    views = {"train": family.train_view, settings.evaluate_on: family.test_view}
    sides = {part: family.stored(view, size) for part, view in views.items()}
    user_root = root.resolve() if family.own and settings.cache else None
    return {part: (cache / _key(settings, part, side, user_root), side) for part, side in sides.items()}


def _open(family: Family, settings: Data, size: int, root: Path) -> tuple[dict[str, Split], dict[str, Any]]:
    now = stamps(family, root, settings)
    opened = {}
    for part, (folder, _) in _folders(family, settings, size, root).items():
        try:
            opened[part], manifest = open_part(folder)
            _check(family, manifest, now, settings)
        except Stale as why:
            raise Stale(f"{folder} is made again: {why}" if str(why) else "") from None
    return opened, manifest


def _validation(family: Family, listing: Listing) -> Part:
    if listing.validation is None:
        raise ConfigError(
            f'data.evaluate_on = "validation": {family.name} has no validation part of its own; data.held_out = 0.2 '
            "takes training images for one"
        )
    return listing.validation


def _evaluated(family: Family, settings: Data, listing: Listing) -> Part:
    """The part that accuracy is measured on."""
    return _validation(family, listing) if settings.evaluate_on == "validation" else listing.test


def _build(family: Family, settings: Data, size: int, root: Path, download: bool) -> None:
    listing, files = _read(family, settings, root, download)
    parts = {"train": listing.train, settings.evaluate_on: _evaluated(family, settings, listing)}
    cropped = any(v.crop != "whole" and not v.squash for v in (family.train_view, family.test_view))
    about = {
        "classes": listing.classes, "files": files, "split": listing.split, "sources": stamps(family, root, settings),
        **({"rules": RULES, "domains": listing.domains} if family.own else {}),
        **({"remarks": remarks(listing, size, settings.test_at != "server", cropped)} if family.own else {}),
    }  # fmt: skip
    for part, (folder, side) in _folders(family, settings, size, root).items():
        text = f"{family.name}: {counted(len(parts[part]), f'{part} image')}{f' at {_pixels(side)} px' if side else ''}"
        write_part(folder, parts[part], side, text, about, family.own)


def _cached(family: Family, settings: Data, size: int, root: Path, download: bool) -> Dataset:
    def opened() -> Dataset:
        parts, manifest = _open(family, settings, size, root)
        origin = "; ".join(filter(None, [manifest["files"], manifest["split"]]))
        evaluated = parts[settings.evaluate_on]
        data = _dataset(family, settings, tuple(manifest["classes"]), parts["train"], evaluated, origin)
        told = tuple(manifest.get("domains", ())), tuple(manifest.get("remarks", ()))
        return replace(data, domains=told[0], remarks=told[1])

    try:
        return opened()
    except Stale:
        pass
    if not download:
        require(family, root)
    try:
        with locked(next(iter(_folders(family, settings, size, root).values()))[0].parent):
            try:
                return opened()  # another process made it in the meantime
            except Stale as why:
                if str(why):
                    tell(str(why))
            _build(family, settings, size, root, download)
            return opened()
    except OSError as error:
        raise ConfigError(f"data.cache: cannot be written: {error}. data.cache names another folder") from None


def _dataset(
    family: Family, settings: Data, classes: tuple[str, ...], train: Split, test: Split, files: str
) -> Dataset:  # fmt: skip
    if settings.evaluate_on == "validation":
        files = "; ".join(filter(None, [files, "the validation part in place of the test part"]))
    return Dataset(
        family.name, classes, train, test, family.mean, family.std, family.train_view, family.test_view, files
    )  # fmt: skip


def load_family(family: Family, settings: Data, size: int, download: bool = False) -> Dataset:
    """Load a data set for a model of `size` pixels, building its cache where needed.

    Args:
        download: download missing files.

    Raises:
        ConfigError: files that are missing, damaged or not official; says which files to put where.
    """
    family = shown(family, settings)
    root = _root(family, settings)
    if family.cached:
        return _cached(family, settings, size, root, download)
    listing, files = _read(family, settings, root, download)
    parts = (listing.train, _evaluated(family, settings, listing))
    train, test = (Split(np.asarray(p.images), p.labels) for p in parts)
    return _dataset(family, settings, listing.classes, train, test, files)


def readiness(family: Family, settings: Data, size: int) -> str:
    """Say in a line for people how far a data set is from being usable; decodes and downloads nothing."""
    family = shown(family, settings)
    try:
        if not family.cached:
            data = load_family(family, settings, size)
            return f"ready: {len(data.train):,} training and {len(data.test):,} test images"
        root = _root(family, settings)
        require(family, root)
        _open(family, settings, size, root)
        return f"ready at {size} px"
    except ConfigError as error:
        return f"missing: {error}"
    except Stale:
        return f"files are there; decoded at {size} px when first used, or now by `fcil data prepare {family.name}`"
