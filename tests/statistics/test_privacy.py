"""Noise on sums of clipped features: what one sample can change of it, how it is spread, and its accounting."""

import json
import sys
from dataclasses import replace
from math import erfc, exp, sqrt

import numpy as np
import pytest
from features import dealt, learned, samples, tasks_of
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import close

from fcil.arrays import symmetric_half
from fcil.client.settings import Train
from fcil.config import Config, MethodChoice, Run
from fcil.data import Data
from fcil.engine.simulation import prepare, simulate
from fcil.errors import ConfigError
from fcil.merging import packed
from fcil.method import Backbone
from fcil.model.backbone import Model
from fcil.registry import build_method
from fcil.scenario.partition import Partition
from fcil.scenario.tasks import Tasks
from fcil.statistics import privacy
from fcil.statistics.features import GRAM, class_sums, counts
from fcil.statistics.privacy import SHARES, SumsNoise, epsilon_of, multiplier_for, positive_part
from strategies.ridge import Ridge

WIDTH, CLASSES = 5, 3
NOISE = SumsNoise(2.0, 3.0)
seeds = st.integers(0, 2**31)


@pytest.fixture
def accounted(monkeypatch):
    """In the place of dp-accounting, for what does not look at the figure."""
    monkeypatch.setattr("strategies._private.epsilon_of", lambda multiplier, delta: 1.5)


def whole_contribution(phi, label):
    """What one sample adds to the sums: G as a whole matrix, so that its norm is that of Frobenius."""
    hot = np.eye(CLASSES)[label]
    return {"gram": np.outer(phi, phi), "class_sums": np.outer(hot, phi), "counts": hot}


@given(seeds, st.floats(0.1, 10), st.floats(0.1, 10))
@settings(max_examples=50, deadline=None)
def test_one_sample_moves_all_sums_together_by_one_over_the_multiplier(seed, multiplier, clip):
    """The definition of a Gaussian mechanism of this multiplier: in units of the deviations a move of 1 / z at most."""
    rng = np.random.default_rng(seed)
    phi = rng.standard_normal(WIDTH)
    phi *= clip * rng.choice([1.0, rng.random()]) / np.linalg.norm(phi)
    noise, total = SumsNoise(multiplier, clip), 0.0
    for kind, a in whole_contribution(phi, int(rng.integers(CLASSES))).items():
        total += float(np.square(a / noise.deviation(kind)).sum())
    assert sqrt(total) <= (1 + 1e-9) / multiplier
    longest = whole_contribution(clip * np.eye(WIDTH)[0], 0)
    reached = sum(float(np.square(a / noise.deviation(kind)).sum()) for kind, a in longest.items())
    assert sqrt(reached) == pytest.approx(1 / multiplier)  # no more noise than that takes
    assert sum(SHARES.values()) == pytest.approx(1)


