"""iCaRL: objective, exemplars and nearest means against the paper's, federated."""

from dataclasses import replace

import numpy as np
import pytest
import reference_baselines as literal
from hypothesis import given
from hypothesis import strategies as st
from rounds import steps
from sessions import batch, logits, session
from trials import is_fedavg, same_bits, trial, weights

from fcil.battery.trial import DATA, PARTS, pictures
from fcil.data.transforms import View
from fcil.method import ClientUpdate
from strategies._exemplars import EXEMPLARS, choose, herded, normalised_features
from strategies.fedavg import FedAvg
from strategies.icarl import COUNTS, MEANS, SUMS, ICaRL

SIZE = 6
METHOD = ICaRL(rank=2, size=SIZE)
LINEAR = ICaRL(rank=2, size=SIZE, objective="softmax", classifier="linear")


@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(0, 15), st.integers(2, 5))
def test_herding_is_the_papers(seed, samples, count, width):
    x = np.random.default_rng(seed).normal(size=(samples, width)) + 0.3
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    ours = herded(x, count)
    assert len(set(ours)) == len(ours) == min(count, samples)
    assert [ours[:k] for k in range(len(ours))] == [herded(x, k) for k in range(len(ours))]  # the best first
    for k, one in enumerate(ours):  # of two samples both are as near
        distances = literal.herding_distances(x, ours[:k])
        assert distances[one] <= min(distances.values()) + 1e-9


def test_features_of_nothing_are_chosen_too():
    assert herded(np.zeros((3, 2)), 2) == [0, 1]


def unaugmented(method, record):
    client = session(trial(method), record, store={n: a.copy() for n, a in record.stores[1][0].items()})
    client.data = replace(client.data, dataset=replace(client.data.dataset, train_view=View()))
    return client, batch(client)


@pytest.mark.parametrize("method", [METHOD, LINEAR], ids=["sigmoid", "softmax"])
def test_the_objective_on_the_batch_and_the_exemplars_that_join_it(method):
    record = trial(method).records[4]
    client, step = unaugmented(method, record)
    kept = client.store[EXEMPLARS]
    joined = kept[record.phase.generator("exemplars", 1).random(len(kept)) < len(step.samples) / len(client.samples)]
    assert 0 < len(joined) < len(kept)
    both = np.concatenate([step.samples, joined])
    images, labels = client.images(both), client.labels(both).tolist()
    teacher = {n.removeprefix("teacher/"): a for n, a in record.broadcast.references.items()}
    z, old = (
        logits(trial(method), arrays, images, tasks)
        for arrays, tasks in ((record.broadcast.arrays, (0, 1)), (teacher, (0,)))
    )
    wanted = (
        literal.icarl(z, labels, old, 2)
        if method is METHOD
        else literal.cross_entropy(z, labels) + literal.distillation(z[:, :2], old, 2.0)
    )
    np.testing.assert_allclose(method.loss(step).item(), wanted, rtol=1e-5)


def test_in_the_first_task_softmax_is_federated_averaging_bit_for_bit():
    assert same_bits(weights(LINEAR)[:2], weights(FedAvg(rank=2))[:2])
    assert not is_fedavg(LINEAR)


# ---- exemplars -------------------------------------------------------------------------------------------------------


def features_of(record, samples):
    """Normalised features of training samples by the model that a report is taken of."""
    client = session(trial(METHOD), record, client=0)
    client.data = replace(client.data, indices=np.asarray(samples))
    raw = client.model.features(client.images(np.asarray(samples))).detach().double().numpy()
    return raw / np.linalg.norm(raw, axis=1, keepdims=True)


