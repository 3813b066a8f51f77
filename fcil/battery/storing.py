"""Checks of what is stored and of what is deployed: states, clients' own arrays, scores."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load, save

from fcil.arrays import State, digest, grouped, ungrouped
from fcil.battery.outcome import Broken, NotAsked
from fcil.battery.trial import CLIENT, MERGE, PhaseRecord, Trial, digests, pictures
from fcil.client.store import ClientStore

__all__ = ["deployed_arrays_score_every_class", "states_survive_storage", "stores_survive_storage"]


def _stored(state: State) -> dict[str, dict[str, np.ndarray]]:
    """Restore a state from what a checkpoint would hold of it."""
    return grouped(load(save({name: np.asarray(a, order="C") for name, a in ungrouped(state).items()})))


def states_survive_storage(trial: Trial) -> None:
    """A state survives being written and read: the run goes on from it with the same bits."""
    for record in trial.records:
        odd = [f"{group}: {name}" for group, arrays in record.before.items() for name in arrays if ":" in group + name]
        if odd:
            raise Broken(
                f"state: {', '.join(odd[:3])}: a colon in a group or a name", *MERGE, "begin", phase=record.phase
            )
        if digests(trial.merge(record, _stored(record.before), record.updates)) != digests(record.after):
            raise Broken(
                "merge gives something else from a state that was stored: it reads what is no array of the state",
                *MERGE, phase=record.phase,
            )  # fmt: skip
        after = _stored(record.after)
        if digest(trial.deploy(after, record.phase)) != digest(trial.deploy(record.after, record.phase)):
            raise Broken("deploy gives something else from a state that was stored", "deploy", phase=record.phase)


def stores_survive_storage(trial: Trial) -> None:
    """Clients work on with the same bits after what they keep was written and read."""
    keepers = [(record, client) for record in trial.records for client, (_, after) in enumerate(record.stores) if after]
    if not keepers:
        raise NotAsked("clients keep nothing")
    for record, client in keepers:
        _read_back(record, client, record.stores[client][1])
    for record in trial.records:
        before = record.stores[1][0]
        if before:
            with trial.memory.forgotten():
                back = _read_back(record, 1, before)
                again = trial.work(record.phase, record.broadcast, 1, back, trial.fresh_model())
            if digest(again.arrays) != digest(record.updates[1].arrays):
                raise Broken("client 1 works otherwise from a store that was read back", *CLIENT, phase=record.phase)


def _read_back(record: PhaseRecord, client: int, arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Write a client's own arrays to a file and read them back."""
    for name, a in arrays.items():
        if not isinstance(name, str) or not isinstance(a, np.ndarray):
            raise Broken(
                f"client {client} keeps {name!r}, a {type(a).__name__}: a store holds NumPy arrays under names",
                *CLIENT, phase=record.phase,
            )  # fmt: skip
    with TemporaryDirectory() as folder:
        store = ClientStore(Path(folder))
        try:
            store.write(client, 0, arrays)
            back = store.read(client, 1)
        except Exception as error:  # safetensors' own, KeyError for unknown types
            names = ", ".join(f"{name} ({a.dtype})" for name, a in arrays.items())
            raise Broken(
                f"client {client} keeps what cannot be written: {names}", *CLIENT, phase=record.phase
            ) from error
    if digest(back) != digest(arrays):
        raise Broken(
            f"client {client}: its arrays come back otherwise than they were kept", *CLIENT, phase=record.phase
        )
    return back


def deployed_arrays_score_every_class(trial: Trial) -> None:
    """The deployed arrays fit the model and score every class seen, each image by itself."""
    images, model = pictures(5), trial.model

    def evaluate(record: PhaseRecord) -> tuple[torch.Tensor, torch.Tensor]:
        model.load(trial.deploy(record.after, record.phase))
        return trial.method.scores(model, images), trial.method.scores(model, images[2:3])

    for record in trial.records:
        if not trial.evaluates(record.phase):
            continue
        where = ("scores", "deploy")
        scores, alone = trial.watch.call("evaluating what is deployed", record.phase, where, evaluate, record)
        classes = record.phase.task.seen
        if tuple(scores.shape) != (5, classes):
            raise Broken(
                f"scores of 5 images are {tuple(scores.shape)}, not (5, {classes}): one for every class seen",
                *where, phase=record.phase,
            )  # fmt: skip
        if not scores.isfinite().all():
            raise Broken("scores that are NaN or infinite", *where, phase=record.phase)
        if not np.allclose(alone.detach().numpy(), scores[2:3].detach().numpy(), 1e-4, 1e-4):
            raise Broken("an image's scores depend on its neighbours in the batch", *where, phase=record.phase)
