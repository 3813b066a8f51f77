"""Diagnostics of a run: they say what the dense changes say, and the run does not know of them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from small import dense

from fcil.client.settings import Train
from fcil.config import Config, MethodChoice
from fcil.data import Data
from fcil.engine.diagnostics import Diagnostics, changes_in
from fcil.engine.records import Recorder
from fcil.engine.simulation import prepare, simulate
from fcil.errors import ConfigError
from fcil.exchange.inline import Inline
from fcil.merging.lowrank import dense as dense_change
from fcil.model.backbone import Model, load_backbone
from fcil.report.diagnostics import diagnostics_plots, read_diagnostics
from fcil.scenario.partition import Partition
from fcil.scenario.tasks import Tasks
from fcil.server.loop import ask
from fcil.server.plan import initial_progress

SMALL = Config(
    data=Data(train_limit=80, test_limit=40),
    tasks=Tasks(count=2),
    model=Model(image_size=16),
    partition=Partition(clients=3, min_samples=2, beta=5.0),
    train=Train(rounds=2, epochs=1),
)


def settings(method, **run):
    return replace(SMALL, method=MethodChoice(method, {"rank": 2}), run=replace(SMALL.run, **run))


class Listening(Inline):
    """Keeps what goes over the exchange."""

    def __init__(self, worker):
        super().__init__(worker)
        self.heard, self.deployed = [], []

    def __call__(self, request):
        updates = list(super().__call__(request))
        self.heard.append((request, updates))
        yield from updates

    def evaluate(self, arrays, task):
        self.deployed.append(arrays)
        return super().evaluate(arrays, task)


@pytest.fixture(scope="module", params=["fedavg", "lorm"])
def watched(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("watched") / "run"
    session = prepare(settings(request.param, diagnostics=True), folder)
    exchange = Listening(session.worker)
    summary = simulate(session, folder, exchange=exchange)
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return request.param, folder, summary, [e for e in events if e["event"] == "diagnostics"], exchange


def flat(after, before):
    layers = changes_in(after)
    return np.concatenate([(dense(after, layer) - dense(before, layer)).ravel() for layer in layers])


def test_the_run_has_the_same_bits_without_them(watched, tmp_path):
    method, _, summary, _, _ = watched
    plain = simulate(prepare(settings(method), tmp_path / "plain"), tmp_path / "plain")
    assert (plain["sha256"], plain["correct"]) == (summary["sha256"], summary["correct"])
    assert not (tmp_path / "plain" / "diagnostics").exists()


def test_kinship_of_clients_is_the_cosine_of_their_dense_changes(watched):
    _, folder, _, events, exchange = watched
    for event, (request, updates) in zip(events, exchange.heard, strict=True):
        if request.phase.kind == "train":
            initial_progress = request.broadcast.arrays
            v = np.array([flat({**initial_progress, **u.arrays}, initial_progress) for u in updates])
            v /= np.linalg.norm(v, axis=1, keepdims=True)
            np.testing.assert_allclose(event["client_kinship"], v @ v.T, atol=1e-5)
            assert event["clients"] == [u.client for u in updates]
            values = load_file(folder / "diagnostics" / f"phase{request.phase.index:06d}.safetensors")
            for update in updates:
                for layer in list(changes_in(initial_progress))[::5]:
                    whole = dense({**initial_progress, **update.arrays}, layer) - dense(initial_progress, layer)
                    singular = values[f"client{update.client}/{layer}"]
                    expected = np.linalg.svd(whole, compute_uv=False)[: len(singular)]
                    np.testing.assert_allclose(singular, expected, rtol=1e-4, atol=1e-6 * expected[0])


def test_kinship_of_tasks_is_between_what_each_changed(watched):
    _, folder, _, events, exchange = watched
    starts = [r.broadcast.arrays for r, _ in exchange.heard if r.phase.round == 1]
    kept = [load_file(folder / "diagnostics" / f"task{t}.safetensors") for t in (1, 2)]
    for begin, task in zip(starts, kept, strict=True):
        assert changes_in(task).keys() == changes_in(begin).keys()
    v = np.array([np.concatenate([dense(k, layer).ravel() for layer in changes_in(k)]) for k in kept])
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    np.testing.assert_allclose(events[-1]["task_kinship"], v @ v.T, atol=1e-5)
    assert events[-1]["tasks"] == [0, 1]


def test_what_a_pair_that_goes_on_changed_in_all_tasks_adds_up_to_the_whole(watched):
    method, folder, _, _, exchange = watched
    if method != "fedavg":
        pytest.skip("its tasks have pairs of their own")
    kept = [load_file(folder / "diagnostics" / f"task{t}.safetensors") for t in (1, 2)]
    for layer in changes_in(kept[0]):
        np.testing.assert_allclose(
            sum(dense(k, layer) for k in kept), dense(exchange.deployed[-1], layer), atol=1e-5
        )  # fmt: skip


def test_intruders_are_counted_by_the_definition(watched):
    _, _, _, events, exchange = watched
    ends = [e for e in events if "intruders" in e]
    assert [e["task"] for e in ends] == [0, 1]
    weights = exchange.worker.model.network
    for event, deployed in zip(ends, exchange.deployed, strict=True):
        for layer, change in list(changes_in(deployed).items())[::5]:
            w = weights.get_submodule(layer).weight.double().numpy()
            before, after = (np.linalg.svd(m, full_matrices=False)[0] for m in (w, w + dense_change(change)))
            cosines = np.abs(before.T @ after[:, :10]).max(0)
            assert event["intruders"][layer] == (cosines < 0.5).sum()


@pytest.mark.parametrize("adapter", ["snell(sparsity = 0.5)", "full"])
def test_changes_without_factors_are_diagnosed_too(adapter, tmp_path):
    config = replace(SMALL, method=MethodChoice("fedavg", {"rank": 2, "adapter": adapter}))
    session = prepare(replace(config, run=replace(config.run, diagnostics=True)), tmp_path)
    exchange = Listening(session.worker)
    simulate(session, tmp_path, exchange=exchange)
    events = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    event, (request, updates) = next(e for e in events if e["event"] == "diagnostics"), exchange.heard[0]
    sent, changes = request.broadcast.arrays, session.plan.method.adapter.changes

    def change(arrays):
        return np.concatenate([dense_change(c).ravel() for c in changes(arrays).values()])

    v = np.array([change({**sent, **u.arrays}) - change(sent) for u in updates])
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    np.testing.assert_allclose(event["client_kinship"], v @ v.T, atol=1e-4)
    ends = [e for e in events if "intruders" in e]
    assert ends[0]["intruders"].keys() == changes(sent).keys()
    assert len(ends[-1]["task_kinship"]) == 2


def test_intruders_are_those_of_the_weights_that_the_network_multiplies_with(tmp_path):
    """Beside LoftQ's pairs there stand quantised weights, with which they make up W0."""
    config = replace(SMALL, method=MethodChoice("fedavg", {"rank": 2, "adapter": "loftq(bits = 2, iterations = 1)"}))
    session = prepare(replace(config, run=replace(config.run, diagnostics=True)), tmp_path)
    exchange = Listening(session.worker)
    simulate(session, tmp_path, exchange=exchange)
    events = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    told = [e["intruders"] for e in events if "intruders" in e][-1]
    model, pretrained = session.worker.model, load_backbone(config.model)
    model.load(exchange.deployed[-1])
    for layer, count in told.items():
        module = model.network.get_submodule(layer)
        with torch.no_grad():
            whole = (module(torch.eye(module.in_features)) - module(torch.zeros(1, module.in_features))).T
        w0 = pretrained.get_submodule(layer).weight
        before, after = (np.linalg.svd(m.detach().double().numpy(), full_matrices=False)[0] for m in (w0, whole))
        assert count == (np.abs(before.T @ after[:, :10]).max(0) < 0.5).sum()


