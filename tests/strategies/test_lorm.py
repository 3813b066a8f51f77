"""LoRM's server half against the literal equations, from updates that are made of explicit inputs X_i."""

from dataclasses import replace

import numpy as np
import pytest
import reference
from small import BACKBONE, LINEARS, WIDTH, dense, model, phase

from fcil.arrays import symmetric_half, total
from fcil.errors import ConfigError
from fcil.method import Broadcast, ClientUpdate, Task
from fcil.model.lora import A, B
from fcil.registry import build_method
from fcil.statistics.inputs import (
    HeadGram,
    InputEnergy,
    InputGram,
    InputSketch,
    ProjectedGram,
    head_gram,
    input_energy,
    input_gram,
    input_sketch,
    projected_gram,
)
from strategies.lorm import LoRM

CLIENTS, TOKENS, RANK = 3, 200, 3
TASKS = [Task(0, 0, 2), Task(1, 2, 3), Task(2, 5, 1)]


def started(method, seed=0, task=TASKS[0], state=None):
    """A state at the start of a task, with a B that is not zero, so that nothing cancels by chance."""
    rng = np.random.default_rng(seed)
    if state is None:
        state = method.init(BACKBONE, 6, seed)
    state = method.begin(state, phase(task=task, seed=seed), BACKBONE)
    module = {
        n: a if n.endswith(A) else rng.normal(0, 0.3, a.shape).astype(np.float32) for n, a in state["module"].items()
    }
    return {**state, "module": module}


def synthetic(method, state, at, seed):
    """Updates with random factors, and the inputs from which their statistics are computed, literally, here."""
    rng = np.random.default_rng([seed, at.round, at.task.index])
    local = method.local(at)
    sent = method.broadcast(state, at).arrays
    updates, inputs, features = [], [], []
    for client in range(CLIENTS):
        scale = np.exp(rng.normal(0, 1, WIDTH * 2))
        xs = {
            layer: rng.standard_normal((shape[1], TOKENS)) * scale[: shape[1], None] for layer, shape in LINEARS.items()
        }
        f = rng.standard_normal((WIDTH, TOKENS)) * scale[:WIDTH, None]
        arrays = {
            n: (sent[n] + rng.normal(0, 0.3, sent[n].shape)).astype(np.float32) for n in local.trained(list(sent))
        }
        statistics = {}
        for each in local.passes:
            for s in each.statistics:
                for layer, x in xs.items():
                    g = reference.gram(x)
                    if isinstance(s, InputEnergy):
                        statistics[input_energy(layer)] = np.diag(g).astype(np.float32)
                    elif isinstance(s, InputGram):
                        statistics[input_gram(layer)] = symmetric_half(g).astype(np.float32)
                    elif isinstance(s, InputSketch):
                        values, vectors = np.linalg.eigh(g)  # the best k rows there are, and the diagonal
                        top = (vectors * np.sqrt(np.maximum(values, 0)))[:, -s.rows :].T
                        statistics[input_sketch(layer)] = top.astype(np.float32)
                        statistics[input_energy(layer)] = np.diag(g).astype(np.float32)
                    elif isinstance(s, ProjectedGram):
                        a = sent[layer + A].astype(np.float64)
                        kept = reference.shrunk(g, s.shrink if s.kind == "exact" else 0)
                        statistics[projected_gram(layer)] = symmetric_half(a @ kept @ a.T).astype(np.float32)
                if isinstance(s, HeadGram):
                    g = reference.shrunk(reference.gram(f), s.amount)
                    half = np.diag(g) if s.amount == 0 else symmetric_half(g)
                    statistics[head_gram(s.task)] = half.astype(np.float32)
        updates.append(ClientUpdate(client, at.index, 10 * (client + 1), arrays, statistics))
        inputs.append(xs)
        features.append(f)
    return updates, inputs, features


def close(mine, literal, tolerance=2e-4):
    assert mine.dtype == np.float32
    np.testing.assert_allclose(mine, literal, rtol=tolerance, atol=tolerance * np.abs(literal).max())


