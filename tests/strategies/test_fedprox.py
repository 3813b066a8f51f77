"""FedProx: its objective against the paper's, and the limits of its strength."""

import numpy as np
import pytest
import reference_baselines as literal
from hypothesis import given
from hypothesis import strategies as st
from objectives import gradients, step_of
from trials import is_fedavg, trial

from strategies.fedprox import FedProx


@given(
    st.integers(0, 2**32), st.integers(1, 4), st.sampled_from([0.0, 1e-3, 0.1, 1e3]), st.sampled_from([0, 1e-6, 1e4])
)
def test_the_objective_is_the_papers(seed, rows, mu, scale):
    rng = np.random.default_rng(seed)
    start = {"a": rng.normal(size=(rows, 3)), "head.0.bias": rng.normal(size=2), "frozen": rng.normal(size=2)}
    step = step_of({n: a + scale * rng.normal(size=a.shape) for n, a in start.items()}, start, 0.25, frozen=["frozen"])
    now = {n: leaf.detach().numpy() for n, leaf in step.model.arrays.items()}
    flat = [np.concatenate([arrays["a"].ravel(), arrays["head.0.bias"]]) for arrays in (now, start)]
    loss = FedProx(mu=mu).loss(step)
    np.testing.assert_allclose(loss.item(), literal.fedprox(0.25, *flat, mu), rtol=1e-12)


def test_the_minimum_of_a_quadratic_lies_between_its_own_and_the_broadcast():
    """F = 1/2 h |w - w*|^2 is least at (h w* + mu w^r) / (h + mu)."""
    rng, h, mu = np.random.default_rng(1), 3.0, 0.5
    best, sent = rng.normal(size=(2, 3, 2))
    least = (h * best + mu * sent) / (h + mu)

    def quadratic(leaves):
        return h / 2 * (leaves["w"] - leaves["w"].new_tensor(best)).square().sum()

    step = step_of({"w": least}, {"w": sent}, quadratic)
    np.testing.assert_allclose(gradients(FedProx(mu=mu).loss(step), step)["w"], 0, atol=1e-14)


def test_at_strength_zero_it_is_federated_averaging_bit_for_bit_and_else_it_is_not():
    assert is_fedavg(FedProx(rank=2, mu=0.0))
    assert not is_fedavg(FedProx(rank=2, mu=0.1))


@pytest.mark.parametrize("adapter", ["lora", "full", "head"])
def test_a_strong_pull_keeps_every_round_near_its_broadcast(adapter):
    def moved(mu):
        first = trial(FedProx(rank=2, mu=mu, adapter_text=adapter)).records[0]
        return sum(np.abs(a - first.broadcast.arrays[n]).sum() for u in first.updates for n, a in u.arrays.items())

    assert moved(1e4) < 0.7 * moved(0.0)  # AdamW steps by its rate, there and back


def test_the_first_step_of_a_round_feels_no_pull():
    arrays = {"w": np.random.default_rng(0).normal(size=(2, 3))}
    step = step_of(arrays, {}, lambda leaves: leaves["w"].sin().sum())
    np.testing.assert_array_equal(gradients(FedProx(mu=10.0).loss(step), step)["w"], np.cos(arrays["w"]))


def test_the_pull_is_towards_what_was_broadcast_in_the_round():
    for record in trial(FedProx(rank=2, mu=5.0)).records:
        at_start = step_of(record.broadcast.arrays)
        assert FedProx(mu=5.0).loss(at_start).item() == 0
        assert not record.broadcast.references
