"""STSA: what is federated averaging, what is RanPAC, and what groups put in the place of G."""

import numpy as np
import pytest
from small import BACKBONE
from trials import trial

from fcil.arrays import nbytes
from fcil.errors import ConfigError
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
