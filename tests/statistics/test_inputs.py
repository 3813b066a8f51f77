"""Statistics against literal sums over the inputs that layers really see, captured by hooks of the test's own."""

import numpy as np
import pytest
import reference
import torch
from small import BACKBONE, LINEARS, WIDTH, client_data, dataset, model, phase

from fcil.arrays import symmetric_half
from fcil.client.settings import Train
from fcil.client.training import run_client
from fcil.merging import packed
from fcil.method import Broadcast, Local, Method, Pass, head
from fcil.model.lora import A, Lora
from fcil.statistics.inputs import (
    HeadGram,
    InputEnergy,
    InputGram,
    InputSketch,
    ProjectedGram,
    gram_of_sketch,
    head_gram,
    input_energy,
    input_gram,
    input_sketch,
    projected_gram,
)

RANK = 3
DATA = dataset()


def arrays_of(seed=0):
    """A module that does something (B is not zero), and two head rows."""
    rng = np.random.default_rng(seed)
    module = Lora(RANK).initial(BACKBONE, lambda _: rng)
    module = {n: a if n.endswith(A) else rng.normal(0, 0.2, a.shape).astype(np.float32) for n, a in module.items()}
    return {**module, **head.new_rows(phase().task, WIDTH, rng)}


class Reporter(Method):
    """Trains nothing and reports what it is given."""

    def __init__(self, *passes):
        object.__setattr__(self, "passes", passes)

    def local(self, phase):
        return Local(passes=self.passes)


def report(adapted, arrays, *passes, indices=range(20), references=None, batch=3):
    broadcast = Broadcast(arrays, references or {})
    train = Train(batch=batch)
    return run_client(
        Reporter(*passes), adapted, client_data(DATA, indices), train, phase(kind="report"), broadcast, 0, {}
    ).statistics


def captured(adapted, arrays, indices=range(20)):
    """X of every layer, (in, tokens), and the features, (width, samples), through plain torch hooks."""
    inputs = {}
    adapted.load(arrays)
    hooks = [
        adapted.network.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: inputs.__setitem__(name, args[0].float().flatten(0, -2).double().numpy().T)
        )
        for name in LINEARS
    ]
    images = next(client_data(DATA, indices).batches(len(indices), np.arange(len(indices)), None))[0]
    with torch.no_grad():
        features = adapted.features(images).double().numpy().T
    for hook in hooks:
        hook.remove()
    return inputs, features


def close(left, right, tolerance=1e-5):
    np.testing.assert_allclose(left, right, rtol=tolerance, atol=tolerance * np.abs(right).max())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_sums_are_those_over_captured_inputs(precision):
    """In half precision too: what is summed is what the layer saw, and the sums themselves are not rounded to bf16."""
    adapted, arrays = model(Lora(RANK), precision), arrays_of()
    # one batch of all 20, as in `captured`: in bf16 the inputs themselves may depend on how a batch is cut
    wanted = Pass((InputEnergy(), HeadGram(0, 0.5)))
    stats = report(adapted, arrays, wanted, Pass((ProjectedGram("exact"),)), batch=5)
    diagonal = report(adapted, arrays, Pass((ProjectedGram("diagonal"), HeadGram(0, 0))), batch=5)
    inputs, features = captured(adapted, arrays)
    for layer, x in inputs.items():
        g, a = reference.gram(x), arrays[layer + A].astype(np.float64)
        close(stats[input_energy(layer)], np.diag(g))
        close(packed.whole(stats[projected_gram(layer)]), a @ g @ a.T)
        close(packed.whole(diagonal[projected_gram(layer)]), a @ reference.diagonal_only(g) @ a.T)
    close(packed.whole(stats[head_gram(0)]), reference.shrunk(reference.gram(features), 0.5))
    close(diagonal[head_gram(0)], np.diag(reference.gram(features)))
    assert {a.dtype for a in (*stats.values(), *diagonal.values())} == {np.dtype(np.float32)}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_whole_and_sketched_grams_are_those_of_captured_inputs(precision):
    """A sketch with as many rows as inputs says as much as the whole Gram; a smaller one has its exact diagonal."""
    adapted, arrays = model(Lora(RANK), precision), arrays_of()
    whole = report(adapted, arrays, Pass((InputGram(),)), batch=5)
    sketched = report(adapted, arrays, Pass((InputSketch(2 * WIDTH),)), batch=5)
    small = report(adapted, arrays, Pass((InputSketch(4),)), batch=5)
    inputs, _ = captured(adapted, arrays)
    for layer, x in inputs.items():
        g = reference.gram(x)
        close(packed.whole(whole[input_gram(layer)]), g)
        energy = sketched[input_energy(layer)]
        close(packed.whole(gram_of_sketch(sketched[input_sketch(layer)], energy)), g)
        s = small[input_sketch(layer)].astype(np.float64)
        assert s.shape == (4, len(x))
        assert np.linalg.eigvalsh(g - s.T @ s)[0] >= -1e-5 * np.trace(g)
        close(np.diag(packed.whole(gram_of_sketch(s, small[input_energy(layer)]))), np.diag(g))


@pytest.mark.parametrize("amount", [0.0, 0.25, 0.9, 1.0])
def test_projections_of_shrunk_grams_are_those_of_captured_inputs(amount):
    adapted, arrays = model(Lora(RANK)), arrays_of()
    shrunk, whole, diagonal = (
        report(adapted, arrays, Pass((statistic,)), batch=5)
        for statistic in (ProjectedGram("exact", amount), ProjectedGram("exact"), ProjectedGram("diagonal", amount))
    )
    inputs, _ = captured(adapted, arrays)
    for layer, x in inputs.items():
        a, name = arrays[layer + A].astype(np.float64), projected_gram(layer)
        close(packed.whole(shrunk[name]), a @ reference.shrunk(reference.gram(x), amount) @ a.T)
        close(packed.whole(diagonal[name]), a @ reference.diagonal_only(reference.gram(x)) @ a.T)
        ends = {0.0: diagonal, 1.0: whole}.get(amount)
        if ends:
            np.testing.assert_array_equal(shrunk[name], ends[name])
        assert np.linalg.eigvalsh(packed.whole(shrunk[name]))[0] >= -1e-6 * np.trace(packed.whole(shrunk[name]))


