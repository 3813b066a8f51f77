"""Fisher diagonals and output Grams against plain autograd on a plain ViT that has W0 + B A in its weights."""

import numpy as np
import pytest
import reference_baselines as literal
import torch
from small import BACKBONE, LINEARS, SIZE, WIDTH, client_data, dataset, model, phase, tiny_vit

from fcil.arrays import shapes
from fcil.client.settings import Train
from fcil.client.training import run_client
from fcil.data.dataset import model_inputs
from fcil.merging import packed
from fcil.method import Broadcast, Local, Method, Task, head
from fcil.model.lora import DELTA, A, B, Lora
from fcil.statistics.gradients import SAMPLES, WHOLE_WEIGHTS, Fisher, fisher_of, fisher_pass, gradient_pass, output_gram
from fcil.statistics.inputs import InputGram, input_gram

TASK = Task(1, 2, 2)
FACTORS = (f"*{A}", f"*{B}", head.block(1))
DATA = dataset()
INDICES = np.flatnonzero(np.isin(DATA.train.labels, TASK.positions))[:7]


def arrays():
    rng = np.random.default_rng(3)
    module = Lora(2).initial(BACKBONE, lambda _: rng)
    module = {n: a if n.endswith(A) else rng.normal(0, 0.2, a.shape).astype("f4") for n, a in module.items()}
    return {**module, **head.new_rows(TASK, WIDTH, rng)}


class Reporter(Method):
    def __init__(self, *passes):
        object.__setattr__(self, "passes", passes)

    def local(self, phase):
        return Local(passes=self.passes)


def report(*passes, batch=3, indices=INDICES):
    seen, at = client_data(DATA, indices), phase(kind="report", task=TASK)
    adapted = model(Lora(2))
    return run_client(Reporter(*passes), adapted, seen, Train(batch=batch), at, Broadcast(arrays()), 0, {}).statistics


def samples():
    """(weight gradients, output gradients by layer, gradients of the head) of each sample."""
    known, network = arrays(), tiny_vit().eval()
    weight, bias = (torch.from_numpy(known[n]).requires_grad_() for n in (head.weight(1), head.bias(1)))
    outputs = {}
    for layer in LINEARS:
        module = network.get_submodule(layer)
        module.weight.data += torch.from_numpy(known[layer + B] @ known[layer + A])

        def keep(module, inputs, output, layer=layer):
            output.retain_grad()
            outputs[layer] = output

        module.register_forward_hook(keep)
    images = model_inputs(DATA.train.images[INDICES], DATA, SIZE)
    for image, label in zip(images, DATA.train.labels[INDICES], strict=True):
        network.zero_grad()
        weight.grad = bias.grad = None
        logits = network.forward_head(network.forward_features(image[None]), pre_logits=True) @ weight.T + bias
        (-torch.log_softmax(logits, 1)[0, label - TASK.first]).backward()
        dense = {layer: network.get_submodule(layer).weight.grad.double().numpy() for layer in LINEARS}
        yield dense, {n: o.grad[0].double().numpy() for n, o in outputs.items()}, (weight.grad, bias.grad)


def near(result, wanted):
    np.testing.assert_allclose(result, wanted, rtol=1e-3, atol=1e-5 * np.abs(wanted).max())


def test_fisher_of_whole_weights_is_the_sum_of_squares_of_single_samples_gradients():
    result, wanted = report(fisher_pass(TASK, WHOLE_WEIGHTS)), dict.fromkeys(LINEARS, 0.0)
    for weights, _, _ in samples():
        wanted = {layer: total + weights[layer] ** 2 for layer, total in wanted.items()}
    assert result.keys() == {fisher_of(layer + DELTA) for layer in LINEARS}
    for layer in LINEARS:
        near(result[fisher_of(layer + DELTA)], wanted[layer])


def test_fisher_of_factors_follows_from_the_gradient_of_the_whole_weight():
    """The gradient of B is g A^T, that of A is B^T g; the head's rows have their own."""
    result, known, wanted = report(fisher_pass(TASK, FACTORS)), arrays(), dict.fromkeys(arrays(), 0.0)
    for weights, _, rows in samples():
        for layer, g in weights.items():
            wanted[layer + B] += (g @ known[layer + A].T) ** 2
            wanted[layer + A] += (known[layer + B].T @ g) ** 2
        for name, g in zip((head.weight(1), head.bias(1)), rows, strict=True):
            wanted[name] += g.double().numpy() ** 2
    assert result.keys() == {fisher_of(name) for name in known}
    for name in known:
        near(result[fisher_of(name)], wanted[name])


