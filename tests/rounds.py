"""Rounds without images: clients whose arrays move at random, each by its own amount."""

import numpy as np
from small import BACKBONE, phase

from fcil.method import ClientUpdate

COUNTS = (3, 10, 1)


def begun(method):
    """Make the state at the start of the first task."""
    return method.begin(method.init(BACKBONE, 4, 0), phase(1), BACKBONE)


def updates_of(method, at, broadcast, counts=COUNTS):
    """Make an update of every client, from what that client begins with."""
    local = method.acting(at).local(at)
    names = local.trained(list(broadcast.arrays))
    for client, count in enumerate(counts):
        rng = np.random.default_rng([at.index, client])
        start = local.receives(broadcast.arrays, client)
        arrays = {n: (start[n] + rng.normal(size=start[n].shape)).astype("f4") for n in names}
        yield ClientUpdate(client, at.index, count, arrays)


def steps(method, rounds=4, state=None, task=None, counts=COUNTS):
    """Go through a task's rounds: yields (phase, broadcast arrays, updates, state after)."""
    state = begun(method) if state is None else state
    for number in range(1, rounds + 1):
        at = phase(number, task=task)
        broadcast = method.acting(at).broadcast(state, at)
        updates = list(updates_of(method, at, broadcast, counts))
        state = method.acting(at).merge(state, at, updates)
        yield at, broadcast.arrays, updates, state
