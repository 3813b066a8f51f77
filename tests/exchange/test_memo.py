"""Updates that are remembered: the key has all that they depend on, and what is found is what would be computed."""

import ast
import inspect
import json
import os
import textwrap
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from fcil.arrays import digest
from fcil.client import training
from fcil.client.settings import Train
from fcil.engine.session import prepare
from fcil.engine.simulation import simulate
from fcil.errors import RunError
from fcil.exchange import update_key as keys
from fcil.exchange.memo import Memo
from fcil.exchange.shared import Shared
from fcil.exchange.update_key import CLIENT_HOOKS, kin, phase_part, run_part, update_key
from fcil.method import Broadcast, ClientUpdate, Phase, Task
from fcil.registry import build_method
from fcil.server.loop import ask
from fcil.server.plan import initial_progress

PHASE = Phase(2, "train", Task(1, 5, 5), 1, 0, phases_left=2, tasks_left=0)
ARRAYS = {"a": np.ones((2, 3), np.float32), "b": np.zeros(2, np.float32)}
SAMPLES = {"these": np.arange(4), "earlier": (np.arange(4, 6),), "positions": np.arange(10)}


def key(run="run", method=None, phase=PHASE, broadcast=None, client=0, samples=SAMPLES, kept=None):
    method = method or build_method("fedavg", {"rank": 2})
    return update_key(run, method, phase, broadcast or Broadcast(ARRAYS), client, samples, kept or {})


def test_a_clients_work_asks_nothing_of_a_method_but_what_is_declared_and_the_hooks():
    source = ast.parse(textwrap.dedent(inspect.getsource(training)))
    asked = {
        node.attr for node in ast.walk(source)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "method"
    }  # fmt: skip
    assert asked == {"acting", "local", *CLIENT_HOOKS}


def test_every_argument_that_an_update_depends_on_is_in_its_key():
    ones = np.ones((2, 3), np.float32)
    others = [
        key(run="another"), key(client=1), key(kept={"buffer": np.zeros(1)}),
        key(phase=replace(PHASE, kind="report")), key(phase=replace(PHASE, task=Task(0, 5, 5))),
        key(phase=replace(PHASE, task=Task(1, 4, 5))), key(phase=replace(PHASE, task=Task(1, 5, 4))),
        key(phase=replace(PHASE, round=2)), key(phase=replace(PHASE, seed=1)),
        key(broadcast=Broadcast({"a": ones})), key(broadcast=Broadcast({**ARRAYS, "b": np.ones(2, np.float32)})),
        key(broadcast=Broadcast(dict(reversed(ARRAYS.items())))), key(broadcast=Broadcast({"c": ones, **ARRAYS})),
        key(broadcast=Broadcast(ARRAYS, {"teacher": ones})), key(broadcast=Broadcast(ARRAYS, {"anchor": ones})),
        key(samples={**SAMPLES, "these": np.arange(5)}), key(samples={**SAMPLES, "these": np.arange(4)[::-1]}),
        key(samples={**SAMPLES, "earlier": ()}), key(samples={**SAMPLES, "positions": np.arange(10)[::-1]}),
        key(samples={**SAMPLES, "unlabelled": np.arange(3)}),
        key(method=build_method("ffa", {"rank": 2})), key(method=build_method("lorm", {"rank": 2})),
    ]  # fmt: skip
    assert None not in others
    assert len({key(), *others}) == len(others) + 1
    assert key() == key(phase=replace(PHASE, index=9, phases_left=0, tasks_left=3)), "no work depends on these"


def test_every_setting_of_training_and_of_the_model_is_in_the_key(digits_config):
    def part(**sections):
        config = digits_config(sections)
        return run_part(config, build_method("fedavg", {"rank": 2}), "data")

    changed = {
        "epochs": 2, "batch": 7, "lr": 0.5, "optimizer": "sgd", "weight_decay": 0.1, "rounds": 9, "participation": 0.5,
        "participants": 2,
    }  # fmt: skip
    assert set(changed) == {f.name for f in fields(Train)}, "a new setting: is it in the key?"
    base = part()
    for name, value in changed.items():
        assert (part(train={name: value}) == base) == (name in keys.SERVERS), name
    others = [
        part(model={"weights": "random"}), part(model={"precision": "bf16"}), part(run={"threads": 2}),
        part(data={"train_limit": 100}), part(tasks={"count": 5}),
        run_part(digits_config(), build_method("fedavg", {"rank": 3}), "data"),
        run_part(digits_config(), build_method("fedavg", {"rank": 2}), "other data"),
    ]  # fmt: skip
    assert len({base, *others}) == len(others) + 1