@pytest.mark.parametrize("kind", ["empirical", "exact", "mammoth"])
def test_kinds_of_fisher_are_those_of_softmax_regression(kind):
    """Of the head's rows, whose logits are linear: the derivative of logit c in its own row is the features."""
    result, known, network = report(fisher_pass(TASK, (head.block(1),), kind)), arrays(), model(Lora(2))
    network.load(known)
    with torch.no_grad():
        seen = network.features(model_inputs(DATA.train.images[INDICES], DATA, SIZE)).double().numpy()
    wanted = 0.0
    for x, label in zip(seen, DATA.train.labels[INDICES] - TASK.first, strict=True):
        x = np.append(x, 1.0)
        jacobian = np.kron(np.eye(2), x)  # logit c in (row 0, bias 0, row 1, bias 1)
        logits = known[head.weight(1)] @ x[:-1] + known[head.bias(1)]
        wanted += literal.fisher(logits, jacobian, label, kind)
    both = np.column_stack([result[fisher_of(head.weight(1))], result[fisher_of(head.bias(1))]])
    near(both.ravel(), wanted)


def test_all_kinds_see_every_array_and_none_is_negative():
    kinds = [report(fisher_pass(TASK, FACTORS, kind)) for kind in ("empirical", "exact", "mammoth")]
    assert kinds[0].keys() == kinds[1].keys() == kinds[2].keys()
    for name in kinds[0]:
        assert all((fisher[name] >= 0).all() and fisher[name].any() for fisher in kinds)
        assert (kinds[2][name] <= kinds[0][name] * (1 + 1e-5)).all()  # p(y|x) is one at most


def test_fisher_of_some_arrays_is_that_part_of_the_fisher_of_all():
    some, everything = report(fisher_pass(TASK, ("blocks.0.*.lora_B",))), report(fisher_pass(TASK, FACTORS))
    assert set(some) == {fisher_of(layer + B) for layer in LINEARS if layer.startswith("blocks.0.")}
    for name, fisher in some.items():
        near(fisher, everything[name])


def test_a_fisher_that_cannot_be_computed_is_a_mistake_in_the_method():
    sent = shapes(arrays())
    with pytest.raises(ValueError, match=r"'\*.prompt' matches no array"):
        Fisher(TASK, ("*.prompt",)).shapes(sent)
    with pytest.raises(ValueError, match=r"the broadcast lacks head\.1\.\*, from which the loss is computed"):
        Fisher(TASK, FACTORS).shapes({name: shape for name, shape in sent.items() if head.task_of(name) is None})


def test_output_grams_are_sums_of_outer_products_of_gradients_beside_the_inputs_grams():
    result, wanted = report(gradient_pass(TASK, InputGram())), dict.fromkeys(LINEARS, 0.0)
    for _, outputs, _ in samples():
        wanted = {layer: total + outputs[layer].T @ outputs[layer] for layer, total in wanted.items()}
    assert result[SAMPLES] == len(INDICES)
    for layer in LINEARS:
        near(packed.whole(result[output_gram(layer)]), wanted[layer])
        assert result[input_gram(layer)].any()


@pytest.mark.parametrize("kind", ["fisher", "gradients"])
def test_they_do_not_depend_on_the_batch_and_add_over_clients(kind):
    one = fisher_pass(TASK, WHOLE_WEIGHTS) if kind == "fisher" else gradient_pass(TASK)
    small, large = report(one, batch=1), report(one, batch=8)
    parts = [report(one, indices=part) for part in (INDICES[:3], INDICES[3:])]
    assert small, "something is reported"
    assert all(each.keys() == small.keys() for each in (large, *parts))
    for name in small:
        near(small[name], large[name])
        near(parts[0][name] + parts[1][name], small[name])


@pytest.mark.parametrize("one", [fisher_pass(TASK, WHOLE_WEIGHTS), fisher_pass(TASK, FACTORS), gradient_pass(TASK)])
def test_what_arrives_has_the_shapes_that_were_declared(one):
    declared = [statistic.shapes(shapes(arrays())) for statistic in one.statistics]
    assert shapes(report(one)) == {name: shape for each in declared for name, shape in each.items()}


def test_nothing_of_the_pass_stays_on_the_model():
    adapted, seen = model(Lora(2)), client_data(DATA, INDICES)
    at = phase(kind="report", task=TASK)
    run_client(Reporter(gradient_pass(TASK)), adapted, seen, Train(), at, Broadcast(arrays()), 0, {})
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in adapted.network.modules())
