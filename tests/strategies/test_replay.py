"""ER, DER++ and their buffer: objectives against the papers', which samples are kept, and where they stay."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import reference_baselines as literal
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from sessions import batch, logits, session
from small import phase
from trials import is_fedavg, trial

from fcil.battery.trial import PARTS
from fcil.data.transforms import View
from fcil.method import Task
from strategies._buffer import BUFFER, close, drawn, insert
from strategies.derpp import DERpp
from strategies.er import ER

ER_, DER = ER(rank=2, size=5), DERpp(rank=2, size=5)
RULES = {"reservoir": "reservoir", "balanced": "balance"}
"""Rule -> the purpose that it draws for."""


class Holder:
    """A client without images: samples in turn of a few labels, and a store."""

    def __init__(self, labels, task=0, store=None, seed=0):
        self.number, self.phase = 3, phase(task=Task(task, 2 * task, 2), index=task, seed=seed)
        self.samples = np.arange(len(labels)) + 1000 * task
        self.all_labels = dict(zip(self.samples.tolist(), labels, strict=True))
        self.store, self.scratch, self._streams = {} if store is None else store, {}, {}

    def generator(self, purpose):
        return self._streams.setdefault(purpose, self.phase.generator(purpose, self.number))

    def labels(self, samples):
        return np.array([self.all_labels[s] for s in samples.tolist()], np.int64)


def offer(holder, size, rule, batch=4):
    for begin in range(0, len(holder.samples), batch):
        insert(holder, holder.samples[begin : begin + batch], size, rule)
    return holder.store[BUFFER].tolist()


@given(st.integers(0, 2**16), st.integers(1, 40), st.integers(1, 12), st.integers(1, 7))
def test_the_reservoir_is_vitters(seed, samples, size, batch):
    holder = Holder([0] * samples, seed=seed)
    rng = holder.phase.generator("reservoir", holder.number)
    kept = offer(holder, size, "reservoir", batch)
    assert kept == literal.reservoir(range(samples), size, lambda n: int(rng.integers(n)))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(4, 12), st.integers(1, 7))
def test_the_balanced_buffer_is_that_of_gdumb(labels, size, batch):
    holder = Holder(labels)
    rng = holder.phase.generator("balance", holder.number)
    kept = offer(holder, size, "balanced", batch)
    stream = enumerate(labels)
    assert kept == [s for s, _ in literal.greedy_balance(stream, size, lambda places: int(rng.choice(places)))]
    counts = Counter(labels[s] for s in kept)
    assert all(counts[c] >= min(n, size // len(set(labels))) for c, n in Counter(labels).items())


def test_every_sample_has_the_same_chance_to_stay():
    counts = Counter(s for seed in range(1500) for s in offer(Holder([0] * 12, seed=seed), 4, "reservoir", 3))
    assert sum(counts.values()) == 6000
    assert chisquare([counts[s] for s in range(12)]).pvalue > 1e-3


@pytest.mark.parametrize("rule", RULES)
def test_a_sample_is_offered_once_however_many_epochs_and_rounds_there_are(rule):
    holder = Holder([0, 1] * 10)
    once = offer(holder, 6, rule)
    assert offer(holder, 6, rule) == once  # a second epoch
    close(holder)
    later = Holder([0, 1] * 10, store=holder.store)
    assert offer(later, 6, rule) == once  # another round
    following = Holder([2, 3] * 10, task=1, store=holder.store)
    following.all_labels |= holder.all_labels
    assert offer(following, 6, rule) != once
    assert holder.store["buffer.seen"] == 40


def test_draws_are_of_different_places_and_as_many_as_there_are():
    holder = Holder([0] * 5)
    assert not len(drawn(holder, 3, "replay"))
    offer(holder, 5, "reservoir")
    for count, there in ((3, 3), (9, 5)):
        places = drawn(holder, count, "replay")
        assert len(set(places.tolist())) == len(places) == there


# ---- objectives ------------------------------------------------------------------------------------------------------


def replayed(method, **changes):
    """A client in the second task, whose images are not augmented, with a batch; and the record of its phase."""
    record = trial(method).records[3]
    client = session(trial(method), record, store={n: a.copy() for n, a in record.stores[1][0].items()})
    client.data = replace(client.data, dataset=replace(client.data.dataset, train_view=View()))
    return client, batch(client), record


def test_er_adds_the_loss_over_all_classes_on_kept_samples():
    client, step, record = replayed(ER_)
    places = record.phase.generator("replay", 1).choice(5, 4, replace=False)
    samples = client.store[BUFFER][places]
    z = logits(trial(ER_), record.broadcast.arrays, client.images(samples), (0, 1))
    wanted = step.cross_entropy().item() + 2.5 * literal.cross_entropy(z, client.labels(samples).tolist())
    np.testing.assert_allclose(replace(ER_, weight=2.5).loss(step).item(), wanted, rtol=1e-5)


def test_er_over_all_classes_on_the_current_batch_too():
    _, step, record = replayed(ER_)
    z = logits(trial(ER_), record.broadcast.arrays, step.images, (0, 1))
    alone = replace(ER_, size=0, current="seen").loss(step).item()
    np.testing.assert_allclose(alone, literal.cross_entropy(z, step.labels.tolist()), rtol=1e-5)


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.7), (2.0, 0.0), (0.0, 1.5)])
def test_der_is_the_papers_with_logits_of_the_classes_known_when_a_sample_came(alpha, beta):
    client, step, record = replayed(DER)
    first, second = (record.phase.generator(purpose, 1).choice(5, 4, replace=False) for purpose in ("logits", "replay"))
    wanted, store = step.cross_entropy().item(), client.store

    def z(places):
        return logits(trial(DER), record.broadcast.arrays, client.images(store[BUFFER][places]), (0, 1))

    kept = [store["buffer.logits"][p][: store["buffer.columns"][p]] for p in first]
    assert {len(row) for row in kept} == {2, 4}
    wanted += alpha * literal.der_distance(z(first), kept) if alpha else 0.0
    wanted += beta * literal.cross_entropy(z(second), client.labels(store[BUFFER][second]).tolist()) if beta else 0.0
    np.testing.assert_allclose(replace(DER, alpha=alpha, beta=beta).loss(step).item(), wanted, rtol=1e-5)


def test_der_keeps_the_logits_that_the_model_gave_the_batch():
    record = trial(DER).records[0]
    client = session(trial(DER), record)
    step = batch(client)
    DER.loss(step)
    z = logits(trial(DER), record.broadcast.arrays, step.images, (0,))
    np.testing.assert_array_equal(client.store[BUFFER], step.samples)
    np.testing.assert_allclose(client.store["buffer.logits"], z, rtol=1e-5, atol=1e-6)
    assert client.store["buffer.columns"].tolist() == [2] * len(step.samples)
    assert client.store["buffer.logits"].dtype == np.float32


# ---- in a run --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [ER(rank=2, size=0), ER(rank=2, weight=0), DERpp(rank=2, size=0), DERpp(rank=2, alpha=0, beta=0)],
    ids=repr,
)
def test_without_replay_it_is_federated_averaging_bit_for_bit(method):
    assert is_fedavg(method)


@pytest.mark.parametrize("method", [ER(rank=2, size=5, buffer="balanced"), DER], ids=lambda m: type(m).__name__)
def test_buffers_are_of_the_clients_own_samples_and_follow_it_through_tasks(method):
    assert not is_fedavg(method)
    for record in trial(method).records:
        held = [np.concatenate([parts[c] for parts in PARTS[: record.phase.task.index + 1]]) for c in range(3)]
        for (_, after), own in zip(record.stores, held, strict=True):
            assert len(after[BUFFER]) == len(set(after[BUFFER].tolist())) == 5
            assert set(after[BUFFER].tolist()) <= set(own.tolist())
            assert after["buffer.seen"] == len(own)
    assert trial(method).records[2].broadcast.arrays.keys() >= {"head.0.weight", "head.1.weight"}
