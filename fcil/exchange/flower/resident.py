"""A node's resident process: it works through the messages of its SuperNode, with backbone and data loaded.

`python -m fcil.exchange.flower.resident` is started by `resident_call`, and by nobody else. It ends by itself when it
has had nothing to do for a while, when its SuperNode has gone, and when the process that waits for an answer has gone.
"""

import faulthandler
import json
import os
import queue
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from flwr.clientapp import ClientApp

from fcil.exchange.flower.internals import content_bytes, identify, request_of
from fcil.exchange.flower.resident_place import (
    ALIVE,
    BEGUN,
    FAILED,
    REPLY,
    REQUEST,
    Place,
    process_mark,
    receive,
    send,
)  # fmt: skip

__all__ = ["Resident", "main"]

_BEAT_SECONDS = 1.0
_REQUEST_SECONDS = 120.0
"""Seconds of silence after which a request that is not complete is given up."""


@dataclass
class _Job:
    """One message, from its arrival to its reply."""

    connection: socket.socket
    message: bytes
    context: bytes
    begun: bool = False
    abandoned: bool = False
    done: threading.Event = field(default_factory=threading.Event)
    answer: tuple[bytes, bytes] = (FAILED, b"")
    writing: threading.Lock = field(default_factory=threading.Lock)

    def tell(self, kind: bytes, *parts: bytes) -> None:
        """Send a frame; two threads may."""
        with self.writing:
            send(self.connection, kind, *parts)

    def work(self, app: ClientApp) -> None:
        """Answer the message; whatever the app raises is an answer too."""
        try:
            message, context = request_of(self.message, self.context)
            self.message = b""
            reply = app(message, context)
            self.answer = REPLY, content_bytes(reply.content)
        except Exception as error:  # outside a client's work, which the app tells by itself: one reply is lost
            traceback.print_exc()
            self.answer = FAILED, f"{type(error).__name__}: {error}".encode()


class Resident:
    """Listens for messages and works through them one at a time, in the process's main thread."""

    def __init__(self, place: Place, idle: float, parent: int, mark: str) -> None:
        """Begin to listen for messages at the place.

        Args:
            idle: seconds without a message after which the process ends.
            parent: the process with which this one ends; 0 for none.
            mark: what `process_mark` said of it.
        """
        self.place, self.idle, self.parent, self.mark = place, idle, parent, mark
        self.jobs: queue.Queue[_Job] = queue.Queue()
        self.open = 0
        self.counting = threading.Lock()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(place.socket))
        self.inode = place.socket.stat().st_ino
        self.listener.settimeout(_BEAT_SECONDS)
        self.listener.listen(16)
        threading.Thread(target=self._listen, daemon=True).start()

    def _count(self, change: int) -> None:
        with self.counting:
            self.open += change

    def _listen(self) -> None:
        """Accept connections, and watch the SuperNode."""
        while True:
            if self.parent and process_mark(self.parent) != self.mark:
                print("its SuperNode has gone", file=sys.stderr)
                self.leave()
                os._exit(0)
            try:
                connection, _ = self.listener.accept()
            except TimeoutError:
                continue
            except OSError:  # closed by `leave`
                return
            self._count(1)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        """Take one message and carry its reply back."""
        try:
            with connection:
                self._carry(connection)
        except (OSError, ValueError) as error:
            print(f"a request that did not arrive: {error}", file=sys.stderr)
        finally:
            self._count(-1)

    def _carry(self, connection: socket.socket) -> None:
        connection.settimeout(_REQUEST_SECONDS)
        kind, parts = receive(connection)
        if kind != REQUEST or len(parts) != 2:
            raise ValueError("not a request")
        job = _Job(connection, parts[0], parts[1])
        del parts  # they may be large, and the job lets go of them once they are read
        self.jobs.put(job)
        try:
            while not job.done.wait(_BEAT_SECONDS):
                job.tell(ALIVE)
            job.tell(*job.answer)
        except OSError:
            job.abandoned = True
            if job.begun and not job.done.is_set():  # it cannot be interrupted, and nobody waits for its end
                print("the process that waited for this answer has gone", file=sys.stderr)
                self.leave()
                os._exit(1)

    def leave(self) -> None:
        """Take the socket away, so that nobody finds it any more; that must not fail, as the process is to end."""
        try:
            with self.place.locked():
                if self.place.socket.stat().st_ino == self.inode:
                    self.place.socket.unlink()
        except OSError as error:  # somebody else took it away, or the whole folder
            print(f"{self.place.socket}: {error}", file=sys.stderr)
        self.listener.close()

    def work(self, app: ClientApp, holds: Callable[[], bool] = lambda: False) -> None:
        """Work through the messages until there has been none for `idle` seconds.

        Args:
            holds: tells whether a message to come needs what this process alone has.
        """
        last = time.monotonic()
        while self.open or holds() or time.monotonic() - last < self.idle:
            try:
                job = self.jobs.get(timeout=_BEAT_SECONDS)
            except queue.Empty:
                continue
            if not job.abandoned:
                self._one(job, app)
            last = time.monotonic()
        self.leave()

    def _one(self, job: _Job, app: ClientApp) -> None:
        job.begun = True
        try:
            job.tell(BEGUN)
        except OSError:  # `_carry` sees it too
            return
        job.work(app)
        job.done.set()


def main(arguments: str, module: str = "fcil.exchange.flower.handlers") -> None:
    """Serve messages until there has been none for a while.

    Args:
        arguments: JSON: folder, key, idle, parent, mark.
        module: the module whose `app` answers.
    """
    faulthandler.enable()
    settings = json.loads(arguments)
    place = Place(Path(settings["folder"]), settings["key"])
    resident = Resident(place, float(settings["idle"]), int(settings["parent"]), settings["mark"])
    identify()
    answering = import_module(module)  # seconds; the first message waits, and sees signs of life
    resident.work(answering.app, getattr(answering, "holds", lambda: False))


if __name__ == "__main__":
    main(sys.argv[1])
