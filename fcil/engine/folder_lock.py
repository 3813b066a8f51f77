"""Locks a run folder by its event log, so that no two processes go on with the same run."""

import errno
import time
from pathlib import Path
from typing import BinaryIO

from fcil.errors import ConfigError, FolderInUse
from fcil.files import fcntl

__all__ = ["is_locked", "open_locked"]

ATTEMPTS, PAUSE = 5, 0.05
"""How often a lock is tried, and the seconds in between: who asks whether a folder is in use holds it for a moment."""
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
"""Errors of a file system without locks."""


def open_locked(path: Path) -> BinaryIO:
    """Open a file to append to, and lock it until it is closed or this process ends, however it ends.

    Raises:
        FolderInUse: another process holds the lock.
        ConfigError: the file system has no locks, so that two processes could go on with one run.
        OSError: the file cannot be written.
    """
    file = open(path, "ab")  # noqa: SIM115  (the caller closes it)
    for attempt in range(ATTEMPTS):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if attempt < ATTEMPTS - 1:
                time.sleep(PAUSE)
        except OSError as error:
            file.close()
            if error.errno in NO_LOCKS:
                raise ConfigError(f"{path.parent}: its file system has no locks; choose another --output") from None
            raise
    file.close()
    raise FolderInUse(f"{path.parent}: another process is working on this run")


def is_locked(path: Path) -> bool:
    """Tell whether another process holds a file's lock; False where there is no such file."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except BlockingIOError:
        return True
    return False
