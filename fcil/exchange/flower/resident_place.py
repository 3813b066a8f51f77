"""Finds a node's resident process, and talks to it: over a Unix socket in a folder of the user's own."""

import hashlib
import json
import os
import socket
import struct
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fcil
from fcil.errors import ConfigError
from fcil.files import fcntl

__all__ = ["ALIVE", "BEGUN", "FAILED", "REPLY", "REQUEST", "Place", "peer", "process_mark", "receive", "send"]

REQUEST, ALIVE, BEGUN, REPLY, FAILED = b"M", b".", b"W", b"R", b"E"
"""Kinds of frames: the message with its context; a sign of life; the work has begun; the reply; why there is none."""

_HEAD = struct.Struct(">cQ")
_LONGEST_PATH = 100
"""Bytes of a Unix socket's path that every system takes; Linux has room for 107, macOS for 103."""


def send(connection: socket.socket, kind: bytes, *parts: bytes) -> None:
    """Send a frame: its kind, and then each part behind its length."""
    connection.sendall(_HEAD.pack(kind, len(parts)))
    for part in parts:
        connection.sendall(struct.pack(">Q", len(part)))
        connection.sendall(part)


def _exactly(connection: socket.socket, count: int) -> bytes:
    buffer = bytearray(count)
    view, filled = memoryview(buffer), 0
    while filled < count:
        if not (got := connection.recv_into(view[filled:], min(count - filled, 1 << 20))):
            raise ConnectionError("the other side closed the connection")
        filled += got
    return bytes(buffer)


def receive(connection: socket.socket) -> tuple[bytes, list[bytes]]:
    """Receive a frame: its kind and its parts.

    Raises:
        OSError: the other side has gone (ConnectionError), or is silent for the connection's timeout (TimeoutError).
    """
    kind, count = _HEAD.unpack(_exactly(connection, _HEAD.size))
    return kind, [_exactly(connection, struct.unpack(">Q", _exactly(connection, 8))[0]) for _ in range(count)]


def peer(connection: socket.socket) -> int | None:
    """The id of the process that listens at the other end, where the system tells it (Linux)."""
    if not sys.platform.startswith("linux"):
        return None
    pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(pid) or None


def process_mark(pid: int) -> str:
    """Tell a process from a later one of the same id by when it started, on Linux; empty where it has gone."""
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except ProcessLookupError:
        return ""
    except (FileNotFoundError, PermissionError):  # no /proc here, or a process of another user
        return "runs"
    return "" if stat[0] in "ZX" else stat[19]


def _own_folder(chosen: Any) -> Path:
    """The folder of the sockets, made if missing; nobody but its owner may enter it.

    Raises:
        ConfigError: it is another user's, others may enter it, or it cannot be made.
    """
    base = os.environ.get("XDG_RUNTIME_DIR")
    named = Path(base) / "fcil" if base and Path(base).is_dir() else Path(tempfile.gettempdir()) / f"fcil-{os.getuid()}"
    folder = Path(str(chosen)).expanduser().absolute() if chosen else named
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror}; choose another folder with the node key resident-dir") from None
    if status.st_uid != os.getuid() or status.st_mode & 0o170077 != 0o040000:
        raise ConfigError(
            f"{folder} must be a folder of this user that nobody else may enter (chmod 700), since whoever reaches the "
            "socket in it can send this node work; or choose another with the node key resident-dir"
        )
    return folder


@dataclass(frozen=True)
class Place:
    """The files of one resident process: `KEY.sock`, `KEY.log` and the folder's `lock`."""

    folder: Path
    key: str

    @classmethod
    def of(cls, node_config: Mapping[str, Any], parent: int) -> "Place":
        """The place of the resident of this code, this node's settings and this SuperNode.

        Args:
            parent: the process that starts the node's message processes; it ends with its SuperNode.

        Raises:
            ConfigError: there is no safe folder, or its path is too long for a socket.
        """
        code = str(Path(fcil.__file__).parent.resolve())  # the app's copy; its name has the hash of what it holds
        identity = [code, sys.executable, dict(node_config), os.getcwd(), parent, process_mark(parent)]
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20]
        place = cls(_own_folder(node_config.get("resident-dir")), key)
        if len(os.fsencode(place.socket)) > _LONGEST_PATH:
            raise ConfigError(f"resident-dir: {place.socket} is too long for a socket; choose a shorter folder")
        return place

    @property
    def socket(self) -> Path:
        """The path of the socket at which the resident process listens."""
        return self.folder / f"{self.key}.sock"

    @property
    def log(self) -> Path:
        """The path of the file to which its output goes."""
        return self.folder / f"{self.key}.log"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock, under which residents are started and leave; it ends with its process."""
        with open(self.folder / "lock", "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def last_line(self) -> str:
        """The last line of the log that is not empty."""
        try:
            lines = self.log.read_text(errors="replace")[-20000:].splitlines()
        except OSError:
            return ""
        return next((line.strip()[:500] for line in reversed(lines) if line.strip()), "")
