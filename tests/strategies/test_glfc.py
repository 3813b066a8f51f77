"""GLFC: both terms of its objective, when a client notices a task, what it keeps, and which model is the old one."""

from dataclasses import replace

import numpy as np
import pytest
import reference_baselines3 as literal
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference_baselines import herding
from rounds import steps
from sessions import batch, logits, session
from small import BACKBONE, phase
from trials import same_bits, trial, weights

from fcil.battery.trial import DATA, PARTS
from fcil.data.transforms import View
from fcil.errors import ConfigError
from fcil.method import Task
from strategies._compensation import compensation
from strategies._exemplars import EXEMPLARS, exemplars
from strategies._old_model import BEST, RIGHT
from strategies._teacher import TEACHER
from strategies.glfc import ENTROPY, GLFC, NOTICED

SIZE = 6
METHOD = GLFC(rank=2, size=SIZE, relation=0.3)
CHOOSING = GLFC(rank=2, size=SIZE, old_model="best")


@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 3))
def test_weights_are_the_papers_and_have_mean_one_in_either_group(seed, samples, first):
    rng = np.random.default_rng(seed)
    z, y = rng.normal(size=(samples, 5)) * 3, rng.integers(0, 5, samples)
    ours = compensation(torch.tensor(z, requires_grad=True), torch.tensor(y), first)
    np.testing.assert_allclose(ours.numpy(), literal.glfc_weights(z, y, first), rtol=1e-9)
    for group in (y < first, y >= first):
        assert not group.any() or ours.numpy()[group].mean() == pytest.approx(1)


def test_samples_that_are_right_beyond_doubt_have_no_weight():
    z = torch.tensor([[1e4, 0.0], [0.0, 1e4], [0.0, 0.0]], dtype=torch.float64)
    assert compensation(z, torch.tensor([0, 1, 1]), 1).tolist() == [0, 0, 2]


# ---- the objective ---------------------------------------------------------------------------------------------------


def begun(method, record, **kept):
    """Client 1 at the start of a phase, without augmentation, and a batch of its samples."""
    client = session(trial(METHOD), record, store={n: a.copy() for n, a in record.stores[1][0].items()} | kept)
    client.data = replace(client.data, dataset=replace(client.data.dataset, train_view=View()))
    method.client_begin(client)
    return client, batch(client)


def literal_loss(client, step, record, joined, is_old):
    """The loss on a batch with some exemplars; weighted where there are any, with the old model where `is_old`."""
    both = np.concatenate([step.samples, joined])
    images, labels = client.images(both), client.labels(both).tolist()
    teacher = {n.removeprefix("teacher/"): a for n, a in record.broadcast.references.items()}
    tasks = tuple(range(record.phase.task.index + 1))
    z, first = logits(trial(METHOD), record.broadcast.arrays, images, tasks), record.phase.task.first
    w = literal.glfc_weights(z, labels, first) if len(exemplars(client.store)) else [1.0] * len(labels)
    old = logits(trial(METHOD), teacher, images, (0,)) if is_old else None
    return literal.glfc_loss(z, labels, first, w, old, METHOD.relation)


def test_the_objective_on_the_batch_and_the_exemplars_that_join_it():
    record = trial(METHOD).records[2]
    client, step = begun(METHOD, record)
    kept = client.store[EXEMPLARS]
    joined = kept[record.phase.generator("exemplars", 1).random(len(kept)) < len(step.samples) / len(client.samples)]
    assert 0 < len(joined) < len(kept)
    wanted = literal_loss(client, step, record, joined, is_old=True)
    np.testing.assert_allclose(METHOD.loss(step).item(), wanted, rtol=1e-5)


def test_in_the_first_task_it_is_the_plain_one_whatever_is_kept():
    record = trial(METHOD).records[0]
    client, step = begun(METHOD, record)
    wanted = literal_loss(client, step, record, np.zeros(0, np.int64), is_old=False)
    np.testing.assert_allclose(METHOD.loss(step).item(), wanted, rtol=1e-5)
    alone = GLFC(rank=2, size=0, relation=0.0)
    assert same_bits(weights(METHOD)[:2], weights(alone)[:2])
    assert not same_bits(weights(METHOD), weights(alone))
    assert not any(name.startswith("teacher/") for name in trial(alone).records[2].broadcast.references)


# ---- transitions and exemplars ---------------------------------------------------------------------------------------


