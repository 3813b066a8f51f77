"""Cache decoded images on disk, where every process that works on them maps them into memory.

Each part (train, test) has a folder: `images.bin`, image after image without gaps; `index.safetensors`, their shapes
and labels; `manifest.json`, written last. A folder is built under another name and then renamed, so one that exists is
complete; changes made to it since are detected by size, modification time and hash.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fcil.data.dataset import Ragged, Split
from fcil.data.decode import decoded
from fcil.data.family import Part
from fcil.data.progress import bar
from fcil.data.transforms import To
from fcil.files import fcntl, write_atomic

__all__ = ["Stale", "locked", "open_part", "write_part"]

VERSION = 1
IMAGES, INDEX, MANIFEST, LOCK = "images.bin", "index.safetensors", "manifest.json", ".lock"


class Stale(Exception):
    """Raised where a cached part has to be built again; its text says why, and is empty where there is none yet."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock `folder` for one process at a time, and remove what killed processes left half-written in it.

    Where nothing comes to lie in it, the folder goes again, and with it those above it that were made for it.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    with _lock(folder):
        for leftover in folder.glob(".*.building"):
            shutil.rmtree(leftover)
        try:
            yield
        finally:
            if new and {path.name for path in folder.iterdir()} <= {LOCK}:
                (folder / LOCK).unlink(missing_ok=True)
                with suppress(OSError):  # another process has put something there
                    for path in new:
                        path.rmdir()


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, also if another process has removed and made it anew in the meantime."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError), ExitStack() as stack:
            lock = stack.enter_context(open(folder / LOCK, "wb"))
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.fstat(lock.fileno()).st_ino == (folder / LOCK).stat().st_ino:
                held = stack.pop_all()
                break
    with held:
        yield


def _write_images(path: Path, part: Part, to: To, text: str, own: bool) -> tuple[np.ndarray, str]:
    """Write all images to `path`; return their shapes, (n, 3), and the SHA-256 of all pixels."""
    shapes, sha = np.zeros((len(part), 3), np.int64), hashlib.sha256()
    with open(path, "wb") as file, bar(text, len(part)) as advance:
        for i, image in enumerate(decoded(part.images, to, 0, own)):
            pixels = np.ascontiguousarray(image).data.cast("B")
            file.write(pixels)
            sha.update(pixels)
            shapes[i] = image.shape
            advance(1)
        file.flush()
        os.fsync(file.fileno())
    return shapes, sha.hexdigest()


def write_part(folder: Path, part: Part, to: To, text: str, about: Mapping[str, Any], own: bool = False) -> None:
    """Decode one part into `folder`, which is replaced; a failure leaves no files behind.

    Args:
        to: size in pixels: of the shorter side, 0 for images as they are, or height and width.
        text: label of the progress bar.
        about: further entries of the manifest.
        own: whether the images are a user's own; see `fcil.data.decode.decode`.
    """
    aside = folder.with_name(f".{folder.name}.building")
    aside.mkdir(parents=True)
    try:
        shapes, pixels = _write_images(aside / IMAGES, part, to, text, own)
        of_domains = {} if part.domains is None else {"domains": part.domains.astype(np.int64)}
        index = save({"shapes": shapes, "labels": part.labels.astype(np.int64), **of_domains})
        (aside / INDEX).write_bytes(index)
        stat = (aside / IMAGES).stat()
        manifest = {
            **about, "version": VERSION, "shorter": to, "count": len(part), "bytes": stat.st_size,
            "mtime_ns": stat.st_mtime_ns, "pixels_sha256": pixels, "index_sha256": hashlib.sha256(index).hexdigest(),
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
    """Compare size and time; where only the time differs, as in a copy, hash the file once and record the new time."""
    stat = path.stat()
    if stat.st_size != manifest["bytes"]:
        raise Stale(f"{IMAGES} has {stat.st_size} bytes, not {manifest['bytes']}")
    if stat.st_mtime_ns == manifest["mtime_ns"]:
        return
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != manifest["pixels_sha256"]:
            raise Stale(f"{IMAGES} has changed")
    with suppress(OSError):  # the folder is read-only: the next process hashes the file again
        content = json.dumps(manifest | {"mtime_ns": stat.st_mtime_ns}, indent=1)
        write_atomic(path.with_name(MANIFEST), content.encode())


def open_part(folder: Path) -> tuple[Split, dict[str, Any]]:
    """Open a cached part: its split, the images mapped into memory, and its manifest.

    Raises:
        Stale: the part must be built again; says why, or nothing where it does not exist at all.
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
    one_shape = len(shapes) > 0 and bool((shapes == shapes[0]).all())
    images = flat.reshape(len(shapes), *shapes[0]) if one_shape else Ragged.of(flat, shapes)
    digest = f"{manifest['pixels_sha256']} {manifest['index_sha256']}"
    return Split(images, labels, digest, domains=index.get("domains")), manifest
