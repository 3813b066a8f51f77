"""Local training: factor form, what trains and what does not, the loss, learning rates, independence of the past."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import reference
import torch
from small import BACKBONE, LINEARS, WIDTH, client_data, dataset, model, phase, weight_sized_tensors

from fcil.client.session import Batch, ClientSession
from fcil.client.settings import Train
from fcil.client.training import run_client
from fcil.data.transforms import View
from fcil.method import Broadcast, Local, Method, Task, head
from fcil.model.lora import A, B, Lora

RANK = 2
DATA = dataset()
TRAIN = Train(epochs=1, batch=7, lr=1e-2)


def arrays_of(seed=0, rank=RANK, tasks=1):
    rng = np.random.default_rng(seed)
    module = Lora(rank).initial(BACKBONE, lambda _: rng)
    module = {n: a if n.endswith(A) else rng.normal(0, 0.2, a.shape).astype(np.float32) for n, a in module.items()}
    for t in range(tasks):
        module |= head.new_rows(Task(t, 2 * t, 2), WIDTH, rng)
    return module


@dataclass(frozen=True, kw_only=True)
class Trainer(Method):
    """Trains what it is told."""

    trains: tuple[str, ...]
    lr: Any = None

    def local(self, phase):
        return Local(trains=self.trains, lr=self.lr or {})


def run(adapted, method, arrays, at=None, data=DATA, indices=(0, 1, 4, 5, 8, 9, 12, 13, 16), train=TRAIN, store=None):
    store = {} if store is None else store
    return run_client(method, adapted, client_data(data, indices), train, at or phase(), Broadcast(arrays), 3, store)


def step_of(adapted, images, labels, task):
    session = ClientSession(0, phase(task=task), adapted, Broadcast({}), {}, client_data(DATA, []))
    return Batch(session, images, labels, np.arange(len(labels)))


# ---- factor form -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [A, B])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_tensor_as_large_as_a_weight_is_saved_or_given_a_gradient(factor, precision):
    adapted, arrays = model(Lora(RANK), precision), arrays_of()
    leaves = adapted.load(arrays, [name for name in arrays if name.endswith(factor)])
    with weight_sized_tensors(adapted.network) as weight_sized:
        adapted.logits(adapted.features(torch.randn(3, 3, 16, 16))).square().sum().backward()
    assert not weight_sized
    assert set(leaves) == {layer + factor for layer in LINEARS}
    for name, tensor in adapted.arrays.items():
        assert tensor.requires_grad == (name in leaves)
        assert (tensor.grad is not None) == (name in leaves)
    assert all(w.grad is None and not w.requires_grad for w in adapted.network.parameters())


def test_dense_training_would_be_noticed_by_the_test_above():
    a, b = torch.randn(2, 32), torch.randn(96, 2, requires_grad=True)
    weight, saved = torch.randn(96, 32), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        x = torch.randn(3, 32, requires_grad=True)
        torch.nn.functional.linear(x, weight + b @ a).sum().backward()
    assert any(tuple(sorted(shape)) == (32, 96) for shape in saved)


def test_forward_with_and_without_gradient_are_the_same_function():
    adapted, arrays = model(Lora(RANK)), arrays_of()
    adapted.load(arrays, list(arrays))
    images = torch.randn(4, 3, 16, 16)
    in_factors = adapted.features(images)
    with torch.no_grad():
        folded = adapted.features(images)
    torch.testing.assert_close(in_factors, folded, rtol=1e-5, atol=1e-5)
    adapted.load({})
    assert (adapted.features(images) - folded).abs().max() > 0.01


@pytest.mark.parametrize("grad", [True, False])
def test_layer_is_the_dense_formula_and_concatenated_factors_are_a_sum(grad):
    adapted, one, two = model(Lora(RANK)), arrays_of(0), arrays_of(1)
    layer = "blocks.0.mlp.fc1"
    module = adapted.network.get_submodule(layer)
    x = torch.randn(3, 5, WIDTH, dtype=torch.float32)
    weight = module.weight.double() + sum(
        torch.from_numpy(m[layer + B]).double() @ torch.from_numpy(m[layer + A]).double() for m in (one, two)
    )
    adapted.load({
        layer + A: np.concatenate([one[layer + A], two[layer + A]], 0),
        layer + B: np.concatenate([one[layer + B], two[layer + B]], 1),
    })  # fmt: skip
    with torch.set_grad_enabled(grad):
        y = module(x)
    torch.testing.assert_close(y.double(), x.double() @ weight.T + module.bias.double(), rtol=1e-5, atol=1e-5)


# ---- what trains -----------------------------------------------------------------------------------------------------


def bits(adapted):
    return {name: w.clone() for name, w in adapted.network.state_dict().items()}


@pytest.mark.parametrize("trains", [(f"*{B}", "head.0.*"), (f"*{A}",), ("blocks.1.*",)])
def test_only_what_is_named_trains_and_all_else_keeps_its_bits(trains):
    adapted, arrays = model(Lora(RANK)), arrays_of()
    before, sent = bits(adapted), {name: a.copy() for name, a in arrays.items()}
    method = Trainer(trains=trains)
    update = run(adapted, method, arrays)
    assert set(update.arrays) == set(method.local(phase()).trained(list(arrays)))
    assert all(not np.array_equal(update.arrays[name], sent[name]) for name in update.arrays)
    for name, a in arrays.items():
        np.testing.assert_array_equal(a, sent[name])
        if name not in update.arrays:
            np.testing.assert_array_equal(adapted.arrays[name].detach().numpy(), sent[name])
    assert all(torch.equal(w, before[name]) for name, w in adapted.network.state_dict().items())
    assert (update.client, update.phase, update.num_examples, update.metrics["images"]) == (3, 0, 9, 9)


def test_a_pattern_that_matches_nothing_is_a_mistake():
    with pytest.raises(ValueError, match="lora_C"):
        run(model(Lora(RANK)), Trainer(trains=("*.lora_C",)), arrays_of())


def test_a_method_that_trains_nothing_sends_nothing():
    update = run(model(Lora(RANK)), Trainer(trains=()), arrays_of())
    assert not update.arrays
    assert "loss" not in update.metrics


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_learning_rates_follow_the_first_pattern_that_matches(optimizer):
    """One step: SGD moves by lr x gradient and AdamW by lr, so ten times the rate goes ten times as far."""
    arrays, indices = arrays_of(), (0, 1, 4, 5)
    train = Train(epochs=1, batch=4, lr=1e-3, optimizer=optimizer)
    trains = (f"*{B}", f"*{A}", "head.*")

    def moved(lr):
        update = run(model(Lora(RANK)), Trainer(trains=trains, lr=lr), arrays, indices=indices, train=train)
        return {name: a.astype(np.float64) - arrays[name] for name, a in update.arrays.items()}

    plain, scaled = moved({}), moved({f"*fc1{B}": 1e-2, f"*{B}": 2e-3})
    for name, change in plain.items():
        factor = 10 if name.endswith("fc1" + B) else 2 if name.endswith(B) else 1
        np.testing.assert_allclose(scaled[name], factor * change, rtol=2e-2, atol=2e-6)


# ---- the loss --------------------------------------------------------------------------------------------------------


def test_cross_entropy_is_over_the_current_task_only():
    adapted, arrays = model(Lora(RANK)), arrays_of(tasks=3)
    arrays |= head.new_rows(Task(1, 2, 3), WIDTH, np.random.default_rng(9))
    adapted.load(arrays, list(arrays))
    labels, images = torch.tensor([2, 4, 3]), torch.randn(3, 3, 16, 16)
    step = step_of(adapted, images, labels, Task(1, 2, 3))
    loss = step.cross_entropy()
    logits = step.features.detach().numpy() @ arrays["head.1.weight"].T + arrays["head.1.bias"]
    assert loss.item() == pytest.approx(reference.cross_entropy(logits.tolist(), [0, 2, 1]), rel=1e-5)
    loss.backward()
    assert all(adapted.arrays[f"head.{t}.{part}"].grad is None for t in (0, 2) for part in ("weight", "bias"))
    assert adapted.logits(step.features).shape == (3, 7)


def test_reported_loss_is_the_mean_over_images_however_batches_are_cut():
    """At a rate too small to move anything it is the literal loss of the model as sent, on all images alike."""
    adapted, arrays = model(Lora(RANK)), arrays_of()
    data, indices = replace(DATA, train_view=View()), (0, 1, 4, 5, 8, 9, 13)
    train = Train(epochs=2, batch=3, lr=1e-30, optimizer="sgd")
    update = run(adapted, Trainer(trains=("head.*",)), arrays, data=data, indices=indices, train=train)
    images, labels, _ = next(client_data(data, indices).batches(7, np.arange(7), None))
    adapted.load(arrays)
    with torch.no_grad():
        logits = adapted.logits(adapted.features(images)).tolist()
    assert update.metrics["loss"] == pytest.approx(reference.cross_entropy(logits, labels.tolist()), rel=1e-5)


# ---- independence ----------------------------------------------------------------------------------------------------


def same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])


def test_result_does_not_depend_on_what_the_process_did_before():
    method, arrays = Trainer(trains=(f"*{A}", f"*{B}", "head.0.*")), arrays_of()
    fresh = run(model(Lora(RANK)), method, arrays)
    used = model(Lora(RANK))
    run(used, Trainer(trains=(f"*{B}",)), arrays_of(5, tasks=2), at=phase(2, task=Task(0, 0, 2), seed=9))
    torch.rand(7)
    used.load(arrays_of(6, rank=3))
    same(run(used, method, arrays).arrays, fresh.arrays)


def test_seed_task_round_and_client_each_change_the_draws():
    method, arrays = Trainer(trains=(f"*{B}",)), arrays_of(tasks=2)
    name = f"blocks.0.mlp.fc1{B}"
    runs = [run(model(Lora(RANK)), method, arrays, at=at).arrays[name] for at in (phase(1), phase(2), phase(1, seed=1))]
    data = client_data(DATA, (0, 1, 4, 5, 8, 9, 12, 13, 16))
    runs.append(run_client(method, model(Lora(RANK)), data, TRAIN, phase(), Broadcast(arrays), 4, {}).arrays[name])
    assert all(not np.array_equal(runs[i], runs[j]) for i in range(4) for j in range(i))


@dataclass(frozen=True, kw_only=True)
class Hoarder(Trainer):
    """Counts its steps in the client's store."""

    def loss(self, step):
        step.store["steps"] = step.store.get("steps", np.zeros(1)) + 1
        return step.cross_entropy()