@pytest.mark.parametrize("kind", ["exact", "diagonal"])
def test_b_round(kind):
    method = LoRM(rank=RANK, gram_b=kind)
    state = started(method)
    updates, inputs, _ = synthetic(method, state, phase(1), 0)
    merged = method.merge(state, phase(1), updates)
    for layer in LINEARS:
        a, bs = state["module"][layer + A].astype(np.float64), [u.arrays[layer + B] for u in updates]
        xs = [x[layer] for x in inputs]
        close(merged["module"][layer + B], reference.lorm_b(bs, a, xs, diagonal=kind == "diagonal"))
        if kind == "exact":
            close(merged["module"][layer + B], reference.least_squares_b(bs, a, xs))
        np.testing.assert_array_equal(merged["module"][layer + A], state["module"][layer + A])


@pytest.mark.parametrize("gram_a", ["diagonal", "full", "sketch:8"])
@pytest.mark.parametrize("amount", [0.0, 0.3, 0.9, 1.0])
def test_shrunk_grams_of_a_b_round(amount, gram_a):
    """G' of a B round is each client's G with its off-diagonals times the factor, whatever stands for G in A rounds."""
    method = LoRM(rank=RANK, gram_a=gram_a, gram_b="exact", gram_shrink=amount)
    state = started(method)
    updates, inputs, _ = synthetic(method, state, phase(1), 0)
    merged = method.merge(state, phase(1), updates)["module"]
    for layer in LINEARS:
        a, bs = state["module"][layer + A].astype(np.float64), [u.arrays[layer + B] for u in updates]
        grams = [a @ reference.shrunk(reference.gram(x[layer]), amount) @ a.T for x in inputs]
        close(merged[layer + B], reference.match(bs, grams))


def test_a_client_sums_shrunk_grams_where_off_diagonals_are_used_at_all():
    for amount in (0.0, 0.4, 1.0):
        exact = LoRM(rank=RANK, gram_b="exact", gram_shrink=amount).local(phase(1)).passes[0].statistics
        assert ProjectedGram("exact", amount) in exact
        plain = LoRM(rank=RANK, gram_a="full", gram_shrink=amount).local(phase(1)).passes[0].statistics
        assert [s.kind for s in plain if isinstance(s, ProjectedGram)] == ["diagonal"]


def test_a_shrinkage_of_diagonals_alone_is_refused():
    with pytest.raises(ConfigError, match=r"method.gram_shrink = 0.5: gram_a and gram_b are diagonals.*leave it out"):
        LoRM(rank=RANK, gram_shrink=0.5)


@pytest.mark.parametrize("gram_a", ["diagonal", "full", "sketch:64", "sketch:100"])
def test_a_round(gram_a):
    """A sketch with as many rows as the widest layer has inputs says as much as the whole Gram."""
    method = LoRM(rank=RANK, gram_a=gram_a)
    state = started(method)
    updates, inputs, _ = synthetic(method, state, phase(2), 0)
    merged = method.merge(state, phase(2), updates)
    for layer in LINEARS:
        xs, as_ = [x[layer] for x in inputs], [u.arrays[layer + A] for u in updates]
        close(merged["module"][layer + A], reference.lorm_a(as_, xs, diagonal=gram_a == "diagonal"))
        if gram_a != "diagonal":
            b = np.random.default_rng(0).standard_normal((RANK, RANK))
            close(merged["module"][layer + A], reference.least_squares_a(as_, b, xs), 1e-3)
        np.testing.assert_array_equal(merged["module"][layer + B], state["module"][layer + B])


@pytest.mark.parametrize("gram_a", ["full", "sketch:100"])
def test_shrunk_grams_of_an_a_round(gram_a):
    """Each client's own; shrunk to nothing they are the diagonals."""
    for amount in (0.0, 0.7):
        method = LoRM(rank=RANK, gram_a=gram_a, gram_shrink=amount)
        state = started(method)
        updates, inputs, _ = synthetic(method, state, phase(2), 0)
        merged = method.merge(state, phase(2), updates)["module"]
        for layer in LINEARS:
            grams = [reference.shrunk(reference.gram(x[layer]), amount) for x in inputs]
            close(merged[layer + A], reference.match([u.arrays[layer + A] for u in updates], grams))
            if amount == 0:
                xs, as_ = [x[layer] for x in inputs], [u.arrays[layer + A] for u in updates]
                close(merged[layer + A], reference.lorm_a(as_, xs, diagonal=True))


