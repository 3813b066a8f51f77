"""What a client claims to be sums of features: true sums are never objected to, and what is accepted moves W little."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from features import collected, dealt, learned, samples, tasks_of
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import close
from sklearn.linear_model import Ridge as Sklearn

from fcil.arrays import symmetric_half
from fcil.errors import ConfigError
from fcil.merging import packed
from fcil.merging.ridge import ridge_rows, semidefinite
from fcil.method import Backbone, Phase
from fcil.statistics.claims import counts_objection, sums_objection
from fcil.statistics.feature_map import FeatureMap
from fcil.statistics.features import FACTOR, GRAM, HELD, class_sums, counts
from fcil.statistics.right_answers import RIGHT, SCORED, RightAnswers
from strategies.ncm import NCM
from strategies.ranpac import RanPAC
from strategies.ridge import Ridge

WIDTH, CLASSES, R = 6, 4, 2.0
seeds = st.integers(0, 2**31)


def clipped(x, clip):
    out = []
    for row in x.astype(np.float64):
        length = np.sqrt(sum(v * v for v in row))
        out.append(row * min(1.0, clip / length) if length else row)
    return np.stack(out)


def reported(method, seed=0, n=30, scale=1.0, width=WIDTH):
    """One client's update, and the arguments by which the method is asked for its objections."""
    (task,) = tasks_of(CLASSES)
    x, y = samples(seed, n, width, CLASSES)
    phase = Phase(0, "report", task, 1, 0)
    state = method.begin(method.init(Backbone(width, {}), CLASSES, 0), phase, Backbone(width, {}))
    broadcast = method.broadcast(state, phase)
    return phase, broadcast, collected(method, phase, broadcast, (scale * x).astype(np.float32), y, 0)


METHODS = (
    Ridge(penalty=1.0), Ridge(), Ridge(clip=R), Ridge(clip=R, wire="float32"), Ridge(clip=100.0, penalty=1.0),
    Ridge(clip=R, random=9), RanPAC(random=8, clip=1.0), RanPAC(random=8, sketch=3, penalty=1.0, clip=1.0), NCM(),
    NCM(clip=0.5),
)  # fmt: skip


@pytest.mark.parametrize("method", METHODS, ids=str)
@given(seed=seeds, n=st.sampled_from([1, 2, 5, 40]), scale=st.sampled_from([0.0, 1e-6, 1.0, 1e6]))
@settings(max_examples=8, deadline=None)
def test_true_sums_are_never_objected_to(method, seed, n, scale):
    assert method.objection(*reported(method, seed, n, scale)) is None


@given(seeds, st.integers(1, 90), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_outer_products_are_subtracted_from_a_half(seed, n, m):
    rng = np.random.default_rng(seed)
    matrix, rows = rng.standard_normal((n, n)), rng.standard_normal((m, n))
    matrix = matrix + matrix.T
    close(packed.whole(packed.less_outer(symmetric_half(matrix), rows)), matrix - rows.T @ rows)


@pytest.mark.parametrize("least", [-1.0, -1e-3, 1e-3, 1.0])
def test_a_negative_eigenvalue_is_found(least):
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.standard_normal((7, 7)))
    half = symmetric_half((q * np.array([least, *range(1, 7)])) @ q.T)
    assert semidefinite(half, 1e-6) == (least > 0)
    assert semidefinite(half, 2.0)
    assert semidefinite(np.zeros(28), 0.0)


@given(seeds, st.floats(0.01, 10), st.integers(0, 8))
@settings(max_examples=30, deadline=None)
def test_features_are_scaled_down_to_the_norm_and_no_further(seed, clip, random):
    x = np.random.default_rng(seed).standard_normal((9, WIDTH)).astype(np.float32)
    x[0] = 0
    made = FeatureMap(clip=clip, random=random).on(torch.device("cpu"), WIDTH)(torch.tensor(x)).numpy()
    plain = FeatureMap(random=random).on(torch.device("cpu"), WIDTH)(torch.tensor(x)).numpy()
    close(made, clipped(plain, clip))
    assert (np.linalg.norm(made, axis=1) <= clip * (1 + 1e-12)).all()


@given(seeds, st.integers(1, 5), st.floats(0.1, 5))
@settings(max_examples=20, deadline=None)
def test_the_head_is_the_centralised_one_of_clipped_features(seed, clients, clip):
    x, y = samples(seed, 60, WIDTH, CLASSES)
    method = Ridge(penalty=0.5, clip=clip)
    state, _ = learned(method, x, y, dealt(seed, y, tasks_of(2, 2), clients))
    phi = clipped(x, clip)
    wanted = Sklearn(alpha=0.5, fit_intercept=False).fit(phi, np.eye(CLASSES)[y]).coef_
    close(method.solved_in(state, range(2))[0], wanted)


def with_sums(update, **changes):
    return replace(update, statistics={**update.statistics, **changes})