@pytest.mark.parametrize("of", ["code_sha256", "versions", "processor_kind", "weights_sha256"])
def test_so_are_code_versions_processor_and_weights(of, digits_config, monkeypatch):
    method = build_method("fedavg", {"rank": 2})
    before = run_part(digits_config(), method, "data")
    monkeypatch.setattr(keys, of, lambda *_: "another")
    assert run_part(digits_config(), method, "data") != before


def test_settings_of_the_server_alone_leave_the_key_and_those_that_clients_use_do_not():
    by = {name: build_method("lorm", {"rank": 2, "head_gram_shrink": 0.5, **more}) for name, more in {
        "one": {}, "tasks": {"task_merge": "mean"}, "rank": {"rank": 3}, "gram": {"gram_a": "full"},
    }.items()}  # fmt: skip
    second = replace(PHASE, round=2)  # in which A trains, and its Grams are reported
    parts = {name: phase_part(method, second) for name, method in by.items()}
    assert parts["one"] == parts["tasks"]
    assert parts["one"] != parts["gram"]
    hybrid = build_method("lorm+ranpac", {"rank": 2, "adapt": "every_task"})
    assert phase_part(hybrid, PHASE) == phase_part(build_method("lorm", {"rank": 2}), PHASE)


def test_all_of_a_phase_is_in_the_key_of_a_method_whose_hooks_may_read_it():
    method, seen = build_method("er", {"rank": 2}), {key(method=build_method("er", {"rank": 2}))}
    changed = {"index": 7, "round": 2, "seed": 1, "phases_left": 0, "tasks_left": 3, "clients": 4, "examples": 9}
    changed |= {"kind": "report", "task": Task(0, 5, 5)}
    assert changed.keys() == {f.name for f in fields(Phase)}
    seen |= {key(method=method, phase=replace(PHASE, **{name: value})) for name, value in changed.items()}
    assert None not in seen
    assert len(seen) == 1 + len(changed)


FILE = '''
from dataclasses import dataclass
from fcil.method import Averaging

@dataclass(frozen=True, kw_only=True)
class Mine(Averaging):
    """Has an objective of its own."""

    strength: float = 0.5

    def loss(self, step):
        return step.cross_entropy() * self.strength
'''


