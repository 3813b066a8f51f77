"""GLFC's proxy: gradients that tell an image, images found by them, and the round that is right most often on these."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from sessions import session
from small import BACKBONE, phase, small_toml
from torch import nn
from torch.nn import functional as F
from trials import trial

from fcil.api import load_config
from fcil.battery.trial import PARTS
from fcil.engine.checks import check_across_nodes
from fcil.engine.simulation import prepare, simulate
from fcil.errors import ConfigError
from fcil.exchange.flower.strategy import FcilStrategy
from fcil.exchange.inline import Inline
from fcil.method import Task
from fcil.server.loop import deployed_arrays, run
from fcil.server.plan import initial_progress
from strategies import _proxy
from strategies._old_model import BEST, GRADIENTS, PROXY
from strategies._teacher import TEACHER
from strategies.fedavg import FedAvg
from strategies.glfc import GLFC

METHOD = GLFC(rank=2, size=6, old_model="proxy", proxy_steps=2)
AT = phase(task=Task(1, 2, 3))


def literal_encoder(at):
    """The encoding network of modules, with the drawn parameters in their order."""
    network = nn.Sequential(
        nn.Conv2d(3, 12, 5, padding=2, stride=2), nn.Sigmoid(), nn.Conv2d(12, 12, 5, padding=2, stride=2), nn.Sigmoid(),
        nn.Conv2d(12, 12, 5, padding=2, stride=1), nn.Sigmoid(), nn.Flatten(), nn.Linear(768, at.task.size),
    ).double()  # fmt: skip
    rng = at.generator("gradient encoder")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.from_numpy(rng.uniform(-0.5, 0.5, tuple(parameter.shape))))
    return network


def literal_gradient(at, image, place):
    network = literal_encoder(at)
    F.cross_entropy(network(image), torch.tensor([place])).backward()
    return np.concatenate([parameter.grad.numpy().ravel() for parameter in network.parameters()])


def smooth_image():
    y, x = np.mgrid[: _proxy.SIDE, : _proxy.SIDE]
    return torch.from_numpy(np.stack([np.sin(x / 5), np.cos(y / 4), np.sin((x + y) / 6)])[None])


# ---- what clients send -----------------------------------------------------------------------------------------------


def test_the_gradient_is_that_of_the_encoding_network_on_one_image():
    for place in range(3):
        ours = _proxy._gradient(_proxy._encoder(AT), smooth_image(), place).numpy()
        np.testing.assert_allclose(ours, literal_gradient(AT, smooth_image(), place), rtol=1e-9, atol=1e-12)
        assert len(ours) == _proxy.gradient_size(3) == 8136 + 769 * 3
        rows = ours[-3 * 769 : -3].reshape(3, 768)  # public code reads the class off them, and so could anybody
        assert rows.sum(1).argmin() == place


def literally_moved(client, image, label):
    """Fifty steps x <- x - 0.2 (d BCE / d x + 1e-5 x), with the mean over the classes seen."""
    x = image.double().numpy()
    for _ in range(50):
        leaf = torch.from_numpy(x).float().requires_grad_()
        z = client.model.logits(client.model.features(leaf))
        target = torch.zeros_like(z)
        target[0, label] = 1
        loss = -(target * z.sigmoid().log() + (1 - target) * (1 - z.sigmoid()).log()).mean()
        loss.backward()
        x = x - 0.2 * (leaf.grad.double().numpy() + 1e-5 * x)
    return torch.from_numpy(x)


def test_a_client_sends_of_every_class_the_gradient_on_its_sample_nearest_to_the_mean_moved_a_little():
    record = trial(METHOD).records[2]  # the second task's first round
    for number, update in enumerate(record.updates):
        client = session(trial(METHOD), replace(record, broadcast=replace(record.broadcast)), number)
        client.model.load({**record.broadcast.arrays, **update.arrays})
        rows, samples = update.statistics[GRADIENTS], PARTS[1][number]
        labels = client.labels(samples).numpy()
        features = client.model.features(client.images(samples)).detach().double().numpy()
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        for place in range(record.phase.task.size):
            of_class = np.flatnonzero(labels == record.phase.task.first + place)
            if not len(of_class):
                assert not rows[place].any()
                continue
            mean = features[of_class].mean(0)
            nearest = of_class[np.linalg.norm(features[of_class] - mean / np.linalg.norm(mean), axis=1).argmin()]
            moved = literally_moved(client, client.images(samples[[nearest]]), record.phase.task.first + place)
            seen = F.interpolate(moved, (32, 32), mode="bilinear", antialias=True)
            wanted = literal_gradient(record.phase, seen, place)
            np.testing.assert_allclose(rows[place], wanted, rtol=2e-3, atol=1e-4 * np.abs(wanted).max())


def test_gradients_are_sent_after_a_tasks_first_round_alone():
    for record in trial(METHOD).records:
        sent = record.phase.kind == "train" and record.phase.round == 1
        assert all((GRADIENTS in update.statistics) == sent for update in record.updates)
    for other in ("last", "best"):
        at = replace(METHOD, old_model=other)
        assert not any(GRADIENTS in u.statistics for record in trial(at).records for u in record.updates)


# ---- what the proxy finds --------------------------------------------------------------------------------------------


def test_an_image_is_found_by_its_gradient():
    """Nearer with every step; rows of zeros, of classes that a client lacks, tell nothing."""
    rows = np.zeros((3, _proxy.gradient_size(3)), np.float32)
    rows[1] = literal_gradient(AT, smooth_image(), 1)
    found = {steps: _proxy.reconstructed(rows, AT, 4, steps) for steps in (1, 4, 20)}
    alike = {}
    for steps, (images, labels) in found.items():
        assert images.shape == (1, 3, 32, 32)
        assert labels.tolist() == [AT.task.first + 1]
        alike[steps] = np.corrcoef(images.ravel(), smooth_image().numpy().ravel())[0, 1]
    assert alike[1] < alike[4] < alike[20]
    assert alike[20] > 0.35
    again = _proxy.reconstructed(rows, AT, 4, 4)[0]
    np.testing.assert_array_equal(again, found[4][0])
    images, labels = _proxy.reconstructed(np.zeros_like(rows), AT, 4, 1)
    assert (images.shape, labels.tolist()) == ((0, 3, 32, 32), [])


def test_gradients_that_no_image_has_do_no_harm():
    rows = np.full((3, _proxy.gradient_size(3)), 1e30, np.float32)
    images, labels = _proxy.reconstructed(rows, AT, 0, 3)
    assert np.isfinite(images).all()
    assert labels.tolist() == [2, 3, 4]


# ---- which model becomes the old one ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("right", "best"), [((2, 1), 0), ((1, 2), 1), ((2, 2), 1), ((0, 0), 1)])
def test_the_old_model_is_the_round_that_is_right_most_often_on_the_proxys_images(right, best):
    first, second, following = trial(METHOD).records[:3]
    merged, after = METHOD.merge(first.before, first.phase, first.updates), []
    labels = np.concatenate([a for n, a in sorted(merged[PROXY].items()) if n.startswith("labels")]).astype(int)
    for record, count in zip((first, second), right, strict=True):
        state = merged if record is first else METHOD.merge(after[0], record.phase, record.updates)
        images = METHOD.server_images(state, record.phase)
        assert images.shape == (len(labels), 3, 32, 32)
        answers = np.where(np.arange(len(labels)) < count, labels, 1 - labels)
        after.append(METHOD.merge_scores(state, record.phase, np.eye(2, dtype=np.float32)[answers]))
    begun = METHOD.begin(after[1], following.phase, BACKBONE)
    wanted = {**after[best]["module"], **after[best]["head"]}
    assert begun[TEACHER].keys() == wanted.keys()
    for name, a in wanted.items():
        np.testing.assert_array_equal(begun[TEACHER][name], a)
    assert not {BEST, PROXY} & begun.keys()
    assert METHOD.server_images(begun, following.phase) is None


def test_where_nobody_sends_a_gradient_the_last_model_is_the_old_one():
    first, second, following = trial(METHOD).records[:3]
    blank = [replace(u, statistics={GRADIENTS: np.zeros_like(u.statistics[GRADIENTS])}) for u in first.updates]
    state = METHOD.merge(first.before, first.phase, blank)
    assert METHOD.server_images(state, first.phase) is None
    state = METHOD.merge(state, second.phase, second.updates)
    begun = METHOD.begin(state, following.phase, BACKBONE)
    np.testing.assert_array_equal(begun[TEACHER]["head.0.weight"], state["head"]["head.0.weight"])


# ---- the run ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Looking(FedAvg):
    """FedAvg whose server holds three images, of another size than the model's, and keeps their scores."""

    @property
    def server_holds_images(self):
        return True

    def server_images(self, state, phase):
        return np.random.default_rng(phase.index).normal(size=(3, 3, 20, 20)).astype(np.float32)

    def merge_scores(self, state, phase, scores):
        return {**state, "looked": {f"scores.{phase.index}": scores}}


