"""LoRM + RanPAC: what is summed under which backbone, and what becomes of older sums."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from problems import close
from sklearn.linear_model import Ridge as Sklearn
from small import BACKBONE, SIZE, WIDTH, client_data, dataset, model

from fcil.arrays import digest
from fcil.client.settings import Train
from fcil.client.training import run_client
from fcil.data.dataset import model_inputs
from fcil.errors import ConfigError
from fcil.merging.ridge import transport, transported
from fcil.method import Phase, Task
from fcil.registry import build_method
from fcil.statistics.drift import CROSS, OLD_GRAM
from fcil.statistics.feature_map import projection
from fcil.statistics.features import GRAM, class_sums
from strategies.lorm_ranpac import LoRMRanPAC
from strategies.ranpac import RanPAC

DATA = dataset(classes=6)
TASKS = (Task(0, 0, 2), Task(1, 2, 2), Task(2, 4, 2))
TRAIN = Train(rounds=2, epochs=1, batch=4, lr=3e-2)
SMALL = {"rank": 2, "random": 20, "penalty": 1.0}
VARIANTS = {
    "first": {}, "first, concat": {"concat": True}, "stale": {"adapt": "every_task"},
    "stale, concat": {"adapt": "every_task", "concat": True},
    "transported": {"adapt": "every_task", "transport": True},
    "transported, concat": {"adapt": "every_task", "transport": True, "concat": True},
    "FedAvg, transported": {"adapt": "every_task", "transport": True, "base": "fedavg"},
    "FedAvg, first": {"base": "fedavg"},
    "ridge, transported": {"adapt": "every_task", "transport": True, "random": 0},
    "ridge, transported, concat": {"adapt": "every_task", "transport": True, "random": 0, "concat": True},
}  # fmt: skip
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def of(variant, **more):
    return LoRMRanPAC(**{**SMALL, **VARIANTS[variant], **more})


def parts(task, clients):
    return [np.flatnonzero(np.isin(DATA.train.labels, task.positions))[c::clients] for c in range(clients)]


def run(method, clients=3):
    """[(phase, state before, broadcast, updates, state after)]."""
    adapted, state, steps = model(method.adapter), method.init(BACKBONE, 6, 0), []
    for task in TASKS:
        kinds = method.phases(task, TRAIN.rounds)
        for round, kind in enumerate(kinds, 1):
            phase = Phase(len(steps), kind, task, round, 0, len(kinds) - round)
            state = method.begin(state, phase, BACKBONE) if round == 1 else state
            sent = method.acting(phase).broadcast(state, phase)
            updates = [
                run_client(method, adapted, client_data(DATA, indices), TRAIN, phase, sent, client, {})
                for client, indices in enumerate(parts(task, clients))
            ]
            after = method.acting(phase).merge(state, phase, updates)
            steps.append((phase, state, sent, updates, after))
            state = after
    return steps


@cache
def trajectory(variant):
    return run(of(variant))


def reports(variant):
    return [step for step in trajectory(variant) if step[0].phases_left == 0]


def modules(deployed):
    return {name: a for name, a in deployed.items() if not name.startswith(("head.", "scores."))}


def features(method, arrays, indices, frozen=False):
    """z of training images in float64, frozen features to the left where the method has them."""
    adapted = model(method.adapter)
    images = model_inputs(DATA.train.images[indices], DATA, SIZE)
    results = []
    for each in ([{}] if method.concat or frozen else []) + ([] if frozen else [modules(arrays)]):
        adapted.load(each)
        with torch.no_grad():
            results.append(adapted.features(images).double().numpy())
    return np.concatenate(results, 1)


def phi(method, z):
    r = projection(0, method.random, z.shape[1]).astype(np.float64)
    return np.maximum(z @ r.T, 0) if method.random else z


def of_task(task):
    indices = np.flatnonzero(np.isin(DATA.train.labels, task.positions))
    return indices, np.eye(6)[DATA.train.labels[indices]]


def test_it_is_found_by_its_name():
    assert isinstance(build_method("lorm+ranpac", SMALL), LoRMRanPAC)


def test_transport_without_anything_that_changes_is_refused():
    with pytest.raises(ConfigError, match=r"method\.adapt"):
        of("first", transport=True).init(BACKBONE, 6, 0)


@every_variant
def test_a_task_without_training_has_one_report_and_one_with_it_the_tuners_phases_first(variant):
    method = of(variant)
    tuned = (*method._tuner.phases(TASKS[0], 2), "report")
    later = tuned if method.adapt == "every_task" else ("report",)
    assert [method.phases(task, 2) for task in TASKS] == [tuned, later, later]


@every_variant
def test_training_is_the_tuners_bit_for_bit(variant):
    method = of(variant)
    alone, state = method._tuner, method._tuner.init(BACKBONE, 6, 0)
    for phase, _, sent, updates, after in trajectory(variant):
        if phase.phases_left == 0:
            continue
        state = alone.begin(state, phase, BACKBONE) if phase.round == 1 else state
        assert digest(alone.acting(phase).broadcast(state, phase).arrays) == digest(sent.arrays)
        state = alone.acting(phase).merge(state, phase, updates)
        assert digest(alone.deploy(state, phase)) == digest(method.deploy(after, phase))


@every_variant
def test_the_backbone_changes_in_the_tasks_in_which_it_is_adapted_only(variant):
    deployed = [digest(modules(of(variant).deploy(after, phase))) for phase, *_, after in reports(variant)]
    assert len(set(deployed)) == (3 if of(variant).adapt == "every_task" else 1)


@every_variant
def test_a_task_is_summed_under_the_backbone_that_is_deployed_after_it(variant):
    method = of(variant)
    for phase, _, _, updates, after in reports(variant):
        indices, y = of_task(phase.task)
        x = phi(method, features(method, method.deploy(after, phase), indices))
        summed = method.acting(phase).sums(phase, None, updates)
        close(summed[class_sums(phase.task.index)], y.T[list(phase.task.positions)] @ x, 1e-4)
        close(summed[GRAM], (x.T @ x)[np.triu_indices(x.shape[1])], 1e-4)


@every_variant
def test_the_head_is_ridge_on_features_of_which_older_ones_are_stale_or_carried_over(variant):
    """Each task's features under the backbone at its end, and with transport moved on by T after each later task."""
    method = of(variant)
    seen = reports(variant)
    xs, ys = [], []
    for position, (phase, *_, after) in enumerate(seen):
        indices, y = of_task(phase.task)
        z = features(method, method.deploy(after, phase), indices)
        if method.transport and position:
            earlier, *_, old = seen[position - 1]
            z_old = features(method, method.deploy(old, earlier), indices)
            new, before = phi(method, z), phi(method, z_old)
            cross, gram = new.T @ before, before.T @ before
            mu = method.transport_mu * np.trace(gram) / len(gram)
            t = (cross + mu * np.eye(len(gram))) @ np.linalg.inv(gram + mu * np.eye(len(gram)))
            xs = [x @ t.T for x in xs]
        xs, ys = [*xs, phi(method, z)], [*ys, y]
        x, targets = np.concatenate(xs), np.concatenate(ys)[:, : phase.task.seen]
        deployed = method.deploy(after, phase)
        rows = np.concatenate([deployed[f"head.{t}.weight"] for t in range(position + 1)])
        close(rows, Sklearn(alpha=1.0, fit_intercept=False).fit(x, targets).coef_, 2e-3)