def test_a_client_keeps_its_budget_of_the_best_of_each_class_it_has_seen():
    first, second = (record for record in trial(METHOD).records if record.phase.kind == "report")
    for number in range(3):
        before, after = first.stores[number][1][EXEMPLARS], second.stores[number][1][EXEMPLARS]
        share = {record: SIZE // classes for record, classes in ((0, 2), (1, 4))}
        for task, record in enumerate((first, second)):
            samples = PARTS[task][number]
            labels = DATA.train.labels[samples]
            for label in np.unique(labels):
                of_class = samples[labels == label]
                wanted = of_class[literal.herding(features_of(record, of_class), share[task])]
                kept = record.stores[number][1][EXEMPLARS]
                np.testing.assert_array_equal(kept[DATA.train.labels[kept] == label], wanted)
        for label in (0, 1):
            of_class = [kept[DATA.train.labels[kept] == label] for kept in (before, after)]
            np.testing.assert_array_equal(of_class[1], of_class[0][: share[1]])
        assert len(after) <= SIZE


def test_they_are_chosen_in_the_report_alone_and_a_budget_of_nothing_keeps_none():
    records = trial(METHOD).records
    assert not records[1].stores[0][1]
    client = session(trial(METHOD), records[2])
    choose(client, 0)
    assert client.store[EXEMPLARS].tolist() == []


@pytest.mark.parametrize("size", [2, 9])
def test_the_share_of_a_class_is_of_all_classes_that_the_client_has_ever_seen(size):
    """Also once they are more than the budget, when nothing is kept of anything."""
    record = trial(METHOD).records[-1]
    client, labels = session(trial(METHOD), record, store={}), DATA.train.labels
    chosen = []
    for label in range(4):
        new = PARTS[label // 2][1]
        new = new[labels[new] == label]
        choose(client, size, new)
        share = size // (label + 1)
        chosen.append(new[herded(normalised_features(client, new), share)])
        assert client.store[EXEMPLARS].tolist() == [i for one in chosen for i in one[:share]]


# ---- nearest means ---------------------------------------------------------------------------------------------------


def test_the_deployed_head_finds_the_nearest_mean_of_all_clients_exemplars():
    record, method = trial(METHOD).records[-1], METHOD
    kept = np.concatenate([after[EXEMPLARS] for _, after in record.stores])
    labels, seen = DATA.train.labels[kept], features_of(record, kept)
    sets = {c: seen[labels == c] for c in range(4)}
    np.testing.assert_allclose(record.after[MEANS][COUNTS], [len(sets[c]) for c in range(4)])
    model = trial(METHOD).fresh_model()
    model.load(method.deploy(record.after, record.phase))
    images = pictures(len(DATA.test))
    predicted = method.scores(model, images).argmax(1).numpy()
    wanted = [literal.nearest_mean(x, sets) for x in model.features(images).detach().double().numpy()]
    np.testing.assert_array_equal(predicted, wanted)


def test_a_class_that_nobody_has_exemplars_of_is_never_predicted_and_a_known_mean_stays():
    record, method = trial(METHOD).records[-1], METHOD
    width = record.after[MEANS][SUMS].shape[1]
    counts = np.array([0, 0, 3, 0], np.float32)
    sums = np.where(counts[:, None] > 0, 1.0, 0.0) * np.ones((4, width), np.float32)
    update = ClientUpdate(0, record.phase.index, 5, {}, {SUMS: sums.astype("f4"), COUNTS: counts})
    after = method.merge(record.before, record.phase, [update])
    np.testing.assert_array_equal(after[MEANS][COUNTS], [*record.before[MEANS][COUNTS], 3, 0])
    np.testing.assert_array_equal(after[MEANS][SUMS][:2], record.before[MEANS][SUMS])
    model = trial(METHOD).fresh_model()
    model.load(method.deploy(after, record.phase))
    scores = method.scores(model, pictures(8)).detach()
    assert (scores.argmin(1) == 3).all()
    assert scores.isfinite().all()


def test_with_a_linear_head_nothing_is_reported_and_the_trained_rows_are_deployed():
    record = trial(LINEAR).records[-1]
    assert all(not update.statistics for update in record.updates)
    assert MEANS not in record.after
    deployed = LINEAR.deploy(record.after, record.phase)
    for name, a in record.after["head"].items():
        np.testing.assert_array_equal(deployed[name], a)


def test_clients_count_by_their_examples_or_alike_as_in_landers_code():
    for method, counts in ((METHOD, [3, 10, 1]), (replace(METHOD, weights="equal"), [1, 1, 1])):
        _, _, updates, state = next(steps(method))
        for name, a in {**state["module"], **state["head"]}.items():
            wanted = np.average([u.arrays[name] for u in updates], axis=0, weights=counts)
            np.testing.assert_allclose(a, wanted, rtol=1e-5, atol=1e-6)


def test_in_the_report_every_exemplar_counts_whatever_weighs_the_rounds():
    means = [trial(replace(METHOD, weights=how)).records[2].after[MEANS][COUNTS].sum() for how in ("examples", "equal")]
    assert means[0] == means[1] > 0
