"""Trains one client: (broadcast, the client's data, settings) -> ClientUpdate. Knows no transport."""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from fcil.arrays import names_matching, shapes
from fcil.client.data import ClientData
from fcil.client.own_memory import check_copied
from fcil.client.reporting import collect
from fcil.client.session import Batch, ClientSession
from fcil.client.settings import Train
from fcil.method import Broadcast, ClientUpdate, Collector, Local, Method, Phase, Store
from fcil.model.adapted import AdaptedModel
from fcil.model.precision import ScaledSteps

__all__ = ["run_client"]


def _optimizer(leaves: dict[str, Tensor], local: Local, train: Train) -> torch.optim.Optimizer:
    """An optimiser with a group per learning rate; built anew in each round, so it has no memory across rounds."""
    rates: dict[float, list[Tensor]] = {}
    for name, leaf in leaves.items():
        matching = [rate for pattern, rate in local.lr.items() if names_matching([name], (pattern,))]
        rates.setdefault(matching[0] if matching else train.lr, []).append(leaf)
    groups = [{"params": tensors, "lr": rate} for rate, tensors in rates.items()]
    if train.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=train.lr, weight_decay=train.weight_decay)
    return torch.optim.AdamW(groups, lr=train.lr, weight_decay=train.weight_decay, fused=True)


def _train(
    method: Method, leaves: dict[str, Tensor], client: ClientSession, train: Train, local: Local,
    collectors: Sequence[Collector],
) -> dict[str, float]:  # fmt: skip
    """Run the epochs; returns the mean loss of the last one and the number of steps that float16 made skip."""
    model, data = client.model, client.data
    steps = ScaledSteps(_optimizer(leaves, local, train), model.device, model.precision, bool(collectors))
    losses: list[tuple[Tensor, int]] = []
    for _ in range(train.epochs):
        losses.clear()
        order = client.stream("order").permutation(len(data))
        for images, labels, samples in data.batches(train.batch, order, client.stream("augmentation")):
            batch = Batch(client, images, labels, samples)
            loss = _loss(method, batch, leaves)
            taken = steps.step(loss)
            for collector in collectors if taken else ():
                collector.batch(batch.features.detach(), labels, samples)
            losses.append((loss.detach(), len(labels)))  # read at the end: a GPU need not be waited for at every step
    return {"loss": sum(loss.item() * n for loss, n in losses) / len(data), **steps.metrics}


def _checked(loss: object) -> Tensor:
    """The loss as it is, if a gradient can be taken of it.

    Raises:
        TypeError: it is no tensor.
        ValueError: it is not one number, or nothing that trains has part in it.
    """
    if not isinstance(loss, Tensor):
        forgotten = "; is a return missing?" if loss is None else ""
        raise TypeError(f"`loss` gave {type(loss).__name__}, and has to return a tensor of one number{forgotten}")
    if loss.numel() != 1:
        raise ValueError(
            f"`loss` gave a tensor of shape {tuple(loss.shape)}, and has to return one number: take its mean"
        )
    if not loss.requires_grad:
        raise ValueError("`loss` gave a number without a gradient: something detached it, or torch.no_grad() was on")
    return loss


def _loss(method: Method, batch: Batch, leaves: dict[str, Tensor]) -> Tensor:
    """A batch's loss.

    Raises:
        TypeError, ValueError: no gradient can be taken of it, or the method has written one itself, for nothing.
    """
    without = [name for name, leaf in leaves.items() if leaf.grad is None]
    loss = _checked(method.loss(batch))
    if written := [name for name in without if leaves[name].grad is not None]:
        raise ValueError(
            f"`loss` has written a gradient, of {written[0]}: it is thrown away before the step. Add the term to the "
            "loss; for a gradient to look at take torch.autograd.grad"
        )
    return loss


@contextmanager
def _labels_explained(phase: Phase) -> Iterator[None]:
    """Say what labels count from, where torch refuses one that a single task's columns do not have."""
    try:
        yield
    except IndexError as error:
        target, task = re.match(r"Target (\d+) is out of bounds", str(error)), phase.task
        if not target or int(target[1]) not in task.positions:
            raise
        raise IndexError(
            f"{error} Labels are class positions over all tasks, here {task.first} to {task.seen - 1}, and "
            f"logits(features, (task.index,)) has the {task.size} columns of this task alone: take labels - task.first"
        ).with_traceback(error.__traceback__) from None


def _check_computed(session: ClientSession, local: Local) -> None:
    """Compare what is to be sent after `client_end` with what is declared; shapes are checked by the server.

    Raises:
        ValueError: a hook has put in what is not declared, or left out what is.
    """
    if not (local.training or local.computed or session.statistics):
        return
    before_passes = Local(training=local.training, computed=local.computed)
    declared = before_passes.reported(shapes(session.broadcast.arrays)).keys()
    if odd := sorted(declared ^ session.statistics.keys()):
        put = "but no hook has put it there" if odd[0] in declared else "though a hook has put it there"
        status = "declared" if odd[0] in declared else "not declared"
        raise ValueError(f"Client.statistics: {odd[0]} is {status} in `Local.computed`, {put}")


def run_client(
    method: Method, model: AdaptedModel, data: ClientData, train: Train, phase: Phase, broadcast: Broadcast,
    client: int, store: Store,
) -> ClientUpdate:  # fmt: skip
    """Do one client's part of one phase: train what the method names, then sum the statistics that it asks for.

    The result depends on the arguments only, not on what this process did before.
    """
    start = time.perf_counter()
    method = method.acting(phase)
    local = method.local(phase)
    initial = {**local.receives(broadcast.arrays, client), **local.frozen(broadcast.references)}
    session = ClientSession(client, phase, model, replace(broadcast, arrays=initial), store, data)
    names = local.trained(list(initial))
    leaves = model.load(initial, names)
    metrics: dict[str, float] = {}
    with _labels_explained(phase):
        method.client_begin(session)
        collectors = [statistic.start(initial, model, session.generator) for statistic in local.training]
        if names:
            metrics |= _train(method, leaves, session, train, local, collectors)
            metrics["images"] = float(train.epochs * len(data))
            check_copied(session, leaves)
        trained = model.read(names)
        session.statistics |= {name: a for collector in collectors for name, a in collector.finish().items()}
        method.client_end(session)
    _check_computed(session, local)
    session.check_constants()
    metrics["train_seconds"] = time.perf_counter() - start
    arrays = {**initial, **trained}
    statistics = session.statistics
    for data_pass in local.passes:
        statistics |= collect(data_pass, session, arrays, 4 * train.batch)
    metrics["report_seconds"] = time.perf_counter() - start - metrics["train_seconds"]
    return ClientUpdate(client, phase.index, len(data), trained, statistics, metrics)
