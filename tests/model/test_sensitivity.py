"""Sensitivity scores of a small model in training, against the literal recursion over its steps."""

import numpy as np
import pytest
import reference_kernels as reference
import torch
from small import BACKBONE, LINEARS, SIZE, WIDTH, model

from fcil.arrays import shapes
from fcil.method import Task, head
from fcil.model.sensitivity import Sensitivity, score_of
from fcil.model.snell import Snell, Snella
from fcil.seeding import generator, torch_generator

POINTS = ("kernel_in", "kernel_out")


def started(adapter):
    rng = generator(1, "model")
    arrays = {**adapter.initial(BACKBONE, lambda _: rng), **head.new_rows(Task(0, 0, 2), WIDTH, rng)}
    adapted = model(adapter)
    leaves = adapted.load(arrays, [n for n in arrays if not n.endswith(".sparsity")])
    return adapted, leaves, arrays


def feed(collector):
    collector.batch(torch.zeros(1, WIDTH), torch.zeros(1, dtype=torch.int64), np.zeros(1, np.int64))


@pytest.mark.parametrize("adapter", [Snella(4), Snell(6, 0.5)], ids=str)
def test_scores_are_those_of_the_literal_recursion(adapter):
    adapted, leaves, arrays = started(adapter)
    statistic = Sensitivity(0.7, 0.6)
    collector = statistic.start(arrays, adapted, lambda purpose: generator(0, purpose))
    optimizer = torch.optim.AdamW(leaves.values(), lr=1e-2, fused=True)
    thetas, gradients = [], []
    for step in range(5):
        images = torch.randn(4, 3, SIZE, SIZE, generator=torch_generator(step))
        optimizer.zero_grad()
        adapted.logits(adapted.features(images), (0,)).logsumexp(1).sum().backward()
        gradients.append({n: leaf.grad.double().numpy().copy() for n, leaf in leaves.items()})
        optimizer.step()
        thetas.append({n: leaf.detach().double().numpy().copy() for n, leaf in leaves.items()})
        feed(collector)
    result = collector.finish()
    assert shapes(result) == statistic.shapes(shapes(arrays))
    for layer in LINEARS:
        for column, name in enumerate(POINTS):
            key = f"{layer}.{name}"
            scores = reference.sensitivity_scores([t[key] for t in thetas], [g[key] for g in gradients], 0.7, 0.6)
            wanted = scores.reshape(len(scores), -1).mean(1)
            assert (wanted > 0).all()
            np.testing.assert_allclose(result[score_of(layer)][:, column], wanted, rtol=2e-4)


def test_shapes_are_two_numbers_a_part():
    _, _, arrays = started(Snella(4))
    declared = Sensitivity().shapes(shapes(arrays))
    assert declared == {f"{layer}.score": (3 if layer.endswith("qkv") else 1, 2) for layer in LINEARS}
    with pytest.raises(ValueError, match="no layer"):
        Sensitivity().shapes({"blocks.0.attn.qkv.lora_A": (2, 8)})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_gradients_that_are_not_finite_count_as_zero(value):
    adapted, leaves, arrays = started(Snella(2))
    collectors = [Sensitivity().start(arrays, adapted, lambda _: generator(0)) for _ in range(2)]
    for name, leaf in leaves.items():
        leaf.grad = torch.ones_like(leaf)
        leaf.grad[(0,) * leaf.dim()] = 0.0 if name.endswith(POINTS) else 1.0
    feed(collectors[0])
    for leaf in leaves.values():
        leaf.grad[(0,) * leaf.dim()] = value
    feed(collectors[1])
    first, second = (collector.finish() for collector in collectors)
    for name, score in first.items():
        assert (score > 0).all()
        np.testing.assert_array_equal(second[name], score)


def test_without_a_step_scores_are_zero_and_without_a_gradient_there_is_none():
    adapted, _, arrays = started(Snella(2))
    collector = Sensitivity().start(arrays, adapted, lambda _: generator(0))
    assert not any(score.any() for score in collector.finish().values())
    with pytest.raises(ValueError, match="has no gradient"):
        feed(collector)


def test_scores_of_tiny_gradients_do_not_vanish():
    """Products of four small numbers: 1e-3 of a point, 1e-15 of a gradient, squared."""
    adapted, leaves, arrays = started(Snella(2))
    collector = Sensitivity().start(arrays, adapted, lambda _: generator(0))
    for leaf in leaves.values():
        leaf.grad = torch.full_like(leaf, 1e-15)
    feed(collector)
    assert all((score > 0).all() for score in collector.finish().values())
