"""Adapters in methods with a way of their own: settings that must reach the clients, schedules, ranks."""

import numpy as np
import pytest
from small import BACKBONE

from fcil.battery import trial_of
from fcil.client.settings import Train
from fcil.config import Config, MethodChoice
from fcil.data import Data
from fcil.engine.simulation import prepare
from fcil.errors import ConfigError
from fcil.exchange.inline import Inline
from fcil.method import Modules
from fcil.model.kernel_form import SPARSITY
from fcil.model.settings import Model as ModelSettings
from fcil.registry import build_method
from fcil.scenario.partition import Partition
from fcil.scenario.tasks import Tasks
from fcil.server.loop import run
from fcil.server.plan import initial_progress

QKV = 'lora(targets = ["blocks.*.attn.qkv"])'


def test_a_router_stands_beside_the_adapter_that_was_asked_for():
    routed, plain = (build_method("emr", {"adapter": QKV, "router": r}).adapter for r in (True, False))
    assert routed.layers(BACKBONE) == plain.layers(BACKBONE)
    assert len(routed.layers(BACKBONE)) == BACKBONE.blocks
    with pytest.raises(ConfigError, match="plain LoRA pairs"):
        build_method("emr", {"adapter": "loftq(bits = 2)", "router": True})


@pytest.mark.parametrize("of", ["weights", "factors"])
def test_the_schedule_of_sparsities_goes_on_however_rounds_are_averaged(of):
    settings = {"adapter": "snella(sparsity = 0.5)", "at": "round", "of": of}
    records = trial_of("fisher", settings).records
    module = Modules.of(records[-1].after).module
    shares = {name: a for name, a in module.items() if name.endswith(SPARSITY)}
    sizes = {name: np.prod(BACKBONE.linears[name.removesuffix(SPARSITY)]) / len(a) for name, a in shares.items()}
    zero = sum(sizes[name] * float(a.sum()) for name, a in shares.items())
    assert zero / sum(sizes[name] * len(a) for name, a in shares.items()) == pytest.approx(0.5, abs=1e-5)
    first = Modules.of(records[0].before).module
    assert all((first[name] == 0).all() for name in shares)


@pytest.mark.parametrize(("adapter", "most"), [("lora", 2), ("full", None)])
def test_a_flat_spectrum_is_cut_only_where_a_pair_has_to_hold_it(adapter, most):
    trial = trial_of("iso", {"adapter": adapter, "at": "round"})
    record, layer = trial.records[0], "blocks.0.mlp.fc1"
    before, after = (
        trial.method.adapter.changes(Modules.of(state).module)[layer] for state in (record.before, record.after)
    )
    values = np.linalg.svd(after.minus(before).b @ after.minus(before).a, compute_uv=False)
    kept = values[values > 1e-4 * values[0]]
    np.testing.assert_allclose(kept, kept[0], rtol=1e-3)
    assert len(kept) == (most or min(BACKBONE.linears[layer]))


def sparsities(arrays):
    return {name: a for name, a in arrays.items() if name.endswith(SPARSITY)}


def same(left, right):
    assert left.keys() == right.keys()
    assert left
    assert all(np.array_equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(("name", "settings"), [("fedavg", {}), ("fisher", {"at": "round", "of": "factors"})])
def test_what_is_deployed_after_a_round_has_the_sparsities_that_it_trained_with(name, settings):
    trial = trial_of(name, {"adapter": "snella(sparsity = 0.8)", **settings})
    for record, following in zip(trial.records, [*trial.records[1:], None], strict=True):
        sent = sparsities(record.broadcast.arrays)
        same(sparsities(trial.deploy(record.after, record.phase)), sent)
        if following:
            moved = sparsities(following.broadcast.arrays)
            assert any((moved[layer] > a).any() for layer, a in sent.items())


@pytest.mark.parametrize("name", ["magmax", "regmean"])
def test_tasks_whose_module_goes_on_are_merged_and_reported_of_as_they_were_trained(name):
    trial = trial_of(name, {"adapter": "snella(sparsity = 0.8)", "start": "last"})
    trained = {}
    for record in trial.records:
        sent = sparsities(record.broadcast.arrays)
        if record.phase.kind == "report":
            same(sent, trained[record.phase.task.index])
        trained[record.phase.task.index] = sent
    state, phase = trial.records[-1].after, trial.records[-1].phase
    for task, module in enumerate(Modules.of(state).all_tasks):
        same(sparsities(module), trained[task])
    first = next(r for r in trial.records if r.phase.task.index == 1).before
    experts = [trial.method.weight_adapter.changes(module) for module in Modules.of(state).all_tasks]
    start = trial.method.weight_adapter.changes(first["start"])
    for layer, change in trial.method.task_experts(state)[0].changes.items():
        np.testing.assert_array_equal(change.a, experts[0][layer].minus(start[layer]).a)
    assert trial.deploy(state, phase)


@pytest.mark.parametrize("at", ["round", "both"])
def test_merged_rounds_are_deployed_as_they_were_merged(at):
    """With points of the start beside a dense change, which together make the merged weights at any sparsity."""
    trial = trial_of("task_arithmetic", {"adapter": "snella(sparsity = 0.8)", "at": at})
    changes = trial.method.weight_adapter.changes
    record = trial.records[0]
    module, count = Modules.of(record.before).module, sum(u.num_examples for u in record.updates)
    clients = [(u.num_examples / count, changes({**module, **u.arrays})) for u in record.updates]
    for layer, now in changes(trial.deploy(record.after, record.phase)).items():
        mean = sum(share * change[layer].a for share, change in clients)
        np.testing.assert_allclose(now.a, mean, atol=1e-6 * np.abs(mean).max() + 1e-7)


@pytest.mark.parametrize(("name", "rounds"), [("fedavg", 2), ("sequential", 2), ("joint", 3)])
def test_the_schedule_of_a_run_goes_from_the_first_sparsity_to_the_last(name, rounds):
    """Over all tasks where one module goes on through them, and over the one task of all classes at once."""
    config = Config(
        data=Data(train_limit=60, test_limit=20), tasks=Tasks(count=2), model=ModelSettings(image_size=16),
        partition=Partition(clients=2, kind="iid", min_samples=1), train=Train(rounds=rounds, epochs=1),
        method=MethodChoice(name, {"rank": 2, "adapter": "snella(sparsity = 0.8)"}),
    )  # fmt: skip
    session, seen = prepare(config), []

    class Watching(Inline):
        def __call__(self, request):
            seen.append(sparsities(request.broadcast.arrays))
            yield from super().__call__(request)

    run(session.plan, initial_progress(session.plan), Watching(session.worker), lambda e: None, lambda p: None)
    assert [p.tasks_left for p in session.plan.phases] == ([0] * 3 if name == "joint" else [1, 1, 0, 0])
    linears, last = session.plan.backbone.linears, len(seen) - 1
    for t, sent in enumerate(seen):
        sizes = {layer: np.prod(linears[layer.removesuffix(SPARSITY)]) / len(a) for layer, a in sent.items()}
        share = sum(sizes[n] * a.sum() for n, a in sent.items()) / sum(sizes[n] * len(a) for n, a in sent.items())
        assert share == pytest.approx(0.8 - 0.8 * (1 - t / last) ** 3, abs=1e-5)
