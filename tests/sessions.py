"""One client of a trial run in one of its phases, with a batch: what `loss` is given, with the real model."""

import numpy as np

from fcil.battery.tiny import client_data
from fcil.battery.trial import DATA, PARTS
from fcil.client.session import Batch, ClientSession


def session(trial, record, client=1, store=None):
    """A client with the broadcast loaded, what is declared with gradients."""
    phase, sent = record.phase, record.broadcast
    *earlier, indices = (parts[client] for parts in PARTS[: phase.task.index + 1])
    model, local = trial.fresh_model(), trial.method.local(record.phase)
    model.load({**sent.arrays, **local.frozen(sent.references)}, local.trained(list(sent.arrays)))
    data = client_data(DATA, indices, earlier)
    return ClientSession(client, phase, model, sent, {} if store is None else store, data)


def batch(client, size=4):
    """The client's first samples of the task, as the test view shows them."""
    samples = client.samples[:size]
    return Batch(client, client.images(samples), client.labels(samples), samples)


def logits(trial, arrays, images, tasks):
    """Logits by a model of these arrays, float64."""
    model = trial.fresh_model()
    model.load(arrays)
    return np.asarray(model.logits(model.features(images), tasks).detach().numpy(), np.float64)
