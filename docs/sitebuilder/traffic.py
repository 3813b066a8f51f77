"""Writes what a method sends and keeps, as a rehearsal of it has told."""

from collections.abc import Mapping
from dataclasses import dataclass

from .tables import table

__all__ = ["Rehearsed", "traffic_section"]


@dataclass(frozen=True)
class Rehearsed:
    """What a method sent and kept, in bytes."""

    phases: tuple[tuple[str, float, float], ...]
    """Each phase in words, with what one client sends and is sent."""
    server: Mapping[str, int]
    """Group of the state at the end -> its size."""
    client: Mapping[str, int]
    """Array that a client keeps at the end -> its size."""


def _kilo(size: float) -> str:
    return f"{size / 1000:,.1f}"


def _sizes(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"`{name}` {_kilo(size)}" for name, size in sizes.items() if size) or "nothing"


def _by_group(sizes: Mapping[str, int]) -> dict[str, int]:
    """Add up arrays by the first part of their names."""
    out: dict[str, int] = {}
    for name, size in sizes.items():
        group = name.partition("/")[0].partition(".")[0]
        out[group] = out.get(group, 0) + size
    return out


def traffic_section(rehearsed: Rehearsed) -> str:
    """Write what was sent and kept, in kB."""
    rows = [(what, _kilo(up), _kilo(down)) for what, up, down in rehearsed.phases]
    parts = [
        "## What is sent and kept\n",
        "From a rehearsal as `fcil plan` does it, at the defaults: the embedded ViT (four blocks of width 128), two "
        "tasks of five classes,\ntwo rounds a task. kB of payload, of one client.\n",
        table(("phase", "a client sends", "a client is sent"), rows, 2),
        f"The server keeps at the end, in kB: {_sizes(rehearsed.server)}.\n",
        f"A client keeps between phases, in kB: {_sizes(_by_group(rehearsed.client))}.\n",
    ]
    return "\n".join(parts)
