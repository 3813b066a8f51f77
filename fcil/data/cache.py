"""Decoded images on disk, memory-mapped by every process that works on them.

One folder for each part: `images.bin`, image after image without gaps; `index.safetensors`, their shapes and labels;
`manifest.json`, written last. All is made in a folder aside that is then renamed: one that is there is whole, and what
happened to it since is noticed by size, time and hash.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fcil.data.dataset import Ragged, Split
from fcil.data.decode import decoded
from fcil.data.family import Part
from fcil.data.progress import bar

__all__ = ["Stale", "locked", "open_part", "write_part"]

VERSION = 1
IMAGES, INDEX, MANIFEST = "images.bin", "index.safetensors", "manifest.json"


class Stale(Exception):
    """A cache that cannot be used, and why."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time below `folder`; what killed ones left half-written there is cleared first."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in folder.glob(".*.building"):
            shutil.rmtree(left)
        yield


def _write_images(path: Path, part: Part, shorter: int, text: str) -> tuple[np.ndarray, str]:
    """Shapes (n, 3) and the SHA-256 of all pixels."""
    shapes, sha = np.zeros((len(part), 3), np.int64), hashlib.sha256()
    with open(path, "wb") as file, bar(text, len(part)) as advance:
        for i, image in enumerate(decoded(part.images, shorter)):
            pixels = np.ascontiguousarray(image).data.cast("B")
            file.write(pixels)
            sha.update(pixels)
            shapes[i] = image.shape
            advance(1)
        file.flush()
        os.fsync(file.fileno())
    return shapes, sha.hexdigest()


def write_part(folder: Path, part: Part, shorter: int, text: str, about: Mapping[str, Any]) -> None:
    """Decode one part into `folder`, replacing what is there; nothing is left behind if it fails.

    Args:
        shorter: length of the shorter side, in pixels; 0 keeps images as they are.
        text: what to call it while it is made.
        about: further entries of the manifest.
    """
    aside = folder.with_name(f".{folder.name}.building")
    aside.mkdir(parents=True)
    try:
        shapes, pixels = _write_images(aside / IMAGES, part, shorter, text)
        index = save({"shapes": shapes, "labels": part.labels.astype(np.int64)})
        (aside / INDEX).write_bytes(index)
        told = (aside / IMAGES).stat()
        manifest = {
            **about, "version": VERSION, "shorter": shorter, "count": len(part), "bytes": told.st_size,
            "mtime_ns": told.st_mtime_ns, "pixels_sha256": pixels, "index_sha256": hashlib.sha256(index).hexdigest(),
        }  # fmt: skip
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        aside.replace(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = dict(json.loads((folder / MANIFEST).read_text()))
        if manifest["version"] != VERSION:
            raise Stale(f"it has format {manifest['version']}, not {VERSION}")
        return manifest
    except FileNotFoundError:
        raise Stale("") from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise Stale(f"its {MANIFEST} is damaged ({error!r})") from None


def _check_images(path: Path, manifest: dict[str, Any]) -> None:
    """Compare size and time; where the time differs, as in a copy, read everything once and note the new time."""
    told = path.stat()
    if told.st_size != manifest["bytes"]:
        raise Stale(f"{IMAGES} has {told.st_size} bytes, not {manifest['bytes']}")
    if told.st_mtime_ns == manifest["mtime_ns"]:
        return
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != manifest["pixels_sha256"]:
            raise Stale(f"{IMAGES} has changed")
    aside = path.with_name(f".{MANIFEST}.{os.getpid()}")
    try:
        aside.write_text(json.dumps(manifest | {"mtime_ns": told.st_mtime_ns}, indent=1))
        aside.replace(path.with_name(MANIFEST))
    except OSError:  # not ours to write: the next process reads everything again
        aside.unlink(missing_ok=True)


def open_part(folder: Path) -> tuple[Split, dict[str, Any]]:
    """One part, its images memory-mapped, and its manifest.

    Raises:
        Stale: it must be made again; says why, or nothing where it is not there at all.
    """
    manifest = _read_manifest(folder)
    try:
        raw = (folder / INDEX).read_bytes()
        if hashlib.sha256(raw).hexdigest() != manifest["index_sha256"]:
            raise Stale(f"{INDEX} has changed")
        _check_images(folder / IMAGES, manifest)
        index = load(raw)
        shapes, labels = index["shapes"], index["labels"]
    except (OSError, KeyError, SafetensorError) as error:
        raise Stale(f"it is damaged ({error})") from None
    flat = np.memmap(folder / IMAGES, np.uint8, "r") if manifest["bytes"] else np.zeros(0, np.uint8)
    same = len(shapes) > 0 and bool((shapes == shapes[0]).all())
    images = flat.reshape(len(shapes), *shapes[0]) if same else Ragged.of(flat, shapes)
    return Split(images, labels, f"{manifest['pixels_sha256']} {manifest['index_sha256']}"), manifest