def test_exemplars_of_the_last_task_are_chosen_once_when_the_next_begins():
    before, first, second = trial(METHOD).records[1:4]
    for number in range(3):
        assert EXEMPLARS not in before.stores[number][1]
        samples, kept = PARTS[0][number], first.stores[number][1][EXEMPLARS]
        client = session(trial(METHOD), first, number)
        features = client.model.features(client.images(samples)).detach().double().numpy()
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        for label in (0, 1):
            places = np.flatnonzero(DATA.train.labels[samples] == label)
            wanted = samples[places[herding(features[places], SIZE // 2)]]
            np.testing.assert_array_equal(kept[DATA.train.labels[kept] == label], wanted)
        np.testing.assert_array_equal(second.stores[number][1][EXEMPLARS], kept)


@pytest.mark.parametrize(("rise", "noticed"), [(-1e-4, False), (1e-4, True)])
def test_a_client_notices_a_task_when_entropy_has_risen_enough(rise, noticed):
    record = trial(METHOD).records[2]
    client = session(trial(METHOD), record)
    z = logits(trial(METHOD), record.broadcast.arrays, client.images(client.samples), (0, 1))
    method = replace(METHOD, transition="entropy", threshold=literal.entropy(z) - 0.5 - rise)
    client, step = begun(method, record, **{ENTROPY: np.array(0.5)})
    assert client.store[ENTROPY] == pytest.approx(literal.entropy(z), rel=1e-5)
    assert (client.store.get(NOTICED, -1) == 1) == noticed
    if not noticed:  # it goes on as if nothing had happened
        assert not len(exemplars(client.store))
        wanted = literal_loss(client, step, record, np.zeros(0, np.int64), is_old=False)
        np.testing.assert_allclose(method.loss(step).item(), wanted, rtol=1e-5)
        method.client_begin(client)  # the next round: entropy is the same, and nothing has risen
        assert client.store.get(NOTICED, -1) != 1
    assert len(client.store["glfc.waiting"]) == (0 if noticed else len(PARTS[0][1]))


def test_a_threshold_that_entropy_cannot_reach_is_refused():
    method = GLFC(rank=2, transition="entropy")
    method.check_phases([phase(task=Task(0, 0, 2)), phase(task=Task(1, 2, 2))])  # log 4 > 1.2
    with pytest.raises(ConfigError, match=r"method.threshold = 1.2: in task 2 there are 3 classes"):
        method.check_phases([phase(task=Task(0, 0, 2)), phase(task=Task(1, 2, 1))])


# ---- the server ------------------------------------------------------------------------------------------------------


def test_clients_count_alike_or_by_their_examples():
    for method, counts in ((METHOD, [1, 1, 1]), (replace(METHOD, weights="examples"), [3, 10, 1])):
        _, _, updates, state = next(steps(method))
        for name, a in {**state["module"], **state["head"]}.items():
            wanted = np.average([u.arrays[name] for u in updates], axis=0, weights=counts)
            np.testing.assert_allclose(a, wanted, rtol=1e-5, atol=1e-6)


def test_clients_count_what_the_model_they_receive_gets_right():
    for record in trial(CHOOSING).records[1:3]:  # the second round, and the report
        for number, update in enumerate(record.updates):
            client = session(trial(CHOOSING), record, number)
            z = logits(trial(CHOOSING), record.broadcast.arrays, client.images(client.samples), (0,))
            right = (z.argmax(1) == client.labels(client.samples).numpy()).sum()
            assert update.statistics[RIGHT].tolist() == [right, len(client.samples)]


@pytest.mark.parametrize(("second", "last", "best"), [(3, 2, "first"), (2, 3, "last"), (2, 2, "last"), (0, 0, "last")])
def test_the_old_model_is_the_round_that_was_right_most_often(second, last, best):
    first, second_round, report, following = trial(CHOOSING).records[:4]

    def merged(record, state, right):
        counted = np.array([right, len(PARTS[0][0])], np.float32)
        updates = [replace(u, statistics={**u.statistics, RIGHT: counted}) for u in record.updates]
        assert CHOOSING.objection(record.phase, record.broadcast, updates[0]) is None
        return CHOOSING.merge(state, record.phase, updates)

    assert BEST not in first.after  # what the first round starts from has rows that never trained
    state = merged(report, merged(second_round, first.after, second), last)
    wanted = {"first": first.after, "last": second_round.after}[best]
    old = CHOOSING.begin(state, following.phase, BACKBONE)[TEACHER]
    assert old.keys() == {**wanted["module"], **wanted["head"]}.keys()
    for name, a in {**wanted["module"], **wanted["head"]}.items():
        np.testing.assert_array_equal(old[name], a)
    assert BEST not in following.before


def test_counts_that_nobody_can_have_are_refused():
    record = trial(CHOOSING).records[1]
    for counted in ([9, 8], [-1, 8], [2, 7]):
        odd = replace(record.updates[0], statistics={RIGHT: np.array(counted, np.float32)})
        assert "right answers" in CHOOSING.objection(record.phase, record.broadcast, odd)
