"""Finds, starts, replaces and ends resident processes of nodes. Imports nothing heavy."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from fcil.exchange.flower.resident_place import Place, peer, process_mark

__all__ = ["SILENT_SECONDS", "Ended", "connected", "end_residents", "kill", "start"]

SILENT_SECONDS = 120.0
"""A resident that gives no sign of life for so long is replaced; it gives one every second."""
START_SECONDS = 60.0
"""Seconds within which a resident must listen; it does before it imports anything heavy."""
_PROGRAM = ("-m", "fcil.exchange.flower.resident")
_KEPT_LOGS_SECONDS = 7 * 86400.0

_started: list["subprocess.Popen[bytes]"] = []


class Ended(Exception):
    """The resident ended, or hangs, before it began to work on the message."""


def connected(place: Place) -> socket.socket | None:
    """A connection to the resident; None where there is none."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(SILENT_SECONDS)
    try:
        connection.connect(str(place.socket))
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    return connection


def _launch(place: Place, idle: float, parent: int) -> "subprocess.Popen[bytes]":
    """Start the resident in a session of its own, which neither a terminal's Ctrl-C nor its parent's end touches."""
    place.socket.unlink(missing_ok=True)
    for log in place.folder.glob("*.log"):
        if time.time() - log.stat().st_mtime > _KEPT_LOGS_SECONDS:
            log.unlink(missing_ok=True)
    settings = {
        "folder": str(place.folder),
        "key": place.key,
        "idle": idle,
        "parent": parent,
        "mark": process_mark(parent),
    }
    command = [sys.executable, "-P", *_PROGRAM, json.dumps(settings)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with open(place.log, "ab") as log_file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log_file, stderr=log_file, env=environment, start_new_session=True
        )
    _started.append(process)
    return process


def start(place: Place, idle: float, parent: int) -> socket.socket:
    """A connection to a resident that was started here, or by another message's process in the meantime.

    Raises:
        Ended: it did not come up.
    """
    with place.locked():
        if connection := connected(place):
            return connection
        process = _launch(place, idle, parent)
        end = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < end:
            if connection := connected(place):
                return connection
            time.sleep(0.02)
        process.kill()
        raise Ended("could not be started")


def kill(connection: socket.socket) -> None:
    """End a resident that hangs, and wait until it has gone."""
    if not (pid := peer(connection)):
        return
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    end = time.monotonic() + 10
    while process_mark(pid) and time.monotonic() < end:
        time.sleep(0.02)


def end_residents(folder: Path, seconds: float) -> None:
    """Wait until no resident process listens in a folder; after `seconds` end those that do."""
    end = time.monotonic() + seconds
    while sockets := list(folder.glob("*.sock")):
        for path in sockets:
            place = Place(folder, path.stem)
            if not (connection := connected(place)):
                path.unlink(missing_ok=True)  # of one that was killed
                continue
            with connection:
                if time.monotonic() > end:
                    kill(connection)
        time.sleep(0.1)
