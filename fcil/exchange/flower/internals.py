"""Wraps the private parts of Flower that a grid outside Flower needs, in one place. Checked with flwr 1.42.

Public are `Message`, `Error`, `Grid`; but a message takes its sender from `TaskIdentity`, its id from whoever carries
it, and error codes have no public home.
"""

import sys
from pathlib import Path

from flwr.app import Context, Error, Message, RecordDict
from flwr.app.message.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.constant import ErrorCode
from flwr.common.serde import (
    context_from_proto,
    context_to_proto,
    message_from_proto,
    message_to_proto,
    recorddict_from_proto,
    recorddict_to_proto,
)
from flwr.proto.message_pb2 import Context as ContextProto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = [
    "CRASHED", "LATE", "RAISED", "Metadata", "Run", "content_bytes", "content_of", "empty_run", "error_reply",
    "for_one_message", "identify", "number", "rebuild", "request_bytes", "request_of",
]  # fmt: skip

RAISED = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
CRASHED = ErrorCode.CLIENT_APP_CRASHED
LATE = ErrorCode.REPLY_MESSAGE_UNAVAILABLE

_COMMAND = "flwr-clientapp"
"""The command by which a SuperNode starts the process of one message."""


def for_one_message() -> bool:
    """Tell whether this process was started by a SuperNode for a single message."""
    return Path(sys.argv[0]).stem == _COMMAND


def identify() -> None:
    """Give this process an identity, without which no message can be made; keeps one that Flower gave it."""
    for name in ("task_id", "run_id", "node_id"):
        if getattr(TaskIdentity, f"_{name}") is None:
            setattr(TaskIdentity, name, 1)


def number(message: Message, message_id: str) -> None:
    """Give a message its id, as the grid that carries it must."""
    message.metadata.__dict__["_message_id"] = message_id


def rebuild(metadata: Metadata, content: RecordDict) -> Message:
    """Make a message from its parts, where it is received."""
    return make_message(metadata, content)


def error_reply(message: Message, code: int, reason: str) -> Message:
    """The error reply to a message, which says why it has no other."""
    return Message(Error(code, reason), reply_to=message)


def empty_run() -> Run:
    """The run of a grid that belongs to no SuperLink."""
    return Run.create_empty(1)


def request_bytes(message: Message, context: Context) -> tuple[bytes, bytes]:
    """A message and the context that it is answered in, as Flower's protobuf messages."""
    return message_to_proto(message).SerializeToString(), context_to_proto(context).SerializeToString()


def request_of(message: bytes, context: bytes) -> tuple[Message, Context]:
    """Read a message and its context from what `request_bytes` made of them."""
    return (
        message_from_proto(MessageProto.FromString(message)),
        context_from_proto(ContextProto.FromString(context)),
    )


def content_bytes(content: RecordDict) -> bytes:
    """The content of a reply as Flower's protobuf message."""
    written: bytes = recorddict_to_proto(content).SerializeToString()
    return written


def content_of(written: bytes) -> RecordDict:
    """Read a content from what `content_bytes` made of it."""
    return recorddict_from_proto(RecordDictProto.FromString(written))
