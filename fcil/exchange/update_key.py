"""Hashes all that a client's update depends on, and all that features of an image depend on.

Two equal keys stand for the same bits: what is not in a key must not change a result. tests/exchange/test_memo.py
changes every part in turn.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fcil.arrays import Arrays, digest
from fcil.config import Config, to_table
from fcil.exchange.described import Undescribed, sha256_of
from fcil.exchange.device import resolved
from fcil.exchange.processor import processor_kind
from fcil.exchange.versions import code_sha256, versions
from fcil.method import Broadcast, Method, Phase
from fcil.model.backbone import weights_sha256

__all__ = ["CLIENT_HOOKS", "features_part", "kin", "phase_part", "run_part", "update_key"]

CLIENT_HOOKS = ("loss", "client_begin", "client_end")
"""The functions of a method that a client's work calls. One that does not override them depends on no setting but by
what it declares in `local`."""


def run_part(config: Config, method: Method, data: str) -> str:
    """The part of the key that is one for a whole run: code, weights, data, model and training settings, processor.

    Args:
        data: SHA-256 of the images and labels.

    Raises:
        Undescribed: the method's adapter cannot be described.
    """
    train = to_table(config)["train"]
    return sha256_of({
        "features": features_part(config, method, data), "tasks": to_table(config)["tasks"],
        "train": {key: value for key, value in train.items() if key not in SERVERS},
    })  # fmt: skip


def features_part(config: Config, method: Method, data: str) -> str:
    """A hash of all that features of an image depend on beside loaded arrays: of `run_part` what is not of training.

    Raises:
        Undescribed: the method's adapter cannot be described.
    """
    table = to_table(resolved(config))
    return sha256_of({
        "code": code_sha256(), "versions": versions(), "processor": processor_kind(), "device": config.run.device,
        "weights": weights_sha256(config.model), "data": data, "adapter": method.adapter, "threads": config.run.threads,
        "views": {key: value for key, value in table["data"].items() if key not in ("root", "cache")},
        "model": {key: value for key, value in table["model"].items() if key != "weights"},
    })  # fmt: skip


SERVERS = ("rounds", "participation", "participants")
"""Settings of [train] by which the server decides whom it asks and how often; no client's work depends on them."""


def phase_part(method: Method, phase: Phase) -> str:
    """The part of the key that is one for a phase: what the method declares, and its settings where its hooks use them.

    Raises:
        Undescribed: it declares a function that cannot be described, or has hooks in a file of its own.
    """
    acting = method.acting(phase)
    task = phase.task
    parts: dict[str, Any] = {
        "kind": phase.kind, "task": [task.index, task.first, task.size], "round": phase.round, "seed": phase.seed,
        "local": acting.local(phase),
    }  # fmt: skip
    if any(getattr(type(acting), hook) is not getattr(Method, hook) for hook in CLIENT_HOOKS):
        position = [phase.index, phase.phases_left, phase.tasks_left, phase.clients, phase.examples]
        parts |= {"method": acting, "position": position}
    return sha256_of(parts)


def kin(config: Config, method: Method, phases: Sequence[Phase]) -> tuple[str, ...]:
    """A hash for each phase, which two runs have in common whose clients are asked to do the same in it; or empty.

    Whether they are given the same arrays, too, is known when they run. Made from settings alone, not from data.
    """
    if config.run.on_client_error == "skip":  # an update that is computed again and differs must stop the run
        return ("",) * len(phases)
    table = {name: entries for name, entries in to_table(config).items() if name != "method"}
    table["run"] = {key: table["run"][key] for key in ("seed", "threads", "device")}
    if method.stream != "federated":  # no clients, so no split among them
        del table["partition"]
    return tuple(_kin({"settings": table, "stream": method.stream}, method, phase) for phase in phases)


def _kin(parts: Mapping[str, Any], method: Method, phase: Phase) -> str:
    try:
        return sha256_of({**parts, "adapter": method.adapter, "phase": phase_part(method, phase)})[:16]
    except Undescribed:
        return ""


def update_key(
    run: str, method: Method, phase: Phase, broadcast: Broadcast, client: int, samples: Mapping[str, Any], store: Arrays
) -> str | None:
    """Hash all that one client's update depends on; None where a part of it cannot be described.

    Args:
        run: `run_part`.
        samples: indices of the client's samples, those of earlier tasks, and the class position of every label.
        store: what the client has kept from earlier phases.
    """
    try:
        return sha256_of({
            "run": run, "phase": phase_part(method, phase), "client": client, "samples": dict(samples),
            "arrays": digest(broadcast.arrays), "order": list(broadcast.arrays),
            "references": digest(broadcast.references), "kept": digest(store),
        })  # fmt: skip
    except Undescribed:
        return None