STATISTICS = (InputEnergy(), ProjectedGram("exact"), HeadGram(0, 0.5))
EVERY_SUM = (
    *STATISTICS,
    ProjectedGram("diagonal"),
    ProjectedGram("exact", 0.4),
    HeadGram(0, 0),
    HeadGram(0, 1),
    InputGram(),
)


@pytest.mark.parametrize("statistic", EVERY_SUM, ids=str)
def test_they_add_over_batches_clients_and_repeats(statistic):
    adapted, arrays = model(Lora(RANK)), arrays_of()
    whole = report(adapted, arrays, Pass((statistic,)), batch=5)
    for batch in (1, 2, 4):
        for name, a in report(adapted, arrays, Pass((statistic,)), batch=batch).items():
            close(a, whole[name])
    left = report(adapted, arrays, Pass((statistic,)), indices=range(7))
    right = report(adapted, arrays, Pass((statistic,)), indices=range(7, 20))
    twice = report(adapted, arrays, Pass((statistic,), repeats=2))
    for name in whole:
        close(left[name] + right[name], whole[name])
        close(twice[name], 2 * whole[name])


@pytest.mark.parametrize("statistic", [*EVERY_SUM, InputSketch(4), InputSketch(999)], ids=str)
def test_announced_shapes_are_what_arrives(statistic):
    adapted, arrays = model(Lora(RANK)), arrays_of()
    arrived = report(adapted, arrays, Pass((statistic,)))
    announced = statistic.shapes({name: a.shape for name, a in arrays.items()})
    assert {name: a.shape for name, a in arrived.items()} == dict(announced)


def test_energy_is_the_diagonal_and_projections_are_positive_semidefinite():
    adapted, arrays = model(Lora(RANK)), arrays_of()
    stats = report(adapted, arrays, Pass(STATISTICS))
    for layer in LINEARS:
        p = packed.whole(stats[projected_gram(layer)]).astype(np.float64)
        assert np.linalg.eigvalsh(p)[0] >= -1e-6 * np.trace(p)
        assert (stats[input_energy(layer)] >= 0).all()


def test_under_decides_which_model_the_data_are_seen_through():
    adapted, arrays, other = model(Lora(RANK)), arrays_of(), arrays_of(1)
    through = Pass((InputEnergy(), ProjectedGram("exact")), model=lambda mine, references: references)
    stats = report(adapted, arrays, through, references=other, batch=5)
    inputs, _ = captured(adapted, other)
    own, _ = captured(adapted, arrays)
    last = "blocks.1.mlp.fc2"
    close(stats[input_energy(last)], np.diag(reference.gram(inputs[last])))
    assert np.abs(np.diag(reference.gram(own[last])) / stats[input_energy(last)] - 1).max() > 0.01
    a = arrays[last + A].astype(np.float64)  # the A that is projected on stays the client's own
    close(packed.whole(stats[projected_gram(last)]), a @ reference.gram(inputs[last]) @ a.T)


def test_under_may_take_the_adapter_away_and_sees_what_the_client_trained():
    adapted, arrays = model(Lora(RANK)), arrays_of()
    seen = []

    def bare(mine, references):
        seen.append(mine)
        return {name: a for name, a in mine.items() if name.startswith("head")}

    stats = report(adapted, arrays, Pass((InputEnergy(),), model=bare), batch=5)
    inputs, _ = captured(adapted, {})
    close(stats[input_energy("blocks.1.mlp.fc1")], np.diag(reference.gram(inputs["blocks.1.mlp.fc1"])))
    np.testing.assert_array_equal(seen[0]["blocks.0.attn.qkv" + A], arrays["blocks.0.attn.qkv" + A])


def test_test_transform_sees_images_as_they_are_and_train_transform_augments_anew_in_each_pass():
    adapted, arrays = model(Lora(RANK)), arrays_of()
    layer = input_energy("blocks.1.mlp.fc1")
    once = report(adapted, arrays, Pass((InputEnergy(),), transform="train"))[layer]
    twice = report(adapted, arrays, Pass((InputEnergy(),), transform="train", repeats=2))[layer]
    plain = report(adapted, arrays, Pass((InputEnergy(),)))[layer]
    assert np.abs(once / plain - 1).max() > 1e-3
    assert np.abs(twice / (2 * once) - 1).max() > 1e-4
    np.testing.assert_array_equal(once, report(adapted, arrays, Pass((InputEnergy(),), transform="train"))[layer])


def test_several_statistics_of_a_layer_share_a_pass_and_no_hook_stays():
    adapted, arrays = model(Lora(RANK)), arrays_of()
    together = report(adapted, arrays, Pass(STATISTICS))
    for statistic in STATISTICS:
        for name, a in report(adapted, arrays, Pass((statistic,))).items():
            np.testing.assert_array_equal(a, together[name])
    assert not any(module._forward_pre_hooks for module in adapted.network.modules())


def test_halves_and_wholes_undo_each_other():
    g = reference.gram(np.random.default_rng(0).standard_normal((5, 9)))
    half = symmetric_half(g)
    assert half.shape == (15,)
    np.testing.assert_array_equal(half[:6], [*g[0], g[1, 1]])
    np.testing.assert_array_equal(packed.whole(half), g)