def draws(n=20_000):
    zeros = {"gram": np.zeros(WIDTH * (WIDTH + 1) // 2), "class_sums.0": np.zeros((2, WIDTH)), "counts.0": np.zeros(2)}
    rng = np.random.default_rng(0)
    return [NOISE.added(zeros, rng) for _ in range(n)]


def test_noise_of_a_gram_is_symmetric_and_the_same_in_every_direction():
    made, rng = draws(), np.random.default_rng(1)
    grams = np.stack([packed.whole(d["gram"]) for d in made])
    for _ in range(5):
        direction = rng.standard_normal((WIDTH, WIDTH))
        direction = (direction + direction.T) / np.linalg.norm(direction + direction.T)
        along = np.einsum("kij,ij->k", grams, direction)
        deviation = NOISE.deviation("gram")
        assert abs(along.mean()) < 5 * deviation / sqrt(len(made))
        assert abs(along.std() / deviation - 1) < 5 / sqrt(2 * len(made))


@pytest.mark.parametrize("name", ["class_sums.0", "counts.0"])
def test_noise_of_other_sums_has_its_deviation(name):
    values = np.stack([d[name] for d in draws()]).reshape(-1)
    deviation = NOISE.deviation(name.partition(".")[0])
    assert abs(values.mean()) < 5 * deviation / sqrt(len(values))
    assert abs(values.std() / deviation - 1) < 5 / sqrt(2 * len(values))


@given(seeds, st.integers(1, 8))
@settings(max_examples=30, deadline=None)
def test_the_positive_part_is_the_nearest_matrix_without_negative_eigenvalues(seed, n):
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((n, n))
    matrix = matrix + matrix.T
    found = packed.whole(positive_part(symmetric_half(matrix)))
    assert np.linalg.eigvalsh(found).min() > -1e-9
    values = np.linalg.eigvalsh(matrix)
    assert np.linalg.norm(found - matrix) == pytest.approx(np.linalg.norm(np.minimum(values, 0)), abs=1e-9)
    good = symmetric_half(matrix @ matrix.T + np.eye(n))
    assert positive_part(good) is good


# ---- accounting ------------------------------------------------------------------------------------------------------


def delta_of(epsilon, multiplier):
    """Balle and Wang, ICML 2018, arXiv 1805.06530, theorem 5: the exact delta of a Gaussian mechanism."""

    def below(x):
        return erfc(-x / sqrt(2)) / 2

    half, rest = 1 / (2 * multiplier), epsilon * multiplier
    return below(half - rest) - exp(epsilon) * below(-half - rest)


@pytest.mark.parametrize("multiplier", [0.5, 1.0, 3.73, 10.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-5])
def test_epsilon_is_that_of_the_exact_formula_and_never_below(multiplier, delta):
    pytest.importorskip("dp_accounting")
    epsilon = epsilon_of(multiplier, delta)
    assert delta_of(epsilon, multiplier) <= delta * (1 + 1e-9)
    assert delta_of(epsilon * 0.99, multiplier) > delta


def test_the_multiplier_for_an_epsilon_gives_it():
    pytest.importorskip("dp_accounting")
    for epsilon in (0.5, 1.0, 8.0):
        assert epsilon_of(multiplier_for(epsilon, 1e-5), 1e-5) == pytest.approx(epsilon, rel=1e-3)


def test_without_the_library_there_is_no_noise(monkeypatch):
    privacy.epsilon_of.cache_clear()
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ConfigError, match=r"fcil\[privacy\]"):
        Ridge(clip=1.0, noise=1.0).init(Backbone(4, {}), 3, 0)
    assert Ridge(clip=1.0).init(Backbone(4, {}), 3, 0) == {}


# ---- the method ------------------------------------------------------------------------------------------------------


def case(clients=3):
    x, y = samples(4, 60, WIDTH, CLASSES)
    return x, y, dealt(4, y, tasks_of(2, 1), clients)


@pytest.mark.parametrize("penalty", [1.0, "auto"])
def test_the_server_adds_noise_once_and_every_client_its_own(accounted, penalty):
    x, y, parts = case()
    clean, _ = learned(Ridge(clip=2.0, penalty=penalty), x, y, parts)
    for place, times in (("server", 1), ("client", 3)):
        method = Ridge(clip=2.0, penalty=penalty, noise=50.0, noise_at=place)
        state, _ = learned(method, x, y, parts)
        again, _ = learned(method, x, y, parts)
        other, _ = learned(method, x, y, parts, seed=1)
        for name in (GRAM, class_sums(0), counts(0)):
            added = state["sums"][name] - clean["sums"][name]
            noise = SumsNoise(50.0, 2.0)
            unit = noise.deviation(name.partition(".")[0]) * sqrt(times * (2 if name == GRAM else 1))  # G: of two tasks
            assert 0.2 < np.sqrt(np.mean(np.square(added))) / unit < 3
            np.testing.assert_array_equal(state["sums"][name], again["sums"][name])
            assert not np.array_equal(state["sums"][name], other["sums"][name])
        rows, bias = method.solved_in(state, range(2))
        assert np.isfinite(rows).all()
        assert np.isfinite(bias).all()


def test_a_class_with_samples_can_be_predicted_whatever_the_noise_makes_of_its_count(accounted):
    x, y, parts = case()
    method = Ridge(clip=2.0, penalty=1.0, noise=50.0)
    state, _ = learned(method, x, y, parts)
    assert min(state["sums"][counts(task)].min() for task in range(2)) < 0, "noise below zero"
    np.testing.assert_array_equal(method.solved_in(state, range(2))[1], np.zeros(CLASSES))


def test_little_noise_moves_the_head_little(accounted):
    x, y, parts = case()
    clean = Ridge(clip=2.0, penalty=1.0)
    noisy = replace(clean, noise=1e-9)
    wanted, found = (m.solved_in(learned(m, x, y, parts)[0], range(2))[0] for m in (clean, noisy))
    close(found, wanted, 1e-6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ridge", {"noise": 1.0}, r"method\.clip"),
        ("ridge", {"noise": 1.0, "clip": 1.0, "penalty": "accuracy"}, "accounted"),
        ("ridge", {"noise": 1.0, "clip": 1.0, "penalty": "gcv"}, "accounted"),
        ("ridge", {"noise": 1.0, "clip": 1.0, "solution": "lda"}, "accounted"),
        ("ranpac", {"noise": 1.0, "clip": 1.0, "sketch": 4, "penalty": 1.0}, "accounted"),
        ("ridge", {"noise": 1.0, "clip": 1.0, "layers": "auto"}, "layers"),
        ("lorm+ranpac", {"noise": 1.0, "clip": 1.0}, "would not be private"),
    ],
)
def test_what_is_not_accounted_is_refused(accounted, name, options, message):
    backbone = Backbone(4, {"blocks.0.attn.qkv": (4, 4)}, blocks=4, grid=(2, 2))
    with pytest.raises(ConfigError, match=message):
        build_method(name, options).init(backbone, 3, 0)


