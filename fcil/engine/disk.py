"""Writes files so that a kill or a full disk leaves the old one or the whole new one, and says what failed."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from fcil.errors import ConfigError, RunError

__all__ = ["left_aside", "replacing", "sync_folder", "write_atomic", "writing"]


def left_aside(path: Path) -> bool:
    """Tell whether a path is of a file being written, `.name.pid`, which a killed process may have left behind."""
    return bool(re.fullmatch(r"\..+\.\d+", path.name)) and path.is_file()


def sync_folder(folder: Path) -> None:
    """Force to disk which files a folder has."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def writing(folder: Path, begun: bool = True) -> Iterator[None]:
    """Turn the errors of a disk into one message: full, read-only, taken away, or the folder moved.

    Args:
        begun: whether the folder holds a run that can be gone on with.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
        if not begun:
            raise ConfigError(f"{folder}: cannot be written ({reason}); choose another --output") from None
        if not folder.exists():
            reason = f"it is not there any more, so it was moved or deleted: {reason}"
        raise RunError(
            f"{folder}: cannot be written ({reason}). The last checkpoint is good: make room or put the folder back, "
            "and go on with `fcil resume` and its place"
        ) from None


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