def small_session(tmp_path, **method):
    path = tmp_path / "small.toml"
    path.write_text(small_toml() + "evaluation_batch = 2\n")
    return prepare(load_config(path, method={"name": "fedavg", "rank": 2, **method}))


def test_after_each_phase_the_deployed_model_scores_the_servers_images(tmp_path):
    session_ = small_session(tmp_path)
    method = Looking(rank=2)
    worker = replace(session_.worker, method=method)
    plan, seen = replace(session_.plan, method=method), []
    done = run(plan, initial_progress(plan), Inline(worker), lambda event: None, seen.append)
    assert len(seen) == len(plan.phases)
    for at, progress in zip(plan.phases, seen, strict=True):
        worker.model.load(deployed_arrays(plan, progress, at))
        images = torch.from_numpy(method.server_images({}, at))
        images = F.interpolate(images, (worker.config.model.image_size,) * 2, mode="bicubic", antialias=True)
        with torch.no_grad():
            wanted = torch.cat([method.scores(worker.model, part) for part in images.split(2)]).numpy()
        np.testing.assert_allclose(progress.state["looked"][f"scores.{at.index}"], wanted, rtol=1e-5, atol=1e-6)
        assert wanted.shape == (3, at.task.seen)
    assert done.position == len(plan.phases)


