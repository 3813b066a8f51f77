"""L2P, DualPrompt and CODA-Prompt as methods: losses, what trains and is sent, and what keeps its bits."""

from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
import reference_pools
import torch
from small import BACKBONE, client_data, dataset, model, phase

from fcil.client.session import Batch, ClientSession
from fcil.client.settings import Train
from fcil.client.training import run_client
from fcil.data.transforms import View
from fcil.method import Averaging, Task
from fcil.model.coda_prompts import KINDS
from strategies.codaprompt import CodaPrompt
from strategies.dualprompt import DualPrompt
from strategies.l2p import L2P

METHODS = [L2P(size=6, length=2, top=3), DualPrompt(length=3, general_length=2), CodaPrompt(size=6, length=2, mu=100.0)]
each = pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
DATA = replace(dataset(), train_view=View())
TASKS = (Task(0, 0, 2), Task(1, 2, 2))


def begun(method, state=None, task=0):
    at = replace(phase(task=TASKS[task], index=2 * task), tasks_left=1 - task)
    return method.begin(method.init(BACKBONE, 4, 0) if state is None else state, at, BACKBONE), at


def trained(method, state, at, train=None, part=None):
    """The update of a client that has all samples of the task."""
    part = np.flatnonzero(np.isin(DATA.train.labels, at.task.positions)) if part is None else part
    data = client_data(DATA, part)
    train = train or Train(epochs=1, batch=8, lr=1e-2)
    return run_client(method, model(method.adapter), data, train, at, method.broadcast(state, at), 0, {})


def step_of(method, state, at):
    """One batch of a client, as a loss sees it."""
    broadcast, adapted = method.broadcast(state, at), model(method.adapter)
    adapted.load(broadcast.arrays, method.local(at).trained(list(broadcast.arrays)))
    data = client_data(DATA, np.flatnonzero(np.isin(DATA.train.labels, at.task.positions))[:5])
    session = ClientSession(0, at, adapted, broadcast, {}, data)
    return Batch(session, data.images(data.indices), data.labels(data.indices), data.indices)


@each
def test_of_each_task_its_own_arrays_train_and_earlier_ones_keep_their_bits_under_weight_decay_too(method):
    state, at = begun(method)
    for task in range(2):
        sent = method.broadcast(state, at).arrays
        old = {n: a for n, a in sent.items() if n.rpartition(".")[2].isdigit() and not n.endswith(f".{task}")}
        old |= {n: a for n, a in state["head"].items() if not n.startswith(f"head.{task}.")}
        assert bool(old) == bool(task)
        update = trained(method, state, at, Train(epochs=1, batch=8, lr=1e-2, weight_decay=0.1))
        assert not update.arrays.keys() & old.keys()
        assert {n for n in sent if n not in old} == set(update.arrays)
        state = method.merge(state, at, [update])
        deployed = method.deploy(state, at)
        for name, a in old.items():
            np.testing.assert_array_equal(deployed[name], a)
        for name, a in update.arrays.items():
            assert not np.array_equal(a, sent[name]), name
        if task == 0:
            state, at = begun(method, state, 1)


def old_arrays(method):
    """A state in the second task, after a round in the first."""
    state, at = begun(method)
    return begun(method, method.merge(state, at, [trained(method, state, at)]), 1)


@each
def test_the_loss_is_the_literal_one(method):
    step = step_of(method, *old_arrays(method))
    entropy = step.cross_entropy().item()
    if isinstance(method, CodaPrompt):
        joined = [torch.cat([step.model.arrays[f"{kind}.{t}"] for t in range(2)], 1) for kind in KINDS]
        extra = method.mu * reference_pools.penalty([b.detach().double() for kind in joined for b in kind])
    else:
        step.model.network.eval()
        weights = {n: w.double() for n, w in step.model.network.state_dict().items()}
        queries = [reference_pools.query(x.double(), weights, 2, 2, 8) for x in step.images]
        if isinstance(method, L2P):
            keys = step.model.arrays["pool.keys"].detach().double()
            cosines = [sorted((reference_pools.cosine(q, k) for k in keys), reverse=True) for q in queries]
            extra = -method.pull * sum(sum(c[: method.top]) for c in cosines).item() / len(queries)
        else:
            key = step.model.arrays["dual.key.1"].detach().double()
            extra = -method.pull * sum(reference_pools.cosine(q, key) for q in queries).item() / len(queries)
    assert abs(extra) > 1e-3
    assert method.loss(step).item() == pytest.approx(entropy + extra, abs=1e-4)


@each
def test_a_term_of_weight_zero_is_no_term_and_one_moves_what_it_should(method):
    weight = "mu" if isinstance(method, CodaPrompt) else "pull"

    @dataclass(frozen=True, kw_only=True)
    class Plain(type(method)):
        loss = Averaging.loss

    state, at = old_arrays(method)
    settings = {field.name: getattr(method, field.name) for field in fields(method)}
    without, plain, with_it = (
        trained(m, state, at).arrays for m in (replace(method, **{weight: 0.0}), Plain(**settings), method)
    )
    changed = {n for n, a in with_it.items() if not np.array_equal(a, plain[n])}
    assert all(np.array_equal(a, without[n]) for n, a in plain.items())
    if isinstance(method, CodaPrompt):
        assert changed >= {f"{kind}.1" for kind in KINDS}
    else:  # keys have no gradient but the pull's
        (key,) = (name for name in changed if "key" in name)
        np.testing.assert_array_equal(plain[key], method.broadcast(state, at).arrays[key])
        assert changed == {key} or isinstance(method, L2P)  # whose choice of prompts changes with its keys


@pytest.mark.parametrize("method", METHODS[:2], ids=lambda m: type(m).__name__)
def test_keys_are_pulled_to_the_queries_of_the_tasks_images(method):
    method = replace(method, size=1, top=1) if isinstance(method, L2P) else method
    state, at = begun(method)
    name = "pool.keys" if isinstance(method, L2P) else "dual.key.0"
    before = method.broadcast(state, at).arrays[name]
    after = trained(method, state, at, Train(epochs=20, batch=8, lr=0.05)).arrays[name]
    adapted, data = model(method.adapter), client_data(DATA, np.flatnonzero(DATA.train.labels < 2))
    with torch.no_grad():
        queries = adapted.features(data.images(data.indices)).numpy()
    directions = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    near = [float((directions @ key.ravel() / np.linalg.norm(key)).mean()) for key in (before, after)]
    best = np.linalg.norm(directions.mean(0))  # the mean cosine with the direction's own mean
    assert near[0] < 0.5 * best < 0.9 * best < near[1]


@each
def test_what_a_client_sends_back_is_what_trains_in_its_task(method):
    """G and the current slot, the pool, this task's components; and the rows of the task's classes."""
    state, at = old_arrays(method)
    names = set(trained(method, state, at).arrays)
    own = {
        L2P: {"pool.keys", "pool.prompts"},
        DualPrompt: {"dual.general", "dual.key.1", "dual.expert.1"},
        CodaPrompt: {f"{kind}.1" for kind in KINDS},
    }
    assert names == own[type(method)] | {"head.1.weight", "head.1.bias"}