def test_a_small_sketch_lies_between_the_diagonal_and_the_whole():
    """In the response error that all three try to make small."""
    errors = {}
    for gram_a in ("diagonal", "sketch:16", "sketch:32", "full"):
        method = LoRM(rank=RANK, gram_a=gram_a)
        state = started(method)
        updates, inputs, _ = synthetic(method, state, phase(2), 0)
        merged = method.merge(state, phase(2), updates)
        errors[gram_a] = sum(
            reference.response_error(
                merged["module"][layer + A], [u.arrays[layer + A] for u in updates], [x[layer] for x in inputs]
            )
            for layer in LINEARS
        )
    assert errors["full"] < errors["sketch:32"] < errors["sketch:16"] < errors["diagonal"]


@pytest.mark.parametrize(("order", "factors"), [("BA", "BABAB"), ("AB", "ABABA"), ("B", "BBBBB"), ("A", "AAAAA")])
def test_train_order(order, factors):
    """The first factor starts at zero, so that a task begins at W0 and its gradient is not zero."""
    rates = {"lr_a": 0.25, "lr_b": 0.5}
    method = LoRM(rank=RANK, train_order=order, **{key: lr for key, lr in rates.items() if key[-1].upper() in order})
    state = method.begin(method.init(BACKBONE, 6, 0), phase(), BACKBONE)
    first, other = (A, B) if factors[0] == "A" else (B, A)
    for layer in LINEARS:
        assert not state["module"][layer + first].any()
        assert state["module"][layer + other].all()
    for round, letter in enumerate(factors, 1):
        local = method.local(phase(round))
        names = local.trained([*state["module"], "head.0.weight"])
        assert {n[-1] for n in names if ".lora_" in n} == {letter}
        assert local.lr == {f"*.lora_{letter}": {"A": 0.25, "B": 0.5}[letter]}
        updates, inputs, _ = synthetic(method, state, phase(round), round)
        before, state = state, method.merge(state, phase(round), updates)
        merged = state["module"]
        for layer in LINEARS:
            trained, kept = (layer + A, layer + B) if letter == "A" else (layer + B, layer + A)
            np.testing.assert_array_equal(merged[kept], before["module"][kept])
            thetas, xs = [u.arrays[trained] for u in updates], [x[layer] for x in inputs]
            if letter == "A":
                close(merged[trained], reference.lorm_a(thetas, xs, diagonal=True))
            else:
                a = before["module"][layer + A].astype(np.float64)
                close(merged[trained], reference.lorm_b(thetas, a, xs, diagonal=True), 1e-3)


def test_a_misspelt_gram_is_refused_with_its_forms():
    with pytest.raises(
        ConfigError, match=r'gram_a \(lorm\) = .sketch:0.: must be "diagonal" or "full" or "sketch:<k>"'
    ):
        build_method("lorm", {"gram_a": "sketch:0"})


