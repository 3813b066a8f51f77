"""The Ray actor that works for clients: it holds a ClientApp, whose backbone and data stay resident."""

import os
import platform
from importlib import import_module
from typing import Any

import ray
from flwr.app import Context, Message, RecordDict

from fcil.exchange.flower.internals import RAISED, Metadata, error_reply, rebuild
from fcil.exchange.flower.ray_sites import site_settings

__all__ = ["ClientActor"]


class ClientActor:
    """Runs the ClientApp on messages, one at a time."""

    def __init__(self, app: str, site: int | None = None) -> None:
        """Load the app; for a site, with the settings that this machine has of it."""
        module, _, attribute = app.partition(":")
        self.app = getattr(import_module(module), attribute)
        self.node_config: dict[str, Any] = {} if site is None else site_settings(site)
        self.records: dict[str, Any] = {}
        """The common records of the last phase, by their id in Ray's store."""

    def about(self) -> tuple[int, str, str]:
        """The id of this process, its machine and the kind of its processors; an answer means that it is up."""
        from fcil.exchange.processor import processor_kind  # torch takes seconds to import

        return os.getpid(), platform.node(), processor_kind()

    def _common(self, refs: dict[str, Any]) -> dict[str, Any]:
        """Fetch the records that messages have in common, once."""
        ids = {name: ref.hex() for name, ref in refs.items()}
        self.records = {ids[name]: self.records.get(ids[name]) or ray.get(ref) for name, ref in refs.items()}
        return {name: self.records[ids[name]] for name in refs}

    def handle(self, letters: list[tuple[Metadata, dict[str, Any]]], common: dict[str, Any]) -> list[Message]:
        """The app's replies, in the order of the messages, each made of its metadata and own records."""
        shared = self._common(common)
        return [self._reply(rebuild(metadata, RecordDict({**shared, **records}))) for metadata, records in letters]

    def _reply(self, message: Message) -> Message:
        """The app's reply, or an error reply that names the exception."""
        context = Context(message.metadata.run_id, message.metadata.dst_node_id, self.node_config, RecordDict(), {})
        try:
            reply: Message = self.app(message, context)
        except Exception as error:  # outside a client's work, which the app tells by itself: one reply is lost
            return error_reply(message, RAISED, f"{type(error).__name__}: {error}")
        return reply
