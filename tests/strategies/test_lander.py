"""LANDER's anchors: where they are, the objective, the map that is learned and averaged, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import reference_baselines as classic
import reference_baselines3 as literal
from rounds import steps
from sessions import batch, logits, session
from small import BACKBONE, phase
from trials import same_bits, trial, weights

from fcil.errors import ConfigError
from fcil.method import Task
from strategies._anchors import frame, read_anchors
from strategies.fedavg import FedAvg
from strategies.lander import ANCHORS, BIAS, LANDER, MAP, WEIGHT

METHOD = LANDER(rank=2, dimension=7, pull=0.8, radius=0.3, current=0.6, previous=0.9, temperature=3.0)


@pytest.mark.parametrize("classes", [1, 4, 9])
def test_a_frame_is_orthogonal_and_of_mean_square_one(classes):
    anchors = frame(classes, 9, np.random.default_rng(classes)).astype(float)
    np.testing.assert_allclose(anchors @ anchors.T, 9 * np.eye(classes), atol=1e-5)


def mapped(record, arrays, features):
    """Features times the map that is among some arrays."""
    return features.astype(float) @ arrays[WEIGHT].astype(float).T + arrays[BIAS]


@pytest.mark.parametrize(("number", "radius"), [(0, 0.3), (0, 1e3), (2, 0.3), (2, 1e3)])
def test_the_objective_is_the_literal_one(number, radius):
    record, run, method = trial(METHOD).records[number], trial(METHOD), replace(METHOD, radius=radius)
    step = batch(session(run, record))
    sent, task, labels = record.broadcast, record.phase.task, step.labels.numpy()
    z = logits(run, sent.arrays, step.images, tuple(range(task.index + 1)))
    here = mapped(record, sent.arrays, step.features.detach().numpy())
    own = classic.cross_entropy(z[:, task.first :], labels - task.first)
    wanted = literal.lander_loss(own, here, sent.references[ANCHORS][labels].astype(float), 0.8, radius)
    if number:
        teacher = {n.removeprefix("teacher/"): a for n, a in sent.references.items() if n.startswith("teacher/")}
        model = run.fresh_model()
        model.load(teacher)
        there = mapped(record, teacher, model.features(step.images).detach().numpy())
        taught = classic.distillation(z[:, :2], logits(run, teacher, step.images, (0,)), 3.0)
        wanted = literal.lander_later(wanted, taught + literal.mean_square(here, there), 4, 2, 0.6, 0.9)
    np.testing.assert_allclose(method.loss(step).item(), wanted, rtol=1e-5)


def test_the_last_model_and_its_map_teach_and_stay_within_a_task():
    before, *later = (record for record in trial(METHOD).records[1:])
    for record in later:
        references = record.broadcast.references
        for name, a in {**before.after["module"], **before.after["head"], **before.after[MAP]}.items():
            np.testing.assert_array_equal(references[f"teacher/{name}"], a)
        np.testing.assert_array_equal(references[ANCHORS], before.before[ANCHORS][ANCHORS])


def test_the_map_is_averaged_and_not_deployed():
    for method, counts in ((METHOD, [1, 1, 1]), (replace(METHOD, weights="examples"), [3, 10, 1])):
        at, _, updates, state = next(steps(method))
        for name in (WEIGHT, BIAS):
            wanted = np.average([u.arrays[name] for u in updates], axis=0, weights=counts)
            np.testing.assert_allclose(state[MAP][name], wanted, rtol=1e-5, atol=1e-6)
        assert not state[MAP].keys() & method.deploy(state, at).keys()


def test_without_anchors_the_first_task_is_federated_averaging_bit_for_bit():
    alone = replace(METHOD, pull=0.0, weights="examples")
    assert same_bits(weights(alone)[:2], weights(FedAvg(rank=2))[:2])
    assert not same_bits(weights(METHOD)[:2], weights(FedAvg(rank=2))[:2])


# ---- anchors of a file -----------------------------------------------------------------------------------------------


def test_anchors_of_a_file_are_sent_as_they_are(tmp_path):
    rows = np.random.default_rng(0).normal(size=(4, 5))
    np.save(tmp_path / "names.npy", rows)
    method = LANDER(rank=2, anchors=str(tmp_path / "names.npy"))
    at = phase(task=Task(0, 0, 2))
    sent = method.broadcast(method.begin(method.init(BACKBONE, 4, 0), at, BACKBONE), at)
    assert sent.arrays[WEIGHT].shape == (5, BACKBONE.width)
    np.testing.assert_array_equal(sent.references[ANCHORS], rows.astype(np.float32))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.ones((3, 5)), r"shape \(3, 5\).*shape \(4, dimension\)"), (np.ones(4), r"shape \(4,\)"),
        (np.array([[1.0], [2.0], [np.nan], [4.0]]), "not finite"), (np.array([["a"]] * 4), "real numbers"),
        (np.array([[None]] * 4), "cannot be read"),
    ],
    ids=["fewer", "flat", "nan", "text", "objects"],
)  # fmt: skip
def test_a_file_with_anything_else_is_refused(tmp_path, rows, message):
    np.save(tmp_path / "odd.npy", rows)
    with pytest.raises(ConfigError, match=rf"method\.anchors = .*{message}"):
        read_anchors(str(tmp_path / "odd.npy"), 4)


def test_no_file_and_too_few_dimensions_are_refused(tmp_path):
    (tmp_path / "text.npy").write_text("no numbers")
    for name in ("nothing.npy", "text.npy"):
        with pytest.raises(ConfigError, match=r"method\.anchors = .*cannot be read"):
            LANDER(anchors=str(tmp_path / name)).init(BACKBONE, 4, 0)
    with pytest.raises(ConfigError, match=r"method\.dimension = 3: 4 classes"):
        LANDER(dimension=3).init(BACKBONE, 4, 0)
