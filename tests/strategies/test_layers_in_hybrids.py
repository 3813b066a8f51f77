"""Hybrids on tokens of layers: of the adapted backbone, beside the frozen one's and carried over by transport."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from problems import close
from reference_features import features_of_tokens, fold_matrix
from sklearn.linear_model import Ridge as Sklearn
from small import BACKBONE, SIZE, client_data, dataset, model

from fcil.client.settings import Train
from fcil.client.training import run_client
from fcil.data.dataset import model_inputs
from fcil.errors import ConfigError
from fcil.method import TOKENS, Phase, Task, Tokens
from fcil.statistics.feature_map import fold_table
from fcil.statistics.features import GRAM, class_sums
from strategies.lorm_ranpac import LoRMRanPAC

VIT = replace(BACKBONE, grid=(2, 2))
DATA = dataset(classes=6)
TASKS = (Task(0, 0, 2), Task(1, 2, 2), Task(2, 4, 2))
TRAIN = Train(rounds=2, epochs=1, batch=4, lr=3e-2)
SMALL = {"rank": 2, "random": 0, "penalty": 1.0, "layers": (2, 1), "tokens": "class+grid:2"}
BLOCKS = ((2, 0), (2, 2), (1, 0), (1, 2))
VARIANTS = {
    "first": {}, "first, concat": {"concat": True}, "folded": {"project": 40},
    "folded, concat": {"project": 40, "concat": True}, "stale": {"adapt": "every_task"},
    "transported": {"adapt": "every_task", "transport": True, "project": 40},
    "transported, concat": {"adapt": "every_task", "transport": True, "project": 40, "concat": True},
    "FedAvg": {"base": "fedavg"},
}  # fmt: skip
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def of(variant):
    return LoRMRanPAC(**{**SMALL, **VARIANTS[variant]})


@cache
def reports(variant, clients=3):
    """[(phase, the state before, broadcast, updates, the state after)] of the head's reports."""
    method = of(variant)
    adapted, state, steps, index = model(method.adapter), method.init(VIT, 6, 0), [], 0
    for task in TASKS:
        kinds = method.phases(task, TRAIN.rounds)
        for number, kind in enumerate(kinds, 1):
            phase = Phase(index, kind, task, number, 0, len(kinds) - number)
            state = method.begin(state, phase, VIT) if number == 1 else state
            sent = method.acting(phase).broadcast(state, phase)
            mine = np.flatnonzero(np.isin(DATA.train.labels, task.positions))
            updates = [
                run_client(method, adapted, client_data(DATA, mine[c::clients]), TRAIN, phase, sent, c, {})
                for c in range(clients)
            ]
            before, state, index = state, method.acting(phase).merge(state, phase, updates), index + 1
            if phase.phases_left == 0:
                steps.append((phase, before, sent, updates, state))
    return steps


def tokens_under(method, arrays, indices):
    """Tokens of the named layers by hooks on the blocks, in float64, under the loaded modules."""
    adapted, seen = model(method.adapter), []
    adapted.load(arrays)
    handles = [
        block.register_forward_hook(lambda module, given, out: seen.append(out)) for block in adapted.network.blocks
    ]
    with torch.no_grad():
        adapted.network.forward_features(model_inputs(DATA.train.images[indices], DATA, SIZE))
        outputs = [adapted.network.norm(out).numpy() for out in seen]
    for handle in handles:
        handle.remove()
    return features_of_tokens(outputs, BLOCKS, (2, 2), 1)


def modules(deployed):
    return {n: a for n, a in deployed.items() if not n.startswith(("head.", "scores.")) and n != TOKENS}


def phi(method, deployed, indices):
    """Frozen tokens to the left of the adapted ones with `concat`, then folded."""
    z = tokens_under(method, modules(deployed), indices)
    z = np.concatenate([tokens_under(method, {}, indices), z], 1) if method.concat else z
    return z @ fold_matrix(fold_table(0, 40, (z.shape[1],)), z.shape[1]).T if method.project < z.shape[1] else z