@pytest.mark.rendered
def test_pictures_are_drawn(watched):
    _, folder, _, _, _ = watched
    diagnostics_plots(folder)
    drawn = {p.name for p in (folder / "plots").iterdir()}
    assert {"kinship_clients.png", "kinship_tasks.png", "intruders.png"} <= drawn


def test_killed_and_gone_on_with_the_records_are_the_same(watched, tmp_path, monkeypatch):
    method, whole, _, _, _ = watched
    config, broken = settings(method, diagnostics=True), tmp_path / "broken"

    def dies(self, progress):
        if progress.position == 3:
            raise KeyboardInterrupt
        save(self, progress)

    save = Recorder.save
    monkeypatch.setattr(Recorder, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        simulate(prepare(config, broken), broken)
    monkeypatch.setattr(Recorder, "save", save)
    simulate(prepare(config, broken), broken)
    for path in (whole / "diagnostics").iterdir():
        assert (broken / "diagnostics" / path.name).read_bytes() == path.read_bytes()


def test_a_line_that_is_still_being_written_is_left_for_later(watched, tmp_path):
    _, folder, _, events, _ = watched
    text = (folder / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(text + json.dumps(events[-1])[:40])
    assert read_diagnostics(tmp_path) == events


def test_without_diagnostics_nothing_is_drawn_and_what_is_no_run_is_told(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"event": "warning", "reason": "\\"diagnostics\\" are off"}\n')
    assert diagnostics_plots(tmp_path) == []
    with pytest.raises(ConfigError, match="not a run folder"):
        diagnostics_plots(tmp_path / "none")


def test_sums_of_groups_hold_no_single_clients(tmp_path):
    with pytest.raises(ConfigError, match="aggregate_on_worker"):
        prepare(settings("fedavg", diagnostics=True, aggregate_on_worker=True), tmp_path)


def test_a_dense_change_is_added_to_its_pair():
    rng = np.random.default_rng(0)
    arrays = {"x.lora_A": rng.random((2, 5)), "x.lora_B": rng.random((4, 2)), "x.delta": rng.random((4, 5))}
    np.testing.assert_allclose(changes_in(arrays)["x"], arrays["x.delta"] + dense(arrays, "x"))
    assert changes_in({"y.delta": arrays["x.delta"]})["y"] is arrays["x.delta"]


def test_a_client_that_sends_back_what_it_got_is_akin_to_nobody(tmp_path):
    session = prepare(settings("fedavg", diagnostics=True), tmp_path)
    request = ask(session.plan, initial_progress(session.plan))
    moved, still = (session.worker.work(request.phase, request.broadcast, client) for client in (0, 1))
    still = replace(still, arrays={name: request.broadcast.arrays[name] for name in still.arrays})
    event = Diagnostics(tmp_path / "diagnostics", session.plan)(request, [moved, still], request.state, False)
    np.testing.assert_allclose(event["client_kinship"], [[1, 0], [0, 0]], atol=1e-12)
    values = load_file(tmp_path / "diagnostics" / "phase000000.safetensors")
    assert all(a.size == 0 for name, a in values.items() if name.startswith("client1/"))
