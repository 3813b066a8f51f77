"""NCM, ridge and RanPAC: the centralised solution, whoever holds which samples and in which order classes arrive."""

import numpy as np
import pytest
import torch
from features import collected, dealt, learned, samples, tasks_of
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import close
from reference_features import one_hot
from reference_features import ridge as ridge_of_samples
from sklearn.linear_model import Ridge as Sklearn

from fcil.arrays import symmetric_half, total
from fcil.errors import MergeError
from fcil.merging.ridge import NEVER
from fcil.method import Backbone, Phase, head
from fcil.statistics.feature_map import FeatureMap, projection
from fcil.statistics.features import FACTOR, GRAM, HELD, class_sums, counts
from strategies.ncm import NCM
from strategies.ranpac import RanPAC
from strategies.ridge import Ridge

WIDTH, CLASSES = 6, 5
cases = st.tuples(
    st.integers(0, 2**32 - 1),
    st.integers(1, 6),
    st.sampled_from([(5,), (2, 3), (1, 1, 3), (2, 2, 1)]),
    st.integers(1, 50),
)


def random_features(x, size, seed=0):
    return np.maximum(x.astype(np.float64) @ projection(seed, size, x.shape[1]).astype(np.float64).T, 0)


def central(phi, y, penalty, classes=CLASSES):
    return Sklearn(alpha=penalty, fit_intercept=False).fit(phi, np.eye(classes)[y]).coef_


@given(cases, st.floats(0.1, 100))
def test_ridge_is_scikit_learns_on_the_pooled_data(case, penalty):
    seed, clients, sizes, batch = case
    x, y = samples(seed, 80, WIDTH, CLASSES)
    method = Ridge(penalty=penalty)
    state, _ = learned(method, x, y, dealt(seed, y, tasks_of(*sizes), clients), batch=batch)
    rows, bias = method.solved_in(state, range(len(sizes)))
    close(rows, central(x.astype(np.float64), y, penalty))
    close(rows, ridge_of_samples(x.astype(np.float64), one_hot(y, CLASSES), penalty))
    np.testing.assert_array_equal(bias == 0, np.bincount(y, minlength=CLASSES) > 0)
    got = np.concatenate([state["sums"][counts(task)] for task in range(len(sizes))])
    np.testing.assert_array_equal(got, np.bincount(y, minlength=CLASSES))


def test_a_chosen_penalty_that_is_too_small_for_discriminants_grows_tenfold_until_it_is_not():
    """Rounding to float32 may make the scatter within classes indefinite where G, by which it was chosen, is not."""
    x, y = samples(0, 40, WIDTH, CLASSES)
    onehot = np.eye(CLASSES)[y]
    q, count = onehot.T @ x, onehot.sum(0)
    within = x.T @ x - (q / count[:, None]).T @ q
    lowest = np.linalg.eigvalsh(within)[0]
    gram = symmetric_half(x.T @ x - (lowest + 5e-3) * np.eye(WIDTH))  # the scatter's lowest eigenvalue is -0.005
    method = Ridge(solution="lda", penalty="gcv")
    with pytest.raises(MergeError, match="not positive definite"):
        method.solution_of(gram, q, count, 3e-3)
    for near, wanted in zip(
        method.solution_near(gram, q, count, 3e-4), method.solution_of(gram, q, count, 3e-2), strict=True
    ):
        np.testing.assert_allclose(near, wanted, rtol=1e-9)
    for near, wanted in zip(
        method.solution_near(gram, q, count, 0.5), method.solution_of(gram, q, count, 0.5), strict=True
    ):
        np.testing.assert_array_equal(near, wanted)
    with pytest.raises(MergeError, match="not positive definite"):
        method.solution_near(-gram, q, count, 1e-14)


@given(cases)
def test_ranpac_is_scikit_learns_on_random_features_of_the_pooled_data(case):
    seed, clients, sizes, batch = case
    x, y = samples(seed, 80, WIDTH, CLASSES)
    method = RanPAC(penalty=10.0, random=16)
    state, _ = learned(method, x, y, dealt(seed, y, tasks_of(*sizes), clients), batch=batch)
    rows, phi = method.solved_in(state, range(len(sizes)))[0], random_features(x, 16)
    close(rows, central(phi, y, 10.0))
    close(rows, ridge_of_samples(phi, one_hot(y, CLASSES), 10.0))


