"""Hands a message to the node's resident process, starting or replacing it where needed. Imports nothing heavy."""

import json
import logging
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict

from fcil.errors import ConfigError
from fcil.exchange.flower.internals import CRASHED, LATE, RAISED, content_of, error_reply, request_bytes
from fcil.exchange.flower.resident_place import (
    ALIVE,
    BEGUN,
    FAILED,
    REPLY,
    REQUEST,
    Place,
    receive,
    send,
)  # fmt: skip
from fcil.exchange.flower.resident_start import Ended, connected, kill, start

__all__ = ["answer", "wanted"]

IDLE_SECONDS = 600.0
"""Default of the node key resident-seconds."""
LONGEST_SECONDS = 3600.0
"""Seconds for a message that names no run.client_timeout."""
_ATTEMPTS = 3

_log = logging.getLogger("flwr")


def wanted(node_config: Mapping[str, Any]) -> bool:
    """Tell whether this node keeps a resident process: unless its key `resident` is false or it has no Unix sockets.

    Raises:
        ConfigError: `resident` is neither true nor false.
    """
    value = node_config.get("resident", True)
    if not isinstance(value, bool):
        raise ConfigError(f"node key resident = {value!r}: write true or false")
    return value and hasattr(socket, "AF_UNIX")


def _idle_seconds(node_config: Mapping[str, Any]) -> float:
    value = node_config.get("resident-seconds", IDLE_SECONDS)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ConfigError(f"node key resident-seconds = {value!r}: a number of seconds above 0")
    return float(value)


def _seconds(content: RecordDict) -> float:
    """The seconds that the server waits for the answer: run.client_timeout of the settings in the message."""
    request = content.get("request")
    try:
        assert isinstance(request, ConfigRecord)
        return float(json.loads(str(request["config"]))["run"]["client_timeout"])
    except (AssertionError, KeyError, TypeError, ValueError):
        return LONGEST_SECONDS


def _ask(connection: socket.socket, request: tuple[bytes, bytes], message: Message, until: float) -> Message:
    """Send the message to the resident process and return its answer.

    Raises:
        Ended: it ended before it began; another may be asked.
        ConnectionError: it ended while it worked.
    """
    begun = False
    try:
        send(connection, REQUEST, *request)
        while True:
            kind, parts = receive(connection)
            begun = begun or kind == BEGUN
            if kind == REPLY:
                return Message(content_of(parts[0]), reply_to=message)
            if kind == FAILED:
                return error_reply(message, RAISED, parts[0].decode(errors="replace"))
            if kind in (ALIVE, BEGUN) and time.monotonic() > until:
                return _late(connection, message, begun)
    except TimeoutError:
        kill(connection)
        if begun:
            raise ConnectionError("gave no sign of life while it worked, and was ended") from None
        raise Ended("gave no sign of life") from None
    except OSError as error:
        if begun:
            raise ConnectionError("ended while it worked on this message (killed, or out of memory?)") from error
        raise Ended("ended before it began to work") from error


def _late(connection: socket.socket, message: Message, begun: bool) -> Message:
    """The answer where the server waits no longer; work that has begun is ended, so that the node is free again."""
    if begun:
        kill(connection)
        return error_reply(message, LATE, "no answer within run.client_timeout; the node's process was ended")
    return error_reply(message, LATE, "the node was busy with another message for all of run.client_timeout")


def _refused(message: Message, context: Context, error: ConfigError) -> Message:
    """The answer of a node whose settings are wrong: said at once where it should introduce itself."""
    if message.metadata.message_type != "query.hello":
        return error_reply(message, RAISED, f"{type(error).__name__}: {error}")
    from fcil.exchange.flower.reply_messages import write_problem  # takes a second to import

    client = context.node_config.get("partition-id")
    return Message(write_problem(client if type(client) is int else -1, str(error)), reply_to=message)


def answer(message: Message, context: Context) -> Message:
    """The reply to a message by the node's resident process; an error reply with the reason where there is none."""
    begin, reason = time.monotonic(), ""
    try:
        idle, parent = _idle_seconds(context.node_config), os.getppid()
        place = Place.of(context.node_config, parent)
    except ConfigError as error:
        return _refused(message, context, error)
    request = request_bytes(message, context)
    until = begin + _seconds(message.content)
    for _ in range(_ATTEMPTS):
        try:
            with connected(place) or start(place, idle, parent if parent > 1 else 0) as connection:
                return _ask(connection, request, message, until)
        except Ended as ended:
            reason = str(ended)
        except ConnectionError as ended:
            reason = str(ended)
            break
    reason = f"the node's resident process {reason}; its log, {place.log}, ends: {place.last_line() or '(empty)'}"
    _log.error(reason)
    return error_reply(message, CRASHED, reason)
