"""EWC: its penalty and its running Fisher information against the papers'."""

from dataclasses import replace

import numpy as np
import pytest
import reference_baselines as literal
import torch
from hypothesis import given
from hypothesis import strategies as st
from objectives import gradients, step_of
from small import BACKBONE, phase
from trials import is_fedavg, trial, weights

from fcil.arrays import total
from fcil.errors import ConfigError
from fcil.method import ClientUpdate, Task
from fcil.model.precision import ScaledSteps
from fcil.statistics.gradients import fisher_of
from strategies.ewc import EWC


@given(st.integers(0, 2**32), st.sampled_from([0.0, 1.0, 1e4]), st.sampled_from([0.0, 1e-4, 1e3]))
def test_the_objective_is_the_papers_and_its_gradient_too(seed, strength, scale):
    rng = np.random.default_rng(seed)
    anchor, fisher = {"a": rng.normal(size=(2, 3))}, {"a": scale * rng.random((2, 3))}
    constants = {"anchor/a": anchor["a"], "fisher/a": fisher["a"]}
    step = step_of({"a": rng.normal(size=(2, 3)), "head.1.bias": rng.normal(size=2)}, constants, 0.5)
    loss, theta = EWC(strength=strength).loss(step), step.model.arrays["a"].detach().numpy()
    flat = [x.ravel() for x in (theta, anchor["a"], fisher["a"])]
    np.testing.assert_allclose(loss.item(), literal.ewc(0.5, *flat, strength), rtol=1e-12)
    if strength:
        found = gradients(loss, step)
        np.testing.assert_allclose(found["a"], strength * fisher["a"] * (theta - anchor["a"]), rtol=1e-12)
        assert not found["head.1.bias"].any()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_penalty_pulls_with_its_strength_in_every_precision(precision):
    """Where it is written into gradients before float16 scales the loss, 1 / 65,536 of it is left."""
    step = step_of({"a": [1.0, -2.0]}, {"anchor/a": np.zeros(2), "fisher/a": np.array([1.0, 3.0])})
    leaf = step.model.arrays["a"]
    steps = ScaledSteps(torch.optim.SGD([leaf], lr=0.01), torch.device("cpu"), precision)
    assert steps.step(EWC(strength=5.0).loss(step).float())
    np.testing.assert_allclose(leaf.detach().numpy(), [1 - 0.01 * 5 * 1, -2 + 0.01 * 5 * 3 * 2], rtol=1e-6)


def test_there_is_no_penalty_at_the_anchor_and_none_in_the_first_task():
    arrays = {"a": np.ones(3)}
    at_anchor = step_of(arrays, {"anchor/a": np.ones(3), "fisher/a": np.ones(3)})
    assert EWC().loss(at_anchor).item() == EWC().loss(step_of(arrays)).item() == 0


def test_at_strength_zero_it_is_federated_averaging_bit_for_bit():
    assert is_fedavg(EWC(rank=2, strength=0.0))
    assert not is_fedavg(EWC(rank=2))


def test_it_is_federated_averaging_in_the_first_task_and_holds_on_in_the_second():
    free, held = (weights(EWC(rank=2, strength=strength)) for strength in (0.0, 1e6))
    anchor = {n.removeprefix("anchor/"): a for n, a in trial(EWC(rank=2)).records[2].after["ewc"].items()}
    for one, other in zip(free[:2], held[:2], strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)
    moved = [sum(np.abs(a - anchor[n]).sum() for n, a in end[-1].items() if n in anchor) for end in (free, held)]
    assert moved[1] < 0.6 * moved[0]


def test_fisher_runs_on_over_tasks_and_is_divided_by_all_samples():
    """F <- gamma F + sum_i F_i / n, whoever holds the samples; the anchor is the merged module."""
    method, task = EWC(rank=2, gamma=0.3, fisher="empirical"), Task(0, 0, 2)
    rng, state = np.random.default_rng(0), None
    state = method.begin(method.init(BACKBONE, 4, 0), phase(1), BACKBONE)
    running = 0.0
    for number in range(3):
        at = replace(phase(2, "report", task), index=number)
        counts = rng.integers(1, 9, 3)
        names = list(state["module"])
        sums = [{fisher_of(n): rng.random(state["module"][n].shape).astype("f4") for n in names} for _ in counts]
        updates = [ClientUpdate(i, number, int(n), {}, s) for i, (n, s) in enumerate(zip(counts, sums, strict=True))]
        state = method.merge(state, at, updates)
        one = names[0]
        running = 0.3 * running + sum(s[fisher_of(one)].astype(float) for s in sums) / counts.sum()
        np.testing.assert_allclose(state["ewc"][f"fisher/{one}"], running, rtol=1e-5)
        pooled = method.merge(state, at, [ClientUpdate(0, number, int(counts.sum()), {}, total(sums))])
        np.testing.assert_allclose(
            method.merge(state, at, updates)["ewc"][f"fisher/{one}"], pooled["ewc"][f"fisher/{one}"], rtol=1e-5
        )
    for name, a in state["module"].items():
        np.testing.assert_array_equal(state["ewc"][f"anchor/{name}"], a)


def test_references_go_to_those_who_train_and_head_rows_to_those_who_report():
    records = trial(EWC(rank=2)).records
    sent = [(r.phase.kind, r.phase.task.index, bool(r.broadcast.references)) for r in records]
    assert sent == [("train", 0, False)] * 2 + [("report", 0, False)] + [("train", 1, True)] * 2 + [
        ("report", 1, False)
    ]
    assert "head.1.weight" in records[-1].broadcast.arrays


def test_the_head_alone_has_nothing_to_hold():
    with pytest.raises(ConfigError, match="nothing to hold"):
        EWC(adapter_text="head")
