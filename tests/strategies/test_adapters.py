"""Every merge with every adapter: changes of weights are merged, whatever the arrays are that make them."""

import numpy as np
import pytest
from changes import change
from small import BACKBONE, phase

from fcil.arrays import symmetric_half
from fcil.battery import examine, trial_of
from fcil.errors import ConfigError
from fcil.merging.expert import Expert
from fcil.merging.lowrank import Dense
from fcil.merging.lowrank import dense as product
from fcil.method import ClientUpdate, Modules, Phase, Task, head
from fcil.model.weight_adapter import DELTA, PARAMETER
from fcil.registry import build_method, method_class, method_names
from fcil.statistics.gradients import SAMPLES, fisher_of, output_gram
from fcil.statistics.inputs import input_gram
from strategies._merging import MergeMethod

MERGES = sorted(name for name in method_names() if issubclass(method_class(name), MergeMethod))
OTHERS = {
    "full": "full",
    "snell": "snell(sparsity = 0.5)",
    "snella": "snella(sparsity = 0.5)",
    "dense snella": 'snella(competition = "none")',
}
"""Adapters whose changes have no small factors, by name."""
LOFTQ = "loftq(bits = 2, iterations = 2)"
TASKS = [Task(0, 0, 2), Task(1, 2, 2), Task(2, 4, 2)]
COUNTS = [5, 2, 9]


def statistics_of(rng, layer, out, width):
    x, g = rng.normal(size=(width, 4 * width)), rng.normal(size=(out, 4 * out))
    return {
        input_gram(layer): symmetric_half(x @ x.T),
        output_gram(layer): symmetric_half(g @ g.T),
        fisher_of(layer + DELTA): rng.uniform(0.1, 1, (out, width)),
        SAMPLES: np.array([3.0]),
    }


@pytest.mark.parametrize("name", [name for name in MERGES if name != "core_space"])
def test_a_merge_does_not_depend_on_how_a_change_is_written(name):
    """The products of the same changes, given as factors and as whole matrices, are merged to the same weights."""
    rng, method = np.random.default_rng(0), build_method(name, {})
    pairs = [{"layer": change(rng, 9, 7, 2), "wide": change(rng, 6, 11, 2)} for _ in range(3)]
    told = [statistics_of(rng, "layer", 9, 7) | statistics_of(rng, "wide", 6, 11) for _ in pairs]

    def merged(write):
        experts = [
            Expert({layer: write(c) for layer, c in p.items()}, w, s, i)
            for i, (p, w, s) in enumerate(zip(pairs, (3.0, 5.0, 2.0), told, strict=True))
        ]
        draw = lambda *purpose: np.random.default_rng(abs(hash(purpose)) % 2**32)  # noqa: E731
        return {layer: product(c) for layer, c in method.combine(experts, draw)}

    in_factors, whole = merged(lambda c: c), merged(lambda c: Dense(product(c)))
    for layer, wanted in in_factors.items():
        assert np.abs(wanted).max() > 0
        np.testing.assert_allclose(whole[layer], wanted, atol=1e-6 * np.abs(wanted).max())


def round_of(number, task=TASKS[0], rounds=3):
    """A round of one of three tasks, each of so many rounds."""
    return Phase(3 * task.index + number - 1, "train", task, number, 0, rounds - number, len(TASKS) - task.index - 1)


def begun(method, at=None):
    at = at or round_of(1)
    return method.begin(method.init(BACKBONE, 6, 0), at, BACKBONE)


def trained(method, state, at, seed=0, counts=COUNTS):
    """Updates with every trained array moved a little, and the statistics that are asked for."""
    rng, acting = np.random.default_rng(seed), method.acting(at)
    sent = acting.broadcast(state, at)
    local = acting.local(at)
    names = local.trained(list(sent.arrays))
    shapes = local.reported({n: a.shape for n, a in sent.arrays.items()})
    return [
        ClientUpdate(
            i, at.index, n,
            {k: (sent.arrays[k] + rng.normal(0, 0.05, sent.arrays[k].shape)).astype(np.float32) for k in names},
            {name: rng.uniform(0.1, 1, shape).astype(np.float32) for name, shape in shapes.items()},
        )
        for i, n in enumerate(counts)
    ]  # fmt: skip


def weights_of(method, arrays):
    return {layer: product(c) for layer, c in method.adapter.changes(arrays).items()}


@pytest.mark.parametrize("adapter", OTHERS.values(), ids=OTHERS)
def test_a_round_moves_the_weights_by_the_mean_of_the_clients_changes(adapter):
    method = build_method("task_arithmetic", {"rank": 4, "adapter": adapter, "at": "round"})
    state = begun(method)
    for number in (1, 2):  # the second begins with weights that have moved
        at = round_of(number)
        before, updates = Modules.of(state).module, trained(method, state, at, number)
        state = method.merge(state, at, updates)
        share = np.array(COUNTS) / sum(COUNTS)
        clients = [weights_of(method, {**before, **u.arrays}) for u in updates]
        for layer, now in weights_of(method, Modules.of(state).module).items():
            mean = sum(s * c[layer] for s, c in zip(share, clients, strict=True))
            np.testing.assert_allclose(now, mean, atol=2e-7 * np.abs(mean).max() + 1e-7)
        averaged = head.weight(0)
        mean = sum(s * u.arrays[averaged].astype(float) for s, u in zip(share, updates, strict=True))
        np.testing.assert_allclose(state["head"][averaged], mean, atol=1e-6)


FACTORS = {"task_arithmetic": 1.0, "magmax": 0.5, "regmean": 1.0, "fisher": 1.0}
"""What a merge makes of tasks that all made one change: that change times a factor."""