@given(cases, st.booleans())
def test_class_means_are_those_of_the_pooled_features(case, normalise):
    seed, clients, sizes, batch = case
    x, y = samples(seed, 80, WIDTH, CLASSES)
    state, phase = learned(NCM(normalise=normalise), x, y, dealt(seed, y, tasks_of(*sizes), clients), batch=batch)
    phi = x.astype(np.float64)
    phi = phi / np.linalg.norm(phi, axis=1, keepdims=True) if normalise else phi
    deployed = NCM(normalise=normalise).deploy(state, phase)
    for task in tasks_of(*sizes):
        for row, position in enumerate(task.positions):
            mean = phi[y == position].mean(0) if (y == position).any() else np.zeros(WIDTH)
            np.testing.assert_allclose(deployed[head.weight(task.index)][row], mean, rtol=1e-6, atol=1e-6)
            bias = -np.square(mean).sum() / 2 if (y == position).any() else np.float32(NEVER)
            np.testing.assert_allclose(deployed[head.bias(task.index)][row], bias, rtol=1e-6)


def test_the_head_of_ncm_orders_classes_as_distances_to_the_means_do():
    x, y = samples(0, 60, WIDTH, CLASSES)
    state, phase = learned(NCM(normalise=False), x, y, dealt(0, y, tasks_of(2, 3), 3))
    deployed = NCM(normalise=False).deploy(state, phase)
    means = np.stack([x[y == c].mean(0) for c in range(CLASSES)])
    rows = np.concatenate([deployed[head.weight(t)] for t in range(2)])
    bias = np.concatenate([deployed[head.bias(t)] for t in range(2)])
    nearest = np.square(x[:, None] - means).sum(2).argmin(1)
    np.testing.assert_array_equal((x @ rows.T + bias).argmax(1), nearest)


@given(st.permutations(range(CLASSES)))
def test_the_order_of_tasks_only_moves_columns(order):
    x, y = samples(1, 80, WIDTH, CLASSES)
    method = RanPAC(penalty=1.0, random=12)
    state, _ = learned(method, x, y, dealt(1, y, tasks_of(2, 3), 3))
    moved = np.argsort(order)[y]  # class order[p] comes at position p
    other, _ = learned(method, x, moved, dealt(2, moved, tasks_of(1, 4), 4))
    close(method.solved_in(other, range(2))[0], method.solved_in(state, range(2))[0][list(order)])


def test_a_class_that_nobody_holds_never_wins_and_changes_no_other_row():
    x, y = samples(2, 80, WIDTH, CLASSES)
    kept = y != 3
    method = Ridge(penalty=1.0)
    state, phase = learned(method, x[kept], y[kept], dealt(0, y[kept], tasks_of(2, 3), 2))
    deployed = method.deploy(state, phase)
    np.testing.assert_array_equal(deployed[head.weight(1)][1], 0)
    assert deployed[head.bias(1)].tolist() == [0, np.float32(NEVER), 0]
    close(method.solved_in(state, range(2))[0], central(x[kept].astype(np.float64), y[kept], 1.0))


@pytest.mark.parametrize("method", [NCM(), Ridge(), RanPAC(random=9), RanPAC(random=9, sketch=4, wire="float32")])
def test_sums_of_groups_add_and_a_client_without_samples_adds_nothing(method):
    """So groups may be summed far away, whatever their number."""
    x, y = samples(3, 50, WIDTH, 2)
    phase = Phase(0, "report", tasks_of(2)[0], 1, 0)
    state = method.begin(method.init(Backbone(WIDTH, {}), 2, 0), phase, Backbone(WIDTH, {}))
    sent = method.broadcast(state, phase)
    each = [collected(method, phase, sent, x[c::3], y[c::3], c) for c in range(3)]
    nobody = collected(method, phase, sent, x[:0], y[:0], 3)
    apart = total([method.sums(phase, sent, each[:1]), method.sums(phase, sent, [*each[1:], nobody])])
    together = method.sums(phase, sent, each)
    assert apart.keys() == together.keys() == state["sums"].keys()
    for name, a in together.items():
        assert a.shape == state["sums"][name].shape
        close(apart[name], a, 1e-12)


# ---- the penalty, the wire, the sketch -------------------------------------------------------------------------------


