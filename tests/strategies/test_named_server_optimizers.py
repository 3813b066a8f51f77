"""FedAvgM and FedAdam are federated averaging under a server optimiser, by names of their own."""

from dataclasses import replace

import numpy as np
import pytest
import reference_server
from rounds import COUNTS, begun, steps
from trials import is_fedavg, same_bits, weights

from strategies.fedadam import FedAdam
from strategies.fedavg import FedAvg
from strategies.fedavgm import FedAvgM

ADAM = FedAdam(rank=2, server_lr=0.3, beta1=0.6, beta2=0.8, tau=0.01)


@pytest.mark.parametrize("method", [FedAvgM(rank=2, server_lr=0.5, momentum=0.7), ADAM], ids=lambda m: type(m).__name__)
def test_steps_are_the_papers_number_by_number(method):
    name, played, ends = "head.0.bias", [], []
    start = begun(method)["head"][name]
    for _, _, updates, after in steps(method, 3):
        played.append([u.arrays[name] for u in updates])
        ends.append(after["head"][name])
    for i in range(len(start)):
        one = [([float(client[i]) for client in clients], COUNTS) for clients in played]
        literal = (
            reference_server.adaptive(float(start[i]), one, "adam", 0.3, 0.6, 0.8, 0.01)
            if method is ADAM
            else reference_server.fedavgm(float(start[i]), one, 0.5, 0.7)
        )
        np.testing.assert_allclose(ends[-1][i], literal, rtol=1e-5, atol=1e-6)


def test_momentum_without_memory_is_federated_averaging_bit_for_bit():
    assert is_fedavg(FedAvgM(rank=2, momentum=0.0))
    assert not is_fedavg(FedAvgM(rank=2))


@pytest.mark.parametrize(
    "named", [FedAvgM(rank=2, momentum=0.5), FedAdam(rank=2, beta1=0.5)], ids=lambda m: type(m).__name__
)
def test_it_is_fedavg_with_the_setting_of_that_name(named):
    rule = {FedAvgM: "momentum", FedAdam: "adam"}[type(named)]
    plain = FedAvg(rank=2, server=rule, server_lr=named.server_lr, server_beta1=0.5)
    assert same_bits(weights(named), weights(plain))
    assert not named.is_mean
    assert named.merges == replace(plain).merges