def test_a_filter_that_sees_sums_before_the_noise_is_refused(accounted):
    """One sample may decide who is left out: of five alike clients the longest is, and then another one is the longest.

    At the clients the noise comes first, so that a filter is told nothing that is not private.
    """
    noisy = {"clip": 5.0, "noise": 2.0}
    for place, text, refused in (("server", "median", True), ("client", "median", False), ("server", "none", False)):
        method = MethodChoice("ridge", {**noisy, "noise_at": place})
        config = replace(CONFIG, method=method, run=Run(filter=text))
        if not refused:
            prepare(config)
            continue
        with pytest.raises(ConfigError, match=r"run\.filter = 'median': sees the clients' sums before the server"):
            prepare(config)
    prepare(replace(CONFIG, method=MethodChoice("ridge", {"noise_at": "server"}), run=Run(filter="median")))


@pytest.mark.parametrize("place", ["client", "server"])
def test_samples_that_several_clients_hold_are_not_accounted(accounted, place):
    shared = Partition(clients=3, kind="shared_classes", classes_per_client=4, min_samples=1)
    method = MethodChoice("ridge", {"clip": 5.0, "noise": 2.0, "noise_at": place})
    with pytest.raises(ConfigError, match="several clients hold the same samples"):
        prepare(replace(CONFIG, partition=shared, method=method))
    prepare(replace(CONFIG, partition=shared, method=MethodChoice("ridge", {})))


CONFIG = Config(
    data=Data(train_limit=100, test_limit=40),
    tasks=Tasks(count=2),
    model=Model(image_size=16),
    partition=Partition(clients=3, kind="iid"),
    train=Train(rounds=1, epochs=1),
)


@pytest.mark.parametrize("place", ["client", "server"])
def test_a_run_tells_its_privacy_and_no_noisy_sum_is_refused(accounted, tmp_path, place):
    """A noisy Gram may have a negative diagonal and counts that are no counts: both are admitted where noise is."""
    settings = {"clip": 5.0, "noise": 200.0, "noise_at": place}
    sha = set()
    for groups in (False, True):
        config = replace(CONFIG, method=MethodChoice("ridge", settings), run=Run(aggregate_on_worker=groups))
        folder = tmp_path / str(groups)
        summary = simulate(prepare(config, folder), folder)
        told = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert summary["refused"] == 0
        notes = [e["notes"]["privacy"] for e in told if e["event"] == "task"]
        assert notes == [notes[0]] * 2
        assert "epsilon 1.5 at delta 1e-05 for each sample" in notes[0]
        assert ("client" in notes[0]) == (place == "client")
        sha.add(summary["sha256"])
    again = replace(CONFIG, method=MethodChoice("ridge", settings))
    assert simulate(prepare(again, tmp_path / "again"), tmp_path / "again")["sha256"] in sha