def test_a_method_with_hooks_in_a_file_of_its_own_is_always_computed(tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    assert key(method=build_method(f"{tmp_path / 'mine.py'}:Mine", {})) is None
    (tmp_path / "plain.py").write_text(FILE.split("    def loss")[0])
    assert key(method=build_method(f"{tmp_path / 'plain.py'}:Mine", {})) is not None, "what it trains is described"


# ---- the folder ------------------------------------------------------------------------------------------------------


def update(value=1.0):
    arrays = {"z": np.full(3, value, np.float32), "a": np.float64(value) * np.ones(()), "half": np.zeros(2, np.uint8)}
    return ClientUpdate(4, 7, 11, arrays, {"gram": np.full((2, 2), value)}, {"loss": value})


def never():
    raise AssertionError("it should have been found")


KEY = "ffffffff00"  # which is not among those that are checked


def test_what_is_found_is_what_was_computed_and_so_is_what_the_client_keeps(tmp_path):
    def compute():
        kept["buffer"] = np.arange(3)
        del kept["old"]
        return update()

    kept = {"old": np.zeros(1)}
    first = Memo(tmp_path / "memo").update(KEY, kept, compute, PHASE)
    assert first.metrics == {"loss": 1.0}
    again = {"old": np.zeros(1)}
    found = (
        Shared().read(Shared(Memo(tmp_path / "memo")).written()).memo.update(KEY, again, never, replace(PHASE, index=9))
    )
    assert list(again) == ["buffer"]
    np.testing.assert_array_equal(again["buffer"], np.arange(3))
    assert (found.client, found.phase, found.num_examples) == (4, 9, 11)
    assert found.metrics == {"loss": 1.0, "reused": 1.0}
    assert list(found.arrays) == list(first.arrays), "in the order in which they trained"
    assert digest(found.arrays) == digest(first.arrays)
    assert digest(found.statistics) == digest(first.statistics)


def test_without_a_key_everything_is_computed_and_nothing_kept(tmp_path):
    memo = Memo(tmp_path / "memo")
    for _ in range(2):
        assert memo.update(None, {}, update, PHASE).metrics == {"loss": 1.0}
    assert not (tmp_path / "memo").exists()


@pytest.mark.parametrize("damage", ["torn", "a bit", "empty"])
def test_a_damaged_file_is_computed_again_and_replaced(tmp_path, damage):
    memo = Memo(tmp_path)
    memo.update(KEY, {}, update, PHASE)
    (path,) = tmp_path.glob("*/*.safetensors")
    good = path.read_bytes()
    bad = {"torn": good[:-7], "a bit": good[:-7] + bytes([good[-7] ^ 1]) + good[-6:], "empty": b""}[damage]
    path.write_bytes(bad)
    assert "reused" not in memo.update(KEY, {}, update, PHASE).metrics
    assert path.read_bytes() == good
    assert memo.update(KEY, {}, never, PHASE).metrics["reused"] == 1.0


def test_a_share_of_what_is_found_is_computed_again_and_another_result_stops_the_run(tmp_path):
    memo = Memo(tmp_path, share=1.0)
    memo.update(KEY, {}, update, PHASE)
    assert memo.update(KEY, {}, update, PHASE).metrics["reused"] == 1.0
    with pytest.raises(RunError, match=r"client 4: .* other bits \(arrays:a, arrays:z, statistics:gram\)"):
        memo.update(KEY, {}, lambda: update(2.0), PHASE)

    def keeps():
        kept["new"] = np.zeros(1)
        return update()

    kept = {}
    with pytest.raises(RunError, match="kept:new"):
        memo.update(KEY, kept, keeps, PHASE)
    keys = [f"{number * 0x01000000:08x}00" for number in range(256)]
    assert sum(Memo(tmp_path, share=0.25)._is_checked(key) for key in keys) == 64
    assert not any(Memo(tmp_path, share=0.0)._is_checked(key) for key in keys)


def test_what_was_used_longest_ago_is_deleted_where_there_is_no_room(tmp_path):
    size = 3 * 4 + 8 + 2 + 4 * 8
    memo = Memo(tmp_path, share=0.0, limit=1e4)
    for number in range(6):
        memo.update(f"{number:02x}", {}, update, PHASE)
        os.utime(memo._path(f"{number:02x}"), (number, number))
    total = sum(p.stat().st_size for p in tmp_path.glob("*/*"))
    memo = Memo(tmp_path, share=0.0, limit=total * 0.8)
    memo.update("00", {}, never, PHASE)  # used now
    memo.update("ff", {}, update, PHASE)
    left = sorted(p.parent.name for p in tmp_path.glob("*/*"))
    assert "00" in left
    assert "ff" in left
    assert "01" not in left
    assert sum(p.stat().st_size for p in tmp_path.glob("*/*")) - total / 6 <= 0.9 * 0.8 * total + size


def test_a_disk_without_room_only_costs_what_would_have_been_remembered(tmp_path):
    (tmp_path / "memo").write_text("a file in the way")
    memo = Memo(tmp_path / "memo")
    assert memo.update(KEY, {}, update, PHASE).metrics == {"loss": 1.0}


# ---- whole runs ------------------------------------------------------------------------------------------------------


def carried_out(config, folder, shared=None):
    return simulate(prepare(config, folder, shared=shared), folder)


@pytest.mark.parametrize("method", [
    {"name": "lorm", "rank": 2}, {"name": "lorm+ranpac", "rank": 2, "size": 30, "adapt": "every_task"},
], ids=lambda method: method["name"])  # fmt: skip
def test_a_run_with_updates_of_another_one_ends_in_the_same_bits(method, digits_config, tmp_path):
    few = {"data": {"train_limit": 60, "test_limit": 20}}
    config = digits_config(few, {"method": method})
    alone = carried_out(config, tmp_path / "alone")
    shared = Shared(Memo(tmp_path / "memo", share=0.0))
    carried_out(digits_config(few, {"method": {"name": "lorm", "rank": 2}}), tmp_path / "first", shared)
    second = carried_out(config, tmp_path / "second", shared)
    assert second["sha256"] == alone["sha256"]
    assert second["correct"] == alone["correct"]
    tuned = 2 * (2 + 1) * 3  # tasks, rounds and the report of Grams, clients
    assert second["reused"] == (tuned if "ranpac" in method["name"] else second["asked"])
    assert "reused" not in alone
    events = [json.loads(line) for line in (tmp_path / "second" / "metrics.jsonl").read_text().splitlines()]
    assert sum(event.get("reused", 0) for event in events if event["event"] == "client") == second["reused"]


def test_a_fault_in_the_key_stops_the_run_where_it_is_found(digits_config, tmp_path, monkeypatch):
    shared, few = Shared(Memo(tmp_path / "memo", share=1.0)), {"data": {"train_limit": 60}, "train": {"rounds": 1}}
    carried_out(digits_config(few, {"method": {"name": "fedavg", "rank": 2}}), tmp_path / "first", shared)
    real = keys.run_part
    monkeypatch.setattr("fcil.exchange.worker.run_part", lambda config, *rest: real(digits_config(few), *rest))
    with pytest.raises(RunError, match="other bits"):
        carried_out(
            digits_config(few, {"method": {"name": "fedavg", "rank": 2}}, {"train": {"lr": 0.5}}), tmp_path / "second",
            shared,
        )  # fmt: skip


def first_update(session):
    request = ask(session.plan, initial_progress(session.plan))
    return session.worker.work(request.phase, request.broadcast, 0)


def test_runs_that_share_a_backbone_with_other_adapters_and_precisions_end_in_the_bits_of_runs_alone(digits_config):
    shared, loads = Shared(), []
    for method, precision in [
        ({"name": "fedavg", "rank": 2}, "fp32"), ({"name": "fedavg", "adapter": "full"}, "bf16"),
        ({"name": "vpt"}, "fp32"), ({"name": "fedavg", "rank": 2}, "fp32"),
    ]:  # fmt: skip
        config = digits_config({"method": method, "model": {"precision": precision}, "train": {"rounds": 1}})
        session = prepare(config, shared=shared)
        ours, alone = first_update(session), first_update(prepare(config))
        assert digest(ours.arrays) == digest(alone.arrays)
        loads.append(session.worker.dataset)
    assert all(data is loads[0] for data in loads)


def test_kin_are_runs_whose_clients_do_the_same_in_a_phase(digits_config):
    def of(method, **sections):
        plan = prepare(digits_config({"method": method, **sections})).plan
        return kin(plan.config, plan.method, plan.phases)

    lorm, hybrid = (
        of({"name": "lorm", "rank": 2}),
        {"name": "lorm+ranpac", "rank": 2, "size": 30, "adapt": "every_task"},
    )
    assert len(set(lorm)) == len(lorm) == 6
    assert [kin for kin in of(hybrid) if kin in lorm] == list(lorm)
    assert len(of(hybrid)) == 8
    assert of({"name": "lorm", "rank": 2}, run={"exchange": "ray"}) == lorm
    for other in (
        of({"name": "fedavg", "rank": 2}), of({"name": "lorm", "rank": 2}, partition={"beta": 0.1}),
        of({"name": "lorm", "rank": 2}, run={"seed": 1}),
    ):  # fmt: skip
        assert set(other).isdisjoint(lorm)
    assert set(of({"name": "lorm", "rank": 2}, run={"on_client_error": "skip"})) == {""}
    joint = of({"name": "joint", "rank": 2})
    assert of({"name": "joint", "rank": 2}, partition={"beta": 0.1}) == joint, "it knows no clients"
    assert of({"name": "fedavg", "rank": 2}, partition={"beta": 0.1}) != of({"name": "fedavg", "rank": 2})


def test_only_phases_that_another_run_may_have_are_remembered(tmp_path):
    memo = Memo(tmp_path, phases=frozenset([1]))
    memo.update(KEY, {}, update, replace(PHASE, index=0))
    assert not any(tmp_path.iterdir())
    memo.update(KEY, {}, update, replace(PHASE, index=1))
    assert Shared().read(Shared(memo).written()).memo == replace(memo, _written=float("inf"))
    assert memo.update(KEY, {}, never, replace(PHASE, index=1)).metrics["reused"] == 1.0


# ---- masked sums and noise -------------------------------------------------------------------------------------------


def test_a_run_with_masked_sums_neither_takes_nor_leaves_an_update(digits_config, tmp_path):
    """What the server is not to see lies in no folder either."""
    small = {"data": {"train_limit": 60, "test_limit": 20}, "method": {"name": "ridge", "penalty": 1.0}}
    secure = digits_config(small, {"run": {"secure_sums": True}})
    shared = Shared(Memo(tmp_path / "memo", share=0.0))
    alone = carried_out(secure, tmp_path / "alone", shared)
    assert not (tmp_path / "memo").exists()
    plain = carried_out(digits_config(small), tmp_path / "plain", shared)
    after = carried_out(secure, tmp_path / "after", shared)
    assert "reused" not in after
    assert after["sha256"] == alone["sha256"]
    assert after["upload_bytes"] == alone["upload_bytes"] > plain["upload_bytes"], "masked numbers are longer"


def test_noise_is_that_of_the_run_that_would_draw_it_and_of_no_other(digits_config, tmp_path, monkeypatch):
    monkeypatch.setattr("strategies._private.epsilon_of", lambda multiplier, delta: 1.5)  # needs fcil[privacy]
    shared = Shared(Memo(tmp_path / "memo", share=1.0))

    def run(name, memo, seed=0, **settings):
        ridge = {"name": "ridge", "penalty": 1.0, "clip": 2.0, **settings}
        small = {"data": {"train_limit": 60, "test_limit": 20}, "method": ridge, "run": {"seed": seed}}
        return carried_out(digits_config(small), tmp_path / name, shared if memo else None)

    first = run("first", True, noise=1.0)
    assert "reused" not in first
    again = run("again", True, noise=1.0, delta=1e-6)
    assert (again["sha256"], again["reused"]) == (first["sha256"], first["asked"]), "delta is the records' alone"
    others = {
        "more": {"noise": 2.0},
        "clip": {"noise": 1.0, "clip": 3.0},
        "seed": {"noise": 1.0, "seed": 1},
        "none": {},
    }
    for name, settings in others.items():
        other = run(name, True, **settings)
        assert "reused" not in other, name
        assert other["sha256"] == run(f"{name} alone", False, **settings)["sha256"] != first["sha256"]
    server = run("server", True, noise=1.0, noise_at="server")
    assert server["reused"] == server["asked"], "clients send there what they send without noise"
    assert server["sha256"] == run("server alone", False, noise=1.0, noise_at="server")["sha256"]


def test_runs_without_an_adapter_have_one_backbone_and_others_a_copy_each(digits_config):
    """What an adapter is put into, or another precision, is never what another run has."""
    shared = Shared()

    def model(name, precision="fp32"):
        config = digits_config({"method": {"name": name}, "model": {"precision": precision}})
        return prepare(config, shared=shared).worker.model

    first, second = model("ridge"), model("ncm")
    assert second.network is first.network
    images = torch.rand(4, 3, first.network.patch_embed.img_size[0], first.network.patch_embed.img_size[1])
    with torch.no_grad():
        expected = first.features(images)
    trained = model("fedavg")
    assert trained.network is not first.network
    half = model("ncm", "bf16")
    assert half.network is not first.network
    again = model("ridge")
    with torch.no_grad():
        assert torch.equal(again.features(images), expected)
        assert torch.equal(first.features(images), expected), "as it was"
        assert not torch.equal(half.features(images), expected)