PROXY_RUN = {"name": "glfc", "size": 6, "old_model": "proxy", "proxy_steps": 1}


class Cut(Exception):
    """A run that is cut off."""


def cut_at(kind, events):
    """Listen to a run's events, and cut it off at the first of a kind."""

    def listen(record, progress):
        def emit(event):
            record(event)
            events.append(event)
            if event["event"] == kind:
                raise Cut

        return emit

    return listen


def test_a_run_warns_that_images_are_reconstructed(tmp_path):
    events = []
    with pytest.raises(Cut):
        simulate(small_session(tmp_path, **PROXY_RUN), tmp_path / "run", cut_at("phase", events))
    (warning,) = [event["reason"] for event in events if event["event"] == "warning"]
    assert "glfc" in warning
    assert "reconstructs images of the clients' data" in warning
    assert not small_session(tmp_path, name="glfc", old_model="best").warnings


@pytest.mark.slow
def test_a_run_goes_on_from_a_checkpoint_with_the_same_bits(tmp_path):
    whole = simulate(small_session(tmp_path, **PROXY_RUN), tmp_path / "whole")
    with pytest.raises(Cut):
        simulate(small_session(tmp_path, **PROXY_RUN), tmp_path / "cut", cut_at("task", []))
    resumed = simulate(small_session(tmp_path, **PROXY_RUN), tmp_path / "cut")
    assert resumed["sha256"] == whole["sha256"]


def test_where_clients_are_real_it_is_refused(tmp_path):
    session_ = small_session(tmp_path, name="glfc", size=6, old_model="proxy")
    with pytest.raises(ConfigError, match=r"glfc.*images of clients' data.*simulations only.*leaks"):
        check_across_nodes(session_.plan.config, session_.plan.method)
    with pytest.raises(ConfigError, match=r"images of clients' data"):
        FcilStrategy(session_.plan)
    for name, message in (("aggregate_on_worker", "single updates"), ("secure_sums", "single updates")):
        glfc = {"name": "glfc", "old_model": "proxy"}
        small = load_config(tmp_path / "small.toml", method=glfc, run={name: True})
        with pytest.raises(ConfigError, match=message):
            prepare(small)


def test_clients_that_may_not_notice_a_task_have_no_proxy():
    with pytest.raises(ConfigError, match=r'old_model = "proxy".*transition = "known"'):
        GLFC(old_model="proxy", transition="entropy")