@pytest.mark.parametrize("amount", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("round", [1, 2])
def test_head_rows_match_responses_and_biases_are_a_mean_over_examples(amount, round):
    method = LoRM(rank=RANK, head_gram_shrink=amount)
    state = started(method)
    updates, _, features = synthetic(method, state, phase(round), 0)
    merged = method.merge(state, phase(round), updates)
    close(
        merged["head"]["head.0.weight"],
        reference.lorm_head([u.arrays["head.0.weight"] for u in updates], features, amount),
    )
    biases, counts = [u.arrays["head.0.bias"] for u in updates], [u.num_examples for u in updates]
    close(merged["head"]["head.0.bias"], reference.fedavg(biases, counts), 1e-6)


def test_rounds_alternate_beginning_with_b_in_every_task_and_end_with_a_report():
    method = LoRM(rank=RANK)
    for task in TASKS:
        assert method.phases(task, 5) == ("train",) * 5 + ("report",)
        for round in range(1, 6):
            sent = [*started(method)["module"], f"head.{task.index}.weight"]
            at = phase(round, task=task, index=7 * task.index + round - 1)
            names = method.local(at).trained(sent)
            factor, other = (B, A) if round in (1, 3, 5) else (A, B)
            assert {n for n in names if ".lora_" in n} == {layer + factor for layer in LINEARS}
            assert not any(n.endswith(other) for n in names)
            assert f"head.{task.index}.weight" in names
        assert method.local(phase(6, "report", task)).trains == ()


def test_a_task_begins_with_b_zero_and_a_kaiming_uniform():
    state = LoRM(rank=RANK).begin({}, phase(), BACKBONE)
    for layer, (_, width) in LINEARS.items():
        assert not state["module"][layer + B].any()
        a = state["module"][layer + A]
        assert a.shape == (RANK, width)
        assert 0.8 / np.sqrt(width) < np.abs(a).max() <= 1 / np.sqrt(width)


def whole_run(method, rounds=2):
    """Three tasks; yields (phase, state before, state after, updates, inputs)."""
    state, index = None, 0
    for task in TASKS:
        state = started(method, seed=task.index, task=task, state=state)
        for round, kind in enumerate(method.phases(task, rounds), 1):
            at = phase(round, kind, task, index)
            updates, inputs, _ = synthetic(method, state, at, 7)
            after = method.merge(state, at, updates)
            yield at, state, after, updates, inputs
            state, index = after, index + 1


@pytest.mark.parametrize(
    ("gram_model", "gram_a", "shrink"),
    [
        ("deployed", "diagonal", 1.0),
        ("own", "diagonal", 1.0),
        ("deployed", "full", 1.0),
        ("own", "sketch:64", 1.0),
        ("deployed", "full", 0.6),
    ],
)
def test_three_tasks(gram_model, gram_a, shrink):
    """Deployed weights are the dense formula at each task's end, and the mean over tasks between rounds."""
    method = LoRM(rank=RANK, gram_model=gram_model, gram_a=gram_a, gram_shrink=shrink)
    pairs, energies, heads = [], [], {}
    for at, before, after, _, inputs in whole_run(method):
        deployed = method.deploy(after, at)
        for name, rows in heads.items():
            np.testing.assert_array_equal(deployed[name], rows)
            np.testing.assert_array_equal(after["head"][name], rows)
        modules = [*pairs, after["module"]]
        if at.kind == "report":
            pairs.append(after["module"])
            energies.append(inputs)
            heads = {n: a.copy() for n, a in after["head"].items()}
            modules = pairs
        for layer in LINEARS:
            each = [(m[layer + B].astype(np.float64), m[layer + A].astype(np.float64)) for m in modules]
            if at.kind == "report":
                each_gram = [[reference.gram(x[layer]) for x in of_task] for of_task in energies]
                grams = [reference.shrunk(sum(of_task), shrink) for of_task in each_gram]
                literal = reference.lorm_tasks(each, [np.diag(g) for g in grams] if gram_a == "diagonal" else grams)
            else:
                literal = reference.mean_of_tasks(each)
            np.testing.assert_allclose(dense(deployed, layer), literal, rtol=1e-4, atol=1e-4 * np.abs(literal).max())
            assert deployed[layer + A].shape[0] == RANK * (at.task.index + 1)
        assert all(a.dtype == np.float32 for a in deployed.values())
        sent = method.broadcast(before, at)
        assert set(sent.arrays) >= {layer + f for layer in LINEARS for f in (A, B)}
        assert bool(sent.references) == (gram_model == "deployed" and at.task.index > 0)
    assert sorted(after["head"]) == sorted(f"head.{t}.{p}" for t in range(3) for p in ("weight", "bias"))


def test_task_merge_by_mean_needs_no_report():
    method = LoRM(rank=RANK, task_merge="mean")
    pairs = []
    for at, _, after, *_ in whole_run(method):
        assert at.kind == "train"
        deployed = method.deploy(after, at)
        if at.round == 2:
            pairs.append(after["module"])
            for layer in LINEARS:
                each = [(m[layer + B].astype(np.float64), m[layer + A].astype(np.float64)) for m in pairs]
                literal = reference.mean_of_tasks(each)
                np.testing.assert_allclose(dense(deployed, layer), literal, rtol=1e-4, atol=1e-6)
    assert len(pairs) == len(TASKS)


@pytest.mark.parametrize("gram_a", ["diagonal", "full", "sketch:8"])
@pytest.mark.parametrize("gram_b", ["exact", "diagonal"])
def test_sums_of_groups_add_up_to_the_sums_of_all(gram_a, gram_b):
    method = LoRM(rank=RANK, gram_a=gram_a, gram_b=gram_b)
    for at, before, _, updates, _ in whole_run(method):
        broadcast = method.broadcast(before, at)
        whole = method.sums(at, broadcast, updates)
        parts = [method.sums(at, broadcast, updates[:1]), method.sums(at, broadcast, updates[1:])]
        assert all(a.dtype == np.float64 for a in whole.values())
        added = total(parts)
        for name, a in whole.items():
            np.testing.assert_allclose(added[name], a, rtol=1e-12, atol=1e-12 * np.abs(a).max())


@pytest.mark.parametrize("gram_a", ["diagonal", "full"])
def test_layers_without_any_input_keep_their_module_and_nothing_is_nan(gram_a):
    """A layer whose inputs are all zero says nothing: A keeps the round's start, and its task no delta W."""
    method = LoRM(rank=RANK, gram_a=gram_a, gram_b="exact")
    for at, before, _, updates, _ in whole_run(method):
        dead = "blocks.1.mlp.fc2"
        mute = [
            replace(u, statistics={n: np.zeros_like(a) if n.startswith(dead) else a for n, a in u.statistics.items()})
            for u in updates
        ]
        after = method.merge(before, at, mute)
        deployed = method.deploy(after, at)
        assert all(np.isfinite(a).all() for group in after.values() for a in group.values())
        assert all(np.isfinite(a).all() for a in deployed.values())
        if at.kind == "report":
            assert not dense(deployed, dead).any()
            return
        for factor in (A, B):
            np.testing.assert_array_equal(after["module"][dead + factor], before["module"][dead + factor])


def test_after_the_first_task_the_deployed_model_is_its_own_module():
    method = LoRM(rank=RANK)
    for at, _, after, *_ in whole_run(method):
        if at.kind == "report":
            deployed = method.deploy(after, at)
            for layer in LINEARS:
                np.testing.assert_allclose(dense(deployed, layer), dense(after["module"], layer), rtol=1e-5, atol=1e-6)
            return


@pytest.mark.parametrize("gram_model", ["deployed", "own"])
def test_model_of_the_grams(gram_model):
    """`own` is W0 + B A as trained; `deployed` is W0 + the mean of all tasks' modules with the client's own in it."""
    method = LoRM(rank=RANK, gram_model=gram_model)
    past = []
    for at, before, after, updates, _ in whole_run(method):
        sent = method.broadcast(before, at)
        model_arrays = {**sent.arrays, **updates[1].arrays}
        for each in method.local(at).passes:
            assert (each.transform, each.repeats) == ("train", 1)
            seen = each.model(model_arrays, sent.references)
            model(method.adapter).load(seen)
            modules = [*past, model_arrays] if gram_model == "deployed" else [model_arrays]
            for layer in LINEARS:
                literal = reference.mean_of_tasks([(m[layer + B].astype(np.float64), m[layer + A]) for m in modules])
                np.testing.assert_allclose(dense(seen, layer), literal, rtol=1e-4, atol=1e-6)
        if at.kind == "report":
            past.append(after["module"])


def test_identical_clients_and_partial_participation():
    """Copies of one client are that client; a client that was not drawn in a round leaves no trace in it."""
    method = LoRM(rank=RANK, gram_b="exact")
    state = started(method)
    for at in (phase(1), phase(2)):
        updates, *_ = synthetic(method, state, at, 1)
        one = updates[0]
        merged = method.merge(state, at, [one, one, one])
        for name, a in one.arrays.items():
            close({**merged["module"], **merged["head"]}[name], a, 1e-5)
        two = method.merge(state, at, updates[:2])
        ghost = ClientUpdate(
            2, at.index, 0, updates[2].arrays, {n: np.zeros_like(a) for n, a in updates[2].statistics.items()}
        )
        three = method.merge(state, at, [*updates[:2], ghost])
        for name in one.arrays:
            group = "head" if name.startswith("head") else "module"
            np.testing.assert_array_equal(three[group][name], two[group][name])


def test_traffic_is_halves_and_vectors():
    shapes = {n: a.shape for n, a in Broadcast({**started(LoRM(rank=RANK))["module"]}).arrays.items()}
    shapes["head.0.weight"] = (2, WIDTH)
    for round, wanted in ((1, RANK * (RANK + 1) // 2), (2, None)):
        for s in LoRM(rank=RANK, gram_b="exact").local(phase(round)).passes[0].statistics:
            for name, shape in s.shapes(shapes).items():
                if name == head_gram(0):
                    assert shape == (WIDTH * (WIDTH + 1) // 2,)
                else:
                    assert shape == (wanted or LINEARS[name.removesuffix(".input_energy")][1],)
