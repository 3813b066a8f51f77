"""Drive methods that sum features, with made-up features instead of a network's."""

from types import SimpleNamespace

import numpy as np
import torch

from fcil.method import Backbone, ClientUpdate, Phase, Task
from fcil.seeding import generator

CPU = SimpleNamespace(device=torch.device("cpu"))


def samples(seed, count, width, classes, signal=1.0):
    """Draw features about one point per class, (count, width) float32, and labels, (count,)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    centres = signal * rng.standard_normal((classes, width))
    return (centres[labels] + rng.standard_normal((count, width))).astype(np.float32), labels


def dealt(seed, labels, tasks, clients):
    """Deal samples to clients, {task: [indices of each client]}: anybody may hold anything, or nothing."""
    owner = np.random.default_rng(seed).integers(0, clients, len(labels))
    return {
        task: [np.flatnonzero(np.isin(labels, task.positions) & (owner == client)) for client in range(clients)]
        for task in tasks
    }


def collected(method, phase, broadcast, x, y, client, batch=7, samples=None):
    """Collect what a client reports of these features, of the first samples unless `samples` names others."""
    samples = np.arange(len(x)) if samples is None else samples
    statistics, streams = {}, {}

    def stream(purpose):
        return streams.setdefault(purpose, generator(phase.seed, phase.task.index, phase.round, purpose, client))

    for each in method.local(phase).passes:
        for statistic in each.statistics:
            collector = statistic.start(broadcast.arrays, CPU, stream)
            for begin in range(0, len(x), batch):
                part = slice(begin, begin + batch)
                collector.batch(torch.from_numpy(x[part]), torch.from_numpy(y[part]), samples[part])
            statistics |= collector.finish()
    return ClientUpdate(client, phase.index, len(x), {}, statistics)


def learned(method, x, y, parts, width=None, batch=7, seed=0):
    """Run a method over all tasks: (state, last phase); clients without samples are not asked, as in a run."""
    backbone = Backbone(width or x.shape[1], {})
    state = method.init(backbone, int(y.max()) + 1, seed)
    for index, (task, clients) in enumerate(parts.items()):
        phase = Phase(index, "report", task, 1, seed)
        state = method.begin(state, phase, backbone)
        broadcast = method.broadcast(state, phase)
        updates = [
            collected(method, phase, broadcast, x[indices], y[indices], client, batch, indices)
            for client, indices in enumerate(clients)
            if len(indices)
        ]
        if updates:
            state = method.merge(state, phase, updates)
    return state, phase


def tasks_of(*sizes):
    """Make consecutive tasks of so many classes each."""
    firsts = np.cumsum([0, *sizes])
    return [Task(i, int(first), size) for i, (first, size) in enumerate(zip(firsts, sizes, strict=False))]
