"""STSA: what is federated averaging, what is RanPAC, and what groups put in the place of G."""

from dataclasses import replace

import numpy as np
import pytest
from small import BACKBONE, phase
from trials import trial

from fcil.arrays import nbytes
from fcil.errors import ConfigError
from fcil.model.kernel_form import SPARSITY
from strategies.fedavg import FedAvg
from strategies.lorm_ranpac import LoRMRanPAC
from strategies.ranpac import RanPAC
from strategies.stsa import STSA

SMALL = {"random": 20, "penalty": 1.0}


def deployed(method):
    record = trial(method).records[-1]
    return method.deploy(record.after, record.phase)


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(a, other[n]) for n, a in one.items())


def test_the_first_task_is_federated_averaging_and_later_ones_train_nothing():
    records = trial(STSA(rank=2, **SMALL)).records
    assert [r.phase.kind for r in records] == ["train", "train", "report", "report"]
    plain = trial(FedAvg(rank=2)).records[1]
    assert same(records[1].after["module"], plain.after["module"])
    assert same(records[-1].after["tuned"], plain.after["module"])


def test_clients_count_alike_in_the_first_task_if_they_are_asked_to():
    record = trial(STSA(rank=2, **SMALL)).records[1]
    updates = [replace(u, num_examples=n) for u, n in zip(record.updates, (3, 10, 1), strict=True)]
    for weights, shares in (("examples", [3, 10, 1]), ("equal", [1, 1, 1])):
        method = STSA(rank=2, weights=weights, **SMALL).acting(record.phase)
        after = method.merge(record.before, record.phase, updates)
        for name in updates[0].arrays:
            wanted = np.average([u.arrays[name].astype(float) for u in updates], 0, shares)
            np.testing.assert_allclose({**after["module"], **after["head"]}[name], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (STSA(adapter_text="head", **SMALL), RanPAC(**SMALL)),
        (STSA(rank=2, **SMALL), LoRMRanPAC(rank=2, base="fedavg", **SMALL)),
    ],
    ids=["ranpac", "lorm+ranpac"],
)
def test_without_adaptation_it_is_ranpac_and_with_it_the_hybrid_of_federated_averaging(ours, theirs):
    assert same(deployed(ours), deployed(theirs))


def test_groups_change_g_alone_and_what_is_sent():
    exact, grouped = STSA(adapter_text="head", **SMALL), STSA(adapter_text="head", groups=3, **SMALL)
    one, other = (trial(m).records[-1] for m in (exact, grouped))
    for name, a in one.after["sums"].items():
        assert np.allclose(a, other.after["sums"][name]) == (name != "gram"), name
    m, c = 20, 2
    assert nbytes(one.updates[0].statistics) == 8 * (m * (m + 1) // 2 + c * m + c)
    assert nbytes(other.updates[0].statistics) == 8 * 3 * c * (m + 1)
    assert exact.additive
    assert not grouped.additive


@pytest.mark.parametrize(
    "settings", [{"groups": 5, "penalty": "auto"}, {"noise": 1.0, "clip": 1.0}, {"layers": "auto"}], ids=str
)
def test_what_is_not_defined_is_refused(settings):
    with pytest.raises(ConfigError, match=r"method\."):
        STSA(rank=2, **{**SMALL, **settings}).init(BACKBONE, 4, 0)


# ---- the first task's rounds -----------------------------------------------------------------------------------------


def sparsity(arrays):
    """The share of a model's kernelised changes that is zero."""
    of = {name.removeprefix("tuned/"): a for name, a in arrays.items() if name.endswith(SPARSITY)}
    entries = {name: np.prod(BACKBONE.linears[name.removesuffix(SPARSITY)]) for name in of}
    return sum(entries[name] * a.mean() for name, a in of.items()) / sum(entries.values())


def test_snellas_sparsity_rises_over_the_first_tasks_rounds_alone():
    """No module trains after them: at their end the sparsity is the last one, however many tasks follow."""
    records = trial(STSA(rank=2, adapter_text="snella(sparsity = 0.8)", **SMALL)).records
    assert [sparsity(r.broadcast.arrays) for r in records[:2]] == pytest.approx([0, 0.8], abs=1e-5)
    assert [sparsity(r.broadcast.references) for r in records[2:]] == pytest.approx([0.8, 0.8], abs=1e-5)


def test_one_round_is_too_few_for_a_sparsity_that_rises():
    phases = [replace(phase(), phases_left=1), phase(2, kind="report")]
    STSA(rank=2, **SMALL).check_phases(phases)
    with pytest.raises(ConfigError, match="there is one round only"):
        STSA(rank=2, adapter_text="snella(sparsity = 0.8)", **SMALL).check_phases(phases)


@pytest.mark.parametrize(
    "method", [STSA(rank=2, **SMALL), LoRMRanPAC(rank=2, adapt="every_task", **SMALL)], ids=["stsa", "lorm+ranpac"]
)
def test_every_round_can_be_evaluated(method):
    run = trial(method)
    assert all(run.evaluates(record.phase) for record in run.records)
