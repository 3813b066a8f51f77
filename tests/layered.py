"""Drive closed forms on made-up tokens of several layers, through all reports of every task."""

from types import SimpleNamespace

import numpy as np
import torch
from features import tasks_of
from reference_features import features_of_tokens

from fcil.arrays import total
from fcil.method import TOKENS, Backbone, ClientUpdate, Phase, Tokens
from fcil.seeding import generator

DEPTH, GRID, WIDTH = 5, (4, 4), 5
VIT = Backbone(WIDTH, {}, blocks=DEPTH, grid=GRID)
CPU = torch.device("cpu")


class Images:
    """Made-up images: every layer's tokens, of which some layers tell more about the class than others."""

    def __init__(self, seed, count, classes=5, strengths=(0.2, 0.4, 1.0, 0.3, 0.2), shares=None):
        rng = np.random.default_rng(seed)
        self.labels = rng.choice(classes, count, p=shares)
        shape = (1 + GRID[0] * GRID[1], WIDTH)
        self.layers = []
        for strength in strengths:
            centres = strength * rng.standard_normal((classes, *shape))
            self.layers.append((centres[self.labels] + rng.standard_normal((count, *shape))).astype(np.float32))
        self._seen = {}

    def features(self, blocks):
        """Features of all images, (n, width) float32; the class token of the last layer where no blocks are named."""
        blocks = tuple(blocks or ((DEPTH, 0),))
        if blocks not in self._seen:
            self._seen[blocks] = features_of_tokens(self.layers, blocks, GRID, 1).astype(np.float32)
        return self._seen[blocks]


def reported(method, phase, sent, images, indices, client, batch=7, passed=None):
    """A client's update; `passed` is filled with the samples of every pass."""
    statistics = {}
    blocks = Tokens.of(sent.arrays[TOKENS]).blocks if TOKENS in sent.arrays else ()
    for each in method.local(phase).passes:
        kept = indices if each.samples is None else indices[each.samples(indices)]
        x, y = images.features(blocks)[kept], images.labels[kept]
        if passed is not None:
            passed.append((phase, kept))
        for statistic in each.statistics:
            collector = statistic.start(
                sent.arrays, SimpleNamespace(device=CPU), lambda purpose: generator(phase.seed, purpose, client)
            )
            for begin in range(0, len(x), batch):
                part = slice(begin, begin + batch)
                collector.batch(torch.from_numpy(x[part]), torch.from_numpy(y[part]), kept[part])
            got = collector.finish()
            declared = statistic.shapes({name: a.shape for name, a in sent.arrays.items()})
            assert {name: a.shape for name, a in got.items()} == dict(declared)
            statistics |= got
    return ClientUpdate(client, phase.index, len(indices), {}, statistics)


def phases_of(method, tasks, seed=0):
    """All phases of a run."""
    phases = []
    for task in tasks:
        kinds = method.phases(task, 3)
        for number, kind in enumerate(kinds, 1):
            phases.append(Phase(len(phases), kind, task, number, seed, len(kinds) - number))
    return phases


def run(method, images, parts, batch=7, groups=0, seed=0, backbone=VIT, passed=None):
    """[(phase, state after it)] of a whole run; with `groups` clients are summed in so many groups."""
    state, steps = method.init(backbone, int(images.labels.max()) + 1, seed), []
    for phase in phases_of(method, parts, seed):
        state = method.begin(state, phase, backbone) if phase.round == 1 else state
        sent = method.broadcast(state, phase)
        updates = [
            reported(method, phase, sent, images, indices, client, batch, passed)
            for client, indices in enumerate(parts[phase.task])
            if len(indices)
        ]
        if groups:
            apart = [method.sums(phase, sent, updates[g::groups]) for g in range(groups) if updates[g::groups]]
            state = method.merge_sums(state, phase, total(apart))
        elif updates:
            state = method.merge(state, phase, updates)
        steps.append((phase, state))
    return steps


def head_of(method, steps):
    """Rows, (C, M), and biases, (C,), in float64, at the end of a run."""
    phase, state = steps[-1]
    return method.solved_in(state, range(phase.task.index + 1))


def answers(method, deployed, images, scores=None):
    """Class scores of all images by deployed arrays, as a model with them would give."""
    blocks = Tokens.of(deployed[TOKENS]).blocks if TOKENS in deployed else ()
    arrays = {name: torch.tensor(np.asarray(a)) for name, a in deployed.items()}

    def logits(features):
        tasks = sorted(int(name.split(".")[1]) for name in arrays if name.startswith("head.") and "weight" in name)
        rows = torch.cat([arrays[f"head.{t}.weight"] for t in tasks])
        return features @ rows.T + torch.cat([arrays[f"head.{t}.bias"] for t in tasks])

    model = SimpleNamespace(arrays=arrays, features=lambda given: torch.from_numpy(given), logits=logits, device=CPU)
    return method.scores(model, images.features(blocks)).numpy()


def dealt(seed, images, sizes, clients):
    """Deal samples to clients: {task: [indices of each client]}."""
    owner = np.random.default_rng(seed).integers(0, clients, len(images.labels))
    return {
        task: [np.flatnonzero(np.isin(images.labels, task.positions) & (owner == c)) for c in range(clients)]
        for task in tasks_of(*sizes)
    }
