"""What must hold of what is stored and of what is deployed: states, clients' own arrays, scores."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load, save

from fcil.arrays import State, digest, grouped, ungrouped
from fcil.battery.outcome import Broken, NotAsked
from fcil.battery.trial import CLIENT, MERGE, Step, Trial, pictures
from fcil.client.store import ClientStore

__all__ = ["deployed_arrays_score_every_class", "states_survive_storage", "stores_survive_storage"]


def _stored(state: State) -> dict[str, dict[str, np.ndarray]]:
    """The state after a checkpoint was written and read."""
    return grouped(load(save({name: np.asarray(a, order="C") for name, a in ungrouped(state).items()})))


def _digests(state: State) -> dict[str, str]:
    return {group: digest(arrays) for group, arrays in state.items()}


def states_survive_storage(trial: Trial) -> None:
    """A state survives being written and read: the run goes on from it with the same bits."""
    for step in trial.steps:
        odd = [f"{group}: {name}" for group, arrays in step.before.items() for name in arrays if ":" in group + name]
        if odd:
            raise Broken(
                f"state: {', '.join(odd[:3])}: a colon in a group or a name", *MERGE, "begin", phase=step.phase
            )
        if _digests(trial.merge(step, _stored(step.before), step.updates)) != _digests(step.after):
            raise Broken(
                "merge gives something else from a state that was stored: it reads what is no array of the state",
                *MERGE, phase=step.phase,
            )  # fmt: skip
        after = _stored(step.after)
        if digest(trial.deploy(after, step.phase)) != digest(trial.deploy(step.after, step.phase)):
            raise Broken("deploy gives something else from a state that was stored", "deploy", phase=step.phase)


def stores_survive_storage(trial: Trial) -> None:
    """What clients keep for themselves survives being written and read: they work on with the same bits."""
    keepers = [(step, client) for step in trial.steps for client, (_, after) in enumerate(step.stores) if after]
    if not keepers:
        raise NotAsked("clients keep nothing")
    for step, client in keepers:
        _read_back(step, client, step.stores[client][1])
    for step in trial.steps:
        before = step.stores[1][0]
        if before:
            again = trial.work(step.phase, step.broadcast, 1, _read_back(step, 1, before), trial.fresh_model())
            if digest(again.arrays) != digest(step.updates[1].arrays):
                raise Broken("client 1 works otherwise from a store that was read back", *CLIENT, phase=step.phase)


def _read_back(step: Step, client: int, arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A client's own arrays after a trip through its file."""
    for name, a in arrays.items():
        if not isinstance(name, str) or not isinstance(a, np.ndarray):
            raise Broken(
                f"client {client} keeps {name!r}, a {type(a).__name__}: a store holds NumPy arrays under names",
                *CLIENT, phase=step.phase,
            )  # fmt: skip
    with TemporaryDirectory() as folder:
        store = ClientStore(Path(folder))
        try:
            store.write(client, 0, arrays)
            back = store.read(client, 1)
        except Exception as error:  # safetensors' own, KeyError for unknown types
            names = ", ".join(f"{name} ({a.dtype})" for name, a in arrays.items())
            raise Broken(f"client {client} keeps what cannot be written: {names}", *CLIENT, phase=step.phase) from error
    if digest(back) != digest(arrays):
        raise Broken(f"client {client}: its arrays come back otherwise than they were kept", *CLIENT, phase=step.phase)
    return back


def deployed_arrays_score_every_class(trial: Trial) -> None:
    """What is deployed fits the model and scores every class seen, each image by itself."""
    images, model = pictures(5), trial.model

    def evaluate(step: Step) -> tuple[torch.Tensor, torch.Tensor]:
        model.load(trial.deploy(step.after, step.phase))
        return trial.method.scores(model, images), trial.method.scores(model, images[2:3])

    for step in trial.steps:
        where = ("scores", "deploy")
        scores, alone = trial.watch.call("evaluating what is deployed", step.phase, where, evaluate, step)
        classes = step.phase.task.seen
        if tuple(scores.shape) != (5, classes):
            raise Broken(
                f"scores of 5 images are {tuple(scores.shape)}, not (5, {classes}): one for every class seen",
                *where, phase=step.phase,
            )  # fmt: skip
        if not scores.isfinite().all():
            raise Broken("scores that are NaN or infinite", *where, phase=step.phase)
        if not np.allclose(alone.detach().numpy(), scores[2:3].detach().numpy(), 1e-4, 1e-4):
            raise Broken("an image's scores depend on its neighbours in the batch", *where, phase=step.phase)