def test_held_out_samples_are_a_tenth_apart_from_the_others_and_the_same_whoever_holds_them():
    x, y = samples(4, 2000, WIDTH, CLASSES)
    splits = [(7, 1, 0), (7, 4, 0), (500, 9, 1)]
    runs = [learned(Ridge(), x, y, dealt(seed, y, tasks_of(5), n), batch=b)[0]["sums"] for b, n, seed in splits]
    plain = learned(Ridge(penalty=1.0), x, y, dealt(5, y, tasks_of(5), 1))[0]["sums"]
    held = runs[0][HELD + counts(0)].sum()
    assert abs(held - 200) < 4 * np.sqrt(2000 * 0.1 * 0.9)
    for name in (GRAM, class_sums(0), counts(0)):
        close(runs[0][name] + runs[0][HELD + name], plain[name], 1e-12)
        for other in runs[1:]:
            close(other[HELD + name], runs[0][HELD + name], 1e-12)
    other = learned(Ridge(), x, y, dealt(0, y, tasks_of(5), 1), seed=1)[0]["sums"]
    assert np.abs(other[HELD + counts(0)] - runs[0][HELD + counts(0)]).max() > 0


@given(seed=st.integers(0, 9), clients=st.integers(1, 6), sizes=st.permutations([1, 2, 2]))
@settings(deadline=None, max_examples=20)
def test_with_auto_too_the_head_is_the_same_for_every_split_and_order_of_tasks(seed, clients, sizes):
    x, y = samples(8, 200, WIDTH, CLASSES)
    heads = []
    for parts in (dealt(0, y, tasks_of(5), 1), dealt(seed, y, tasks_of(*sizes), clients)):
        state, _ = learned(Ridge(), x, y, parts)
        heads.append(Ridge().solved_in(state, range(len(parts)))[0])
    close(heads[1], heads[0], 1e-8)


def test_with_auto_the_head_is_the_ridge_of_all_samples_at_one_of_the_penalties():
    x, y = samples(6, 300, WIDTH, CLASSES)
    method = Ridge()
    state, _ = learned(method, x, y, dealt(0, y, tasks_of(2, 3), 3))
    rows, _ = method.solved_in(state, range(2))
    unit = np.square(x.astype(np.float64)).sum(0).mean()
    errors = [np.abs(rows - central(x.astype(np.float64), y, unit * 10.0**k)).max() for k in range(-8, 3)]
    assert min(errors) < 1e-8


def test_float32_on_the_wire_moves_the_solution_by_its_rounding_and_halves_the_bytes():
    x, y = samples(7, 400, WIDTH, CLASSES)
    parts = dealt(0, y, tasks_of(2, 3), 3)
    solutions = {}
    for wire in ("float64", "float32"):
        method = RanPAC(penalty=100.0, random=40, wire=wire)
        solutions[wire] = method.solved_in(learned(method, x, y, parts)[0], range(2))[0]
    difference = np.linalg.norm(solutions["float32"] - solutions["float64"]) / np.linalg.norm(solutions["float64"])
    assert 0 < difference < 1e-4


@pytest.mark.parametrize("size", [5, 20])
def test_a_sketch_of_full_rank_loses_nothing_and_a_smaller_one_is_the_best_of_its_rank(size):
    x, y = samples(8, 100, WIDTH, 2)
    phase = Phase(0, "report", tasks_of(2)[0], 1, 0)
    phi = random_features(x, size)
    values = np.linalg.eigvalsh(phi.T @ phi)
    for rank in (1, size // 2, size, size + 3):
        method = RanPAC(penalty=1.0, random=size, sketch=rank)
        sent = method.broadcast(method.begin({}, phase, Backbone(WIDTH, {})), phase)
        factor = collected(method, phase, sent, x, y, 0).statistics[FACTOR]
        assert factor.shape == (min(rank, size), size)
        lost = np.linalg.norm(phi.T @ phi - factor.T @ factor, 2)
        best = values[-rank - 1] if rank < size else 0.0  # Eckart, Young, Mirsky
        assert lost == pytest.approx(best, rel=1e-6, abs=1e-8 * values[-1])


def test_the_projection_is_the_seeds_alone_and_standard_normal():
    r = projection(0, 300, 200)
    assert r.dtype == np.float32
    assert abs(r.mean()) < 5 / np.sqrt(r.size)
    assert abs(r.std() - 1) < 5 / np.sqrt(2 * r.size)
    projection.cache_clear()
    np.testing.assert_array_equal(projection(0, 300, 200), r)
    assert not np.array_equal(projection(1, 300, 200), r)
    with pytest.raises(ValueError, match="read-only"):
        r[0, 0] = 1.0


def test_features_of_length_zero_stay_finite_when_they_are_normalised():
    assert FeatureMap(normalised=True).apply(torch.zeros(2, 3)).isfinite().all()
