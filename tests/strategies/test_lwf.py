"""LwF: distillation against the paper's, on the old classes alone, by the last task's merged model."""

import numpy as np
import pytest
import reference_baselines as literal
import torch
from hypothesis import given
from hypothesis import strategies as st
from sessions import batch, logits, session
from trials import is_fedavg, same_bits, trial, weights

from strategies._teacher import distillation
from strategies.lwf import LwF

METHOD = LwF(rank=2, alpha=0.7, temperature=3.0)
CURRENT = LwF(rank=2, alpha=0.7, temperature=3.0, classes="current")
SCALES, TEMPERATURES = st.sampled_from([0.0, 1.0, 30.0]), st.sampled_from([0.5, 1.0, 2.0, 7.0])


@given(st.integers(0, 2**32), st.integers(1, 5), TEMPERATURES, SCALES)
def test_distillation_is_the_papers(seed, classes, temperature, scale):
    student, teacher = np.random.default_rng(seed).normal(0, scale, (2, 3, classes))
    ours = distillation(torch.from_numpy(student), torch.from_numpy(teacher), temperature)
    np.testing.assert_allclose(ours.item(), literal.distillation(student, teacher, temperature), rtol=1e-9, atol=1e-9)


@given(st.integers(0, 2**32))
def test_it_is_least_where_logits_agree_up_to_a_constant_of_the_image(seed):
    rng = np.random.default_rng(seed)
    teacher = torch.from_numpy(rng.normal(size=(4, 3)))
    student = (teacher + torch.from_numpy(rng.normal(size=(4, 1)))).requires_grad_()
    (g,) = torch.autograd.grad(distillation(student, teacher, 2.0), [student])
    np.testing.assert_allclose(g.numpy(), 0, atol=1e-15)
    other = student.detach() + torch.from_numpy(rng.normal(size=(4, 3)))
    assert distillation(other, teacher, 2.0) > distillation(student, teacher, 2.0)


def test_the_loss_is_made_of_the_last_tasks_model_and_of_this_one():
    record = trial(METHOD).records[3]
    step = batch(session(trial(METHOD), record))
    teacher = {n.removeprefix("teacher/"): a for n, a in record.broadcast.references.items()}
    old, now = (logits(trial(METHOD), arrays, step.images, (0,)) for arrays in (teacher, record.broadcast.arrays))
    assert np.abs(old - now).max() > 1e-3
    wanted = step.cross_entropy().item() + 0.7 * literal.distillation(now, old, 3.0)
    np.testing.assert_allclose(METHOD.loss(step).item(), wanted, rtol=1e-5)


def test_new_head_rows_learn_from_labels_alone_and_old_ones_from_the_teacher():
    step = batch(session(trial(METHOD), trial(METHOD).records[3]))
    old, new = (step.model.arrays[f"head.{t}.weight"] for t in (0, 1))
    ours = torch.autograd.grad(METHOD.loss(step), [old, new], retain_graph=True)
    (plain,) = torch.autograd.grad(step.cross_entropy(), [new])
    np.testing.assert_allclose(ours[1], plain, rtol=1e-4, atol=1e-7)
    assert ours[0].any()


def test_the_teacher_is_what_was_evaluated_last_and_stays_through_a_task():
    first, second, third, fourth = trial(METHOD).records
    assert not first.broadcast.references
    assert not second.broadcast.references
    deployed = METHOD.deploy(second.after, second.phase)
    for record in (third, fourth):
        assert record.broadcast.references.keys() == {f"teacher/{name}" for name in deployed}
        for name, a in deployed.items():
            np.testing.assert_array_equal(record.broadcast.references[f"teacher/{name}"], a)


def test_it_is_federated_averaging_in_the_first_task_and_at_weight_zero():
    assert is_fedavg(LwF(rank=2, alpha=0.0))
    assert same_bits(weights(METHOD)[:2], weights(LwF(rank=2, alpha=0.0))[:2])
    assert not is_fedavg(LwF(rank=2))


def test_fed_mammoth_teaches_the_new_classes_with_rows_that_nothing_has_trained():
    """What its tables show: old rows learn nothing and stay, and the teacher's rows are those the task began with."""
    records = trial(CURRENT).records
    _, last, begun, record = records
    drawn = {n: a for n, a in begun.broadcast.arrays.items() if n.startswith("head.1.")}
    teacher = {n.removeprefix("teacher/"): a for n, a in record.broadcast.references.items()}
    assert all(np.array_equal(teacher[n], a) for n, a in {**CURRENT.deploy(last.after, last.phase), **drawn}.items())
    step = batch(session(trial(CURRENT), record))
    old, now = (logits(trial(CURRENT), arrays, step.images, (1,)) for arrays in (teacher, record.broadcast.arrays))
    wanted = step.cross_entropy().item() + 0.7 * literal.distillation(now, old, 3.0)
    np.testing.assert_allclose(CURRENT.loss(step).item(), wanted, rtol=1e-5)
    for name, a in last.after["head"].items():
        np.testing.assert_array_equal(record.after["head"][name], a)
    assert not any(name.startswith("head.0.") for name in record.broadcast.arrays)
    assert same_bits(weights(CURRENT)[:2], weights(METHOD)[:2])


@pytest.mark.parametrize("adapter", ["full", "head", "loftq", "snella"])
def test_with_other_adapters_the_teacher_is_the_deployed_model_too(adapter):
    method = LwF(rank=2, alpha=1.0, adapter_text=adapter)
    _, last, record, _ = trial(method).records
    step = batch(session(trial(method), record))
    old = logits(trial(method), method.deploy(last.after, last.phase), step.images, (0,))
    now = step.model.logits(step.features, (0,)).detach().double().numpy()
    wanted = step.cross_entropy().item() + literal.distillation(now, old, 2.0)
    np.testing.assert_allclose(method.loss(step).item(), wanted, rtol=1e-5)