@pytest.mark.parametrize("adapter", [*OTHERS.values(), LOFTQ], ids=[*OTHERS, "loftq"])
@pytest.mark.parametrize("name", FACTORS)
def test_tasks_are_merged_as_changes_from_their_common_start(name, adapter):
    method = build_method(name, {"rank": 4, "adapter": adapter, "start": "fresh"})
    state, starts, index = method.init(BACKBONE, 6, 0), [], 0
    for task in TASKS:
        for number, kind in enumerate(kinds := method.phases(task, 2), 1):
            at = Phase(index, kind, task, number, 0, len(kinds) - number, len(TASKS) - task.index - 1)
            if number == 1:
                state = method.begin(state, at, BACKBONE)
                starts.append(weights_of(method, Modules.of(state).module))
            state = method.merge(state, at, trained(method, state, at, seed=7, counts=[4]))
            index += 1
    deployed = method.deploy(state, at)
    for layer, now in weights_of(method, deployed).items():
        assert all(np.array_equal(starts[0][layer], s[layer]) for s in starts)
        moved = weights_of(method, Modules.of(state).module)[layer] - starts[0][layer]
        assert np.abs(moved).max() > 0
        np.testing.assert_allclose(now - starts[0][layer], FACTORS[name] * moved, atol=1e-5 * np.abs(moved).max())


def test_parameters_that_are_no_matrices_are_merged_entry_by_entry_or_averaged():
    rng = np.random.default_rng(3)
    for name in ("magmax", "tsv"):
        method = build_method(name, {"adapter": "full", "start": "fresh"})
        state = method.init(BACKBONE, 6, 0)
        for task in TASKS:
            at = phase(task=task, index=task.index)
            state = method.begin(state, at, BACKBONE)
            state = method.merge(state, at, trained(method, state, at, seed=int(rng.integers(99)), counts=[4]))
        tasks = Modules.of(state).all_tasks
        deployed = method.deploy(state, at)
        for key in (n for n in tasks[0] if n.startswith(PARAMETER)):
            each = np.array([module[key] for module in tasks], np.float64)
            largest = np.where(each.max(0) >= -each.min(0), each.max(0), each.min(0))
            expected = 0.5 * largest if name == "magmax" else each.mean(0)
            np.testing.assert_allclose(deployed[key], expected, rtol=1e-6, atol=1e-9)


RUNS = [
    ("fedavg", {}), ("ties", {"at": "both"}),
    pytest.param("regmean", {"at": "both"}, marks=pytest.mark.slow), pytest.param("joint", {}, marks=pytest.mark.slow),
]  # fmt: skip


@pytest.mark.parametrize(("name", "settings"), RUNS, ids=["fedavg", "ties", "regmean", "joint"])
@pytest.mark.parametrize("adapter", [*OTHERS.values(), LOFTQ, "head"], ids=[*OTHERS, "loftq", "head"])
def test_the_contract_holds_with_every_adapter(name, settings, adapter):
    if adapter == "head" and name not in ("fedavg", "joint"):
        with pytest.raises(ConfigError, match="change no weights to merge"):
            build_method(name, {"adapter": adapter})
        return
    results = list(examine(trial_of(name, {**settings, "adapter": adapter})))
    assert not [r for r in results if r.outcome == "fails"]
    assert sum(r.outcome == "holds" for r in results) >= 8


def test_fisher_averages_every_parameter_of_full_tuning():
    results = list(examine(trial_of("fisher", {"adapter": "full", "at": "both"})))
    assert not [r for r in results if r.outcome == "fails"]
    method = build_method("fisher", {"adapter": "full", "at": "round"})
    state, at = begun(method), phase()
    updates = trained(method, state, at)
    merged = method.merge(state, at, updates)
    for name, now in Modules.of(merged).module.items():
        fishers = [u.statistics[fisher_of(name)].astype(float) for u in updates]
        mean = sum(f * u.arrays[name] for f, u in zip(fishers, updates, strict=True)) / sum(fishers)
        np.testing.assert_allclose(now, mean, atol=1e-5 * np.abs(mean).max())


@pytest.mark.parametrize("name", ["lorm", "rolora", "ffa", "flora", "flexlora", "fedex"])
def test_methods_of_factors_refuse_other_adapters_with_the_reason(name):
    with pytest.raises(ConfigError, match=r"method\.adapter \(\w+\) = 'full': .*factor"):
        build_method(name, {"adapter": "full"})


def test_an_adapter_is_written_like_a_method_and_mistakes_are_told():
    assert build_method("ties", {}).adapter == build_method("ties", {"adapter": "lora"}).adapter
    for text, told in {
        "lroa": "Did you mean 'lora'", "lora(rank = 4)": "leave out rank", "lora(alpha = 4)": "no setting 'alpha'",
        "head(rows = 2)": "no setting", "lora(": "write an adapter",
    }.items():  # fmt: skip
        with pytest.raises(ConfigError, match=told.replace("(", r"\(")):
            build_method("fedavg", {"adapter": text})
    with pytest.raises(ConfigError, match="spanned by LoRA's factors"):
        build_method("core_space", {"adapter": "full"})
    with pytest.raises(ConfigError, match="masks"):
        build_method("emr", {"adapter": "full", "router": True})


def test_factors_averaged_by_fisher_leave_no_room_for_merged_changes():
    """Array by array nothing is left over that would have to be sent beside the points."""
    settings = {"of": "factors", "rank": 4, "adapter": "snell(sparsity = 0.5)"}
    assert not any(n.endswith(DELTA) for n in begun(build_method("fisher", {**settings, "at": "round"}))["module"])
    whole = build_method("fisher", {**settings, "of": "weights", "at": "round"})
    assert any(n.endswith(DELTA) for n in begun(whole)["module"])
