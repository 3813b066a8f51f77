"""Our server optimisers beside Flower's strategies of the same names."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvgM, FedYogi

from fcil.method import ServerOptimizer
from fcil.method.server_optimizer import MOMENTS

FLOWERS = {"momentum": FedAvgM, "adagrad": FedAdagrad, "yogi": FedYogi, "adam": FedAdam}


def flowers_rounds(rule, start, means, **settings):
    """The model after each round of Flower's own strategy, whose clients' means are given."""
    strategy, models, x = FLOWERS[rule](**settings), [], start
    for number, mean in enumerate(means, 1):
        record = ArrayRecord({"x": Array(x)})
        strategy.current_arrays = record if rule == "momentum" else {"x": x}
        averaged = ArrayRecord({"x": Array(x + mean)})
        base = type(strategy).__mro__[1 if rule == "momentum" else 2]
        with pytest.MonkeyPatch.context() as patch:  # its own average of messages is not what is compared
            patch.setattr(base, "aggregate_train", lambda *_, averaged=averaged: (averaged, None))
            result, _ = strategy.aggregate_train(number, [])
        x = result["x"].numpy()
        models.append(x)
    return models


@pytest.mark.parametrize("rule", FLOWERS)
def test_flowers_strategies_are_the_same_but_for_where_they_leave_the_paper(rule):
    """v starts at 0 there and at tau^2 here; FedAdam corrects its bias there, FedAdagrad has no momentum."""
    rng, tau, lr = np.random.default_rng(0), 0.1, 0.3
    start, means = rng.normal(size=(3, 2)), rng.normal(size=(4, 3, 2))
    adaptive = {"eta": lr, "tau": tau}
    settings = {
        "momentum": {"server_learning_rate": lr, "server_momentum": 0.9},
        "adagrad": adaptive,
        "yogi": adaptive | {"beta_1": 0.9, "beta_2": 0.99},
        "adam": adaptive | {"beta_1": 0.9, "beta_2": 0.99},
    }[rule]
    ours = ServerOptimizer(rule, lr, 0.0 if rule == "adagrad" else 0.9, 0.99, tau)
    x, state = start, {MOMENTS: {} if rule == "momentum" else {"square/x": np.zeros((3, 2))}}
    for number, (mean, theirs) in enumerate(zip(means, flowers_rounds(rule, start, means, **settings), strict=True), 1):
        changes, state = ours.step({"x": mean}, state)
        # Flower takes the round's number plus one for the number of steps, so its first step counts as the second
        t = number + 1
        bias = np.sqrt(1 - 0.99**t) / (1 - 0.9**t) if rule == "adam" else 1.0
        x = x + bias * changes["x"]
        np.testing.assert_allclose(theirs, x, rtol=1e-6)