def of_task(task):
    indices = np.flatnonzero(np.isin(DATA.train.labels, task.positions))
    return indices, np.eye(6)[DATA.train.labels[indices]]


@every_variant
def test_sums_are_of_the_tokens_under_the_backbone_of_the_tasks_end(variant):
    method = of(variant)
    for phase, _, _, updates, after in reports(variant):
        indices, y = of_task(phase.task)
        deployed = method.deploy(after, phase)
        assert Tokens.of(deployed[TOKENS]).blocks == BLOCKS
        x = phi(method, deployed, indices)
        summed = method.acting(phase).sums(phase, None, updates)
        close(summed[class_sums(phase.task.index)], y.T[list(phase.task.positions)] @ x, 1e-4)
        close(summed[GRAM], (x.T @ x)[np.triu_indices(x.shape[1])], 1e-4)


@every_variant
def test_the_backbone_has_been_adapted(variant):
    method = of(variant)
    phase, *_, after = reports(variant)[0]
    indices, _ = of_task(phase.task)
    moved = tokens_under(method, modules(method.deploy(after, phase)), indices) - tokens_under(method, {}, indices)
    assert np.abs(moved).max() > 1e-3


@pytest.mark.parametrize("variant", ["first", "first, concat", "folded", "folded, concat", "FedAvg"])
def test_adapted_once_the_head_is_ridge_on_the_pooled_tokens(variant):
    method = of(variant)
    phase, *_, after = reports(variant)[-1]
    deployed = method.deploy(after, phase)
    indices = np.arange(len(DATA.train.labels))
    expected = Sklearn(alpha=1.0, fit_intercept=False).fit(phi(method, deployed, indices), np.eye(6)[DATA.train.labels])
    rows = np.concatenate([deployed[f"head.{t}.weight"] for t in range(3)])
    close(rows, expected.coef_, 2e-3)


@every_variant
def test_scores_are_those_of_the_head_on_the_tokens_that_were_summed(variant):
    method = of(variant)
    phase, *_, after = reports(variant)[-1]
    deployed, chosen = method.deploy(after, phase), np.arange(6)
    adapted = model(method.adapter)
    adapted.load(deployed)
    with torch.no_grad():
        scores = method.scores(adapted, model_inputs(DATA.train.images[chosen], DATA, SIZE)).numpy()
    rows = np.concatenate([deployed[f"head.{t}.weight"] for t in range(3)])
    close(scores, phi(method, deployed, chosen) @ rows.T, 1e-3)


@every_variant
def test_one_client_or_many_give_the_same_sums(variant):
    method = of(variant)
    phase, before, sent, _, after = reports(variant)[-1]
    mine = client_data(DATA, of_task(phase.task)[0])
    whole = run_client(method, model(method.adapter), mine, TRAIN, phase, sent, 0, {})
    alone = method.acting(phase).merge(before, phase, [whole])
    for name, a in after["sums"].items():
        close(alone["sums"][name], a, 1e-5)


def test_transport_moves_older_sums():
    method = of("transported")
    phase, before, _, updates, after = reports("transported")[1]
    stale = replace(method, transport=False).merge(before, phase, updates)
    assert np.abs(after["sums"][class_sums(0)] - stale["sums"][class_sums(0)]).max() > 1e-3
    for name in (class_sums(1),):
        np.testing.assert_array_equal(after["sums"][name], stale["sums"][name])


@pytest.mark.parametrize("given", [{"layers": "auto"}, {"penalty": "accuracy"}])
def test_what_needs_further_reports_is_refused(given):
    with pytest.raises(
        ConfigError, match=rf"^method\.{next(iter(given))} = .*takes a further report, which hybrids lack"
    ):
        LoRMRanPAC(**{**SMALL, **given}).init(VIT, 6, 0)


def test_layers_that_the_backbone_does_not_have_are_refused():
    with pytest.raises(ConfigError, match="no layer 3: the backbone has layers 1 to 2"):
        LoRMRanPAC(**{**SMALL, "layers": (3,)}).init(VIT, 6, 0)