Q, N = class_sums(0), counts(0)


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        (lambda s: {N: s[N] + 1}, "add up to 34"),
        (lambda s: {N: s[N] - (s[N] == s[N].max())}, "add up to 29"),
        (lambda s: {N: s[N] + [0.5, -0.5, 0, 0]}, "whole numbers"),
        (lambda s: {N: s[N] * 0 + [31, -1, 0, 0]}, "whole numbers"),
        (lambda s: {N: np.array([30.0, 0, 0, 0])}, "without samples has a class sum"),
        (lambda s: {Q: 1000 * s[Q]}, "longer than its samples"),
        (lambda s: {GRAM: 1000 * s[GRAM]}, "trace of G"),
        (lambda s: {GRAM: 0.001 * s[GRAM]}, "longer than samples with this G"),
        (lambda s: {GRAM: indefinite(s[GRAM])}, "negative eigenvalues"),
    ],
)
def test_every_kind_of_lie_is_named(lie, reason):
    method = Ridge(penalty=1.0, clip=R)
    phase, broadcast, update = reported(method)
    lying = with_sums(update, **lie(update.statistics))
    assert reason in method.objection(phase, broadcast, lying)


def indefinite(half):
    """Of the same trace, with large entries beside the diagonal: a diagonal of no negative entry proves nothing."""
    matrix = packed.whole(half)
    matrix[0, 1] = matrix[1, 0] = 50 * np.trace(matrix)
    return symmetric_half(matrix)


def test_lies_about_held_out_sums_and_sketches_are_found_too():
    method = Ridge(clip=R)
    phase, broadcast, update = reported(method, n=200)
    lying = with_sums(update, **{HELD + Q: 1e3 * update.statistics[HELD + Q]})
    assert method.objection(phase, broadcast, lying).startswith(HELD)
    method = RanPAC(random=8, sketch=3, penalty=1.0, clip=1.0)
    phase, broadcast, update = reported(method)
    lying = with_sums(update, **{FACTOR: 1e3 * update.statistics[FACTOR]})
    assert "trace of G" in method.objection(phase, broadcast, lying)


def test_without_a_norm_only_contradictions_are_found():
    method = Ridge(penalty=1.0)
    phase, broadcast, update = reported(method)
    s = update.statistics
    assert method.objection(phase, broadcast, with_sums(update, **{Q: 1e3 * s[Q], GRAM: 1e6 * s[GRAM]})) is None
    assert method.objection(phase, broadcast, with_sums(update, **{Q: 1e3 * s[Q]}))
    assert method.objection(phase, broadcast, with_sums(update, **{N: s[N][::-1] * 0})) is not None


def test_right_answers_are_of_the_samples_that_were_scored():
    (task,) = tasks_of(2)
    answers = RightAnswers(task, FeatureMap())
    good = {RIGHT: np.array([3.0, 0.0]), SCORED: np.array([3.0])}
    assert answers.objection(good, 3) is None
    for name, a in ((RIGHT, [4.0, 0]), (RIGHT, [-1.0, 0]), (RIGHT, [0.5, 0]), (SCORED, [4.0]), (SCORED, [2.5])):
        assert answers.objection({**good, name: np.array(a)}, 3)


# ---- what one client can move ----------------------------------------------------------------------------------------


def honest(seed, n):
    x, y = samples(seed, n, WIDTH, CLASSES)
    phi, hot = clipped(x, R), np.eye(CLASSES)[y]
    return phi.T @ phi, hot.T @ phi


def attack(seed, n, kind):
    """Sums that are accepted, made by somebody who wants to move the head: of samples, or of none."""
    rng = np.random.default_rng(seed)
    if kind == "samples":  # of the largest norm, all in one direction, with labels at will
        direction = rng.standard_normal(WIDTH)
        phi = np.tile(R * direction / np.linalg.norm(direction), (n, 1)) * rng.choice([-1, 1], (n, 1))
        hot = np.eye(CLASSES)[np.full(n, rng.integers(CLASSES))]
        return phi.T @ phi, hot.T @ phi, hot.sum(0)
    count = rng.multinomial(n, np.ones(CLASSES) / CLASSES).astype(float)
    q = rng.standard_normal((CLASSES, WIDTH))
    q *= (count * R * rng.uniform(0, 1, CLASSES) / np.linalg.norm(q, axis=1))[:, None]
    present = count > 0
    gram = (q[present] / count[present][:, None]).T @ q[present]
    rest = rng.standard_normal((WIDTH, WIDTH))
    rest = rest @ rest.T
    gram += rest * max(0.0, n * R**2 - np.trace(gram)) / np.trace(rest)
    return gram, q, count


@given(seeds, st.integers(5, 200), st.integers(1, 200), st.floats(1e-3, 100), st.sampled_from(["samples", "none"]))
@settings(max_examples=200, deadline=None)
def test_one_client_moves_the_head_by_no_more_than_the_bound(seed, others, n, penalty, kind):
    """|W - W_o|_F <= n R (1 + R |W_o|_2) / (penalty + least eigenvalue of G_o), W_o without the client."""
    g_o, q_o = honest(seed, others)
    g, q, count = attack(seed + 1, n, kind)
    assert counts_objection(count, n) is None
    assert sums_objection(count, q, symmetric_half(g), R) is None
    without = ridge_rows(symmetric_half(g_o), q_o, penalty)
    with_it = ridge_rows(symmetric_half(g_o + g), q_o + q, penalty)
    least = max(0.0, float(np.linalg.eigvalsh(g_o)[0]))
    bound = n * R * (1 + R * np.linalg.norm(without, 2)) / (penalty + least)
    assert np.linalg.norm(with_it - without) <= bound * (1 + 1e-9)


def test_layers_that_are_chosen_are_not_clipped():
    with pytest.raises(ConfigError, match=r"method\.clip"):
        Ridge(layers="auto", clip=1.0, penalty="gcv").init(Backbone(4, {}, blocks=4, grid=(2, 2)), 3, 0)
