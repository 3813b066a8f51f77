"""Writes files so that a kill or a loss of power leaves the old one or the whole new one; gives POSIX file locks.

Run folders, stores and caches rely on both; a system that has no such locks is told so in one message.
"""

import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fcil.errors import ConfigError

try:
    import fcntl
except ImportError:
    raise ConfigError(
        "this system has no POSIX file locks, with which fcil keeps two processes out of one run folder; on Windows "
        "install and run fcil inside WSL 2 (docs/running.md, Operating systems)"
    ) from None

__all__ = ["delete_stale", "fcntl", "left_aside", "replacing", "sync_folder", "write_atomic"]

DAY = 86400.0
"""Seconds after which a file is no longer being written."""


def left_aside(path: Path) -> bool:
    """Tell whether a path is of a file being written, `.name.pid`, which a killed process may have left behind."""
    return bool(re.fullmatch(r"\..+\.\d+", path.name)) and path.is_file()


def delete_stale(files: Iterable[Path]) -> None:
    """Delete those that were being written a day ago or earlier, by a process that was killed; others may be at it."""
    for path in filter(left_aside, files):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > DAY:
                path.unlink()


def sync_folder(folder: Path) -> None:
    """Force to disk which files a folder has."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the place aside where a block writes a file, and put it at `path` when the block has ended well.

    It is forced to disk and renamed: readers see the old file or the whole new one. Of a block that fails nothing is
    left; half a file would take up what is left of a full disk.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield aside
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file as `replacing` does."""
    with replacing(path) as aside:
        aside.write_bytes(content)
