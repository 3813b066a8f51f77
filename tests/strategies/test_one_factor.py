"""RoLoRA and FFA-LoRA: with one factor shared the mean of the factors is the mean of the products."""

import numpy as np
import pytest
from rounds import COUNTS, begun, steps
from small import BACKBONE, dense, phase

from fcil.arrays import same_names
from fcil.method import Task
from fcil.model.lora import A, B, layers_of
from fcil.registry import build_method
from strategies.ffa import FFA
from strategies.rolora import RoLoRA

METHODS = [FFA(rank=3), RoLoRA(rank=3), RoLoRA(rank=3, train_order="AB")]


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_the_merged_product_is_the_mean_of_the_products(method):
    for _, sent, updates, after in steps(method):
        for layer in layers_of(sent):
            mean = sum(u.num_examples * dense({**sent, **u.arrays}, layer) for u in updates) / sum(COUNTS)
            np.testing.assert_allclose(dense(after["module"], layer), mean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "order"), [(METHODS[0], [B] * 4), (METHODS[1], [B, A, B, A]), (METHODS[2], [A, B, A, B])], ids=repr
)
def test_one_factor_a_round_is_sent_and_the_other_keeps_its_bits(method, order):
    for (_, sent, updates, after), factor in zip(steps(method), order, strict=True):
        pairs = [n for n in sent if not n.startswith("head.")]
        assert {n for n in updates[0].arrays if n in pairs} == {n for n in pairs if n.endswith(factor)}
        for name in pairs:
            assert np.array_equal(after["module"][name], sent[name]) == (not name.endswith(factor))


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_the_factor_that_trains_first_starts_at_zero_and_the_other_does_not(method):
    at = phase(1)
    module = begun(method)["module"]
    (first,) = method.trains(at)
    for name, a in module.items():
        assert (not a.any()) == name.endswith(first.removeprefix("*"))


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_one_module_goes_on_into_the_next_task(method):
    *_, (_, _, _, state) = steps(method, 1)
    later = method.begin(state, phase(1, task=Task(1, 2, 2), index=1), BACKBONE)
    for name in same_names([state["module"], later["module"]]):
        assert np.array_equal(state["module"][name], later["module"][name])
    assert method.trains(phase(1, task=Task(1, 2, 2), index=1)) == method.trains(phase(1))


@pytest.mark.parametrize("name", ["rolora", "ffa"])
def test_they_train_under_any_merge_over_tasks(name):
    method = build_method("compose", {"round": name, "task": "task_arithmetic", "rank": 3})
    assert method.additive
    first = phase(1)
    state = begun(method)
    acting = method.acting(first)
    broadcast = acting.broadcast(state, first)
    assert all(not n.endswith(A) for n in acting.local(first).trained(list(broadcast.arrays)))
    fresh = method.begin(state, phase(1, task=Task(1, 2, 2), index=1), BACKBONE)
    assert any(not np.array_equal(fresh["module"][n], a) for n, a in state["module"].items())