def test_the_store_is_read_and_written_in_place():
    store = {}
    for expected in (2, 4):  # 9 samples in batches of 7
        run(model(Lora(RANK)), Hoarder(trains=("head.0.*",)), arrays_of(), store=store)
        assert store["steps"] == [expected]


@dataclass(frozen=True, kw_only=True)
class Witness(Trainer):
    """Writes down the labels and the images of every step."""

    def loss(self, step):
        seen = step.store.get("seen", np.zeros((0, 2)))
        rows = np.stack([step.labels.double().numpy(), step.images.double().mean((1, 2, 3)).numpy()], 1)
        step.store["seen"] = np.concatenate([seen, rows])
        return step.cross_entropy()


def test_every_epoch_sees_each_image_once_in_an_order_and_augmentation_of_its_own():
    store, indices = {}, tuple(i for i in range(40) if i % 4 < 2)
    run(model(Lora(RANK)), Witness(trains=("head.*",)), arrays_of(), indices=indices, store=store,
        train=Train(epochs=2, batch=8))  # fmt: skip
    first, second = store["seen"][:20], store["seen"][20:]
    assert np.bincount(first[:, 0].astype(int)).tolist() == np.bincount(second[:, 0].astype(int)).tolist() == [10, 10]
    assert first[:, 0].tolist() != second[:, 0].tolist()
    assert len(set(first[:, 1]) & set(second[:, 1])) <= 3  # boxes are of whole pixels, so that a few may coincide


def test_a_teacher_can_be_used_inside_the_loss_and_gradients_survive():
    adapted, arrays = model(Lora(RANK)), arrays_of()
    leaves = adapted.load(arrays, ["head.0.weight"])
    images = torch.randn(2, 3, 16, 16)
    student = adapted.logits(adapted.features(images))
    with torch.no_grad(), adapted.using({}):
        teacher = adapted.features(images)
    (student.sum() + teacher.sum()).backward()
    assert leaves["head.0.weight"].grad is not None
    assert adapted.arrays["head.0.weight"] is leaves["head.0.weight"]


def test_unknown_arrays_are_refused():
    with pytest.raises(KeyError, match="prompt"):
        model(Lora(RANK)).load({"prompt": np.zeros(3)})