@every_variant
def test_scores_are_those_of_the_deployed_head_on_the_features_that_were_summed(variant):
    method = of(variant)
    phase, *_, after = reports(variant)[-1]
    deployed = method.deploy(after, phase)
    adapted, chosen = model(method.adapter), np.arange(6)
    adapted.load(deployed)
    with torch.no_grad():
        scores = method.scores(adapted, model_inputs(DATA.train.images[chosen], DATA, SIZE)).numpy()
    rows = np.concatenate([deployed[f"head.{t}.weight"] for t in range(3)])
    close(scores, phi(method, features(method, deployed, chosen)) @ rows.T, 1e-4)


@every_variant
def test_one_client_or_many_give_the_same_sums(variant):
    """The report is partition-invariant: given the backbone, the samples may lie anywhere."""
    method = of(variant)
    phase, before, sent, _, after = reports(variant)[-1]
    whole = run_client(
        method, model(method.adapter), client_data(DATA, of_task(phase.task)[0]), TRAIN, phase, sent, 0, {}
    )
    alone = method.acting(phase).merge(before, phase, [whole])
    for name, a in after["sums"].items():
        close(alone["sums"][name], a, 1e-5)  # float32 features depend a little on what is in their batch


def test_old_modules_are_known_to_clients_and_only_new_ones_are_sent():
    for (_, _, earlier, *_), (_, _, later, *_) in zip(reports("transported"), reports("transported")[1:], strict=False):
        old = {name: a for name, a in later.references.items() if name in earlier.references}
        assert old
        assert all(np.array_equal(a, earlier.references[name]) for name, a in old.items())


def test_with_a_strong_mu_transport_is_stale():
    phase, before, _, updates, _ = reports("transported")[1]
    still = replace(of("transported"), transport_mu=1e12).merge(before, phase, updates)
    stale = replace(of("transported"), transport=False).merge(before, phase, updates)
    for name, a in stale["sums"].items():
        close(still["sums"][name], a, 1e-8)


def test_transport_moves_the_sums_of_earlier_tasks_by_the_closed_form_alone():
    method = of("transported")
    phase, before, _, updates, after = reports("transported")[1]
    summed = method.acting(phase).sums(phase, None, updates)
    transport_map = transport(summed[CROSS], summed[OLD_GRAM], method.transport_mu)
    gram, q = transported(transport_map, before["sums"][GRAM], before["sums"][class_sums(0)])
    np.testing.assert_allclose(after["sums"][class_sums(0)], q)
    np.testing.assert_allclose(after["sums"][GRAM], gram + summed[GRAM])


def test_an_adaptation_that_does_not_move_is_plain_ranpac():
    """Rate zero: B stays zero, so features are the frozen ones."""
    method, plain = of("first"), RanPAC(random=20, penalty=1.0)
    phase, *_ = reports("first")[0]
    adapted = model(method.adapter)
    begun = method.begin(method.init(BACKBONE, 6, 0), replace(phase, round=1, phases_left=3), BACKBONE)
    sent = method.acting(phase).broadcast(begun, phase)
    indices = of_task(phase.task)[0]
    update = run_client(method, adapted, client_data(DATA, indices), TRAIN, phase, sent, 0, {})
    state = plain.begin(plain.init(BACKBONE, 6, 0), phase, BACKBONE)
    expected = run_client(
        plain, model(None), client_data(DATA, indices), TRAIN, phase, plain.broadcast(state, phase), 0, {}
    )
    for name, a in expected.statistics.items():
        close(update.statistics[name], a, 1e-5)
    assert sent.arrays["head.0.weight"].shape[1] == WIDTH
