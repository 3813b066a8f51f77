"""Closed forms on tokens of named layers: exact, and the same for every split and order."""

import numpy as np
import pytest
from features import tasks_of
from hypothesis import given, settings
from hypothesis import strategies as st
from layered import Images, answers, dealt, head_of, phases_of, run
from problems import close
from reference_features import (
    balanced_rows,
    discriminant_rows,
    fold_matrix,
    gcv_of_samples,
    one_hot,
)
from sklearn.linear_model import Ridge as Sklearn

from fcil.errors import ConfigError
from fcil.merging.cross_validation import STEPS
from fcil.merging.ridge import NEVER
from fcil.method import TOKENS, Tokens
from fcil.statistics.feature_map import fold_table, projection
from fcil.statistics.features import class_sums
from strategies.ncm import NCM
from strategies.ranpac import RanPAC
from strategies.ridge import Ridge

IMAGES = Images(0, 260)
C = 5
BLOCKS = {
    "list": ({"layers": (2, 4), "tokens": "grid:2"}, ((2, 2), (4, 2))),
    "another order": ({"layers": (4, 2), "tokens": "mean+class"}, ((4, 1), (4, 0), (2, 1), (2, 0))),
    "spread": ({"layers": "spread:2", "tokens": "class"}, ((2, 0), (5, 0))),
    "default tokens": ({"layers": (3,)}, ((3, 4),)),
    "uneven cells": ({"layers": (3,), "tokens": "grid:3"}, ((3, 3),)),
    "own features": ({}, ()),
}
every_map = pytest.mark.parametrize("name", BLOCKS)
splits = st.tuples(st.integers(0, 999), st.integers(1, 6), st.permutations([1, 2, 2]), st.integers(1, 60))


def central(x, penalty, images=IMAGES):
    return Sklearn(alpha=penalty, fit_intercept=False).fit(x.astype(np.float64), one_hot(images.labels, C)).coef_


@every_map
def test_ridge_is_scikit_learns_on_the_pooled_tokens(name):
    given, blocks = BLOCKS[name]
    method = Ridge(penalty=3.0, **given)
    steps = run(method, IMAGES, dealt(1, IMAGES, (2, 3), 3))
    rows, bias = head_of(method, steps)
    close(rows, central(IMAGES.features(blocks), 3.0), 1e-8)
    assert not bias.any()
    phase, state = steps[-1]
    deployed = method.deploy(state, phase)
    assert Tokens.of(deployed[TOKENS]).blocks == blocks if blocks else TOKENS not in deployed
    expected = IMAGES.features(blocks) @ central(IMAGES.features(blocks), 3.0).T
    close(answers(method, deployed, IMAGES), expected, 1e-4)


@pytest.mark.parametrize("name", [name for name in BLOCKS if BLOCKS[name][1]])
def test_folded_features_are_summed_as_the_explicit_map_gives_them(name):
    given, blocks = BLOCKS[name]
    method = Ridge(penalty=3.0, project=12, **given)
    steps = run(method, IMAGES, dealt(1, IMAGES, (2, 3), 3), seed=4)
    x = IMAGES.features(blocks).astype(np.float64)
    folds = x.shape[1] > 12
    x = x @ fold_matrix(fold_table(4, 12, (x.shape[1],)), x.shape[1]).T if folds else x
    close(head_of(method, steps)[0], central(x, 3.0), 1e-8)
    phase, state = steps[-1]
    close(answers(method, method.deploy(state, phase), IMAGES), x @ central(x, 3.0).T, 1e-4)


@pytest.mark.parametrize("project", [0, 12])
def test_random_features_are_made_of_the_folded_tokens(project):
    method = RanPAC(penalty=10.0, random=25, project=project, layers=(2, 4), tokens="grid:2")
    steps = run(method, IMAGES, dealt(1, IMAGES, (2, 3), 3))
    x = IMAGES.features(((2, 2), (4, 2))).astype(np.float64)
    x = x @ fold_matrix(fold_table(0, 12, (x.shape[1],)), x.shape[1]).T if project else x
    x = np.maximum(x @ projection(0, 25, x.shape[1]).astype(np.float64).T, 0)
    close(head_of(method, steps)[0], central(x, 10.0), 1e-8)
    same = Ridge(penalty=10.0, random=25, project=project, layers=(2, 4), tokens="grid:2")
    np.testing.assert_array_equal(head_of(same, run(same, IMAGES, dealt(1, IMAGES, (2, 3), 3)))[0],
                                  head_of(method, steps)[0])  # fmt: skip


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("project", [0, 12])
def test_class_means_are_those_of_the_pooled_tokens(normalise, project):
    method = NCM(layers=(2, 4), tokens="class+grid:2", normalise=normalise, project=project)
    steps = run(method, IMAGES, dealt(1, IMAGES, (2, 3), 3))
    x = IMAGES.features(((2, 0), (2, 2), (4, 0), (4, 2))).astype(np.float64)
    x = x @ fold_matrix(fold_table(0, 12, (x.shape[1],)), x.shape[1]).T if project else x
    x = x / np.linalg.norm(x, axis=1, keepdims=True) if normalise else x
    means = np.stack([x[IMAGES.labels == c].mean(0) for c in range(C)])
    phase, state = steps[-1]
    deployed = method.deploy(state, phase)
    close(np.concatenate([deployed[f"head.{t}.weight"] for t in range(2)]), means, 1e-5)
    nearest = np.square(x[:, None] - means).sum(2).argmin(1)
    assert (answers(method, deployed, IMAGES).argmax(1) == nearest).mean() > 0.99  # float32 may tie


@given(splits, st.sampled_from(["auto", "gcv", 2.0]), st.sampled_from(["ridge", "balanced", "lda"]))
@settings(max_examples=15)
def test_the_head_of_named_layers_is_the_same_for_every_split_and_order_of_tasks(case, penalty, solution):
    seed, clients, sizes, batch = case
    method = Ridge(penalty=penalty, solution=solution, layers=(1, 3), tokens="mean+grid:2")
    heads = [
        head_of(method, run(method, IMAGES, parts, size))
        for parts, size in ((dealt(0, IMAGES, (C,), 1), 300), (dealt(seed, IMAGES, sizes, clients), batch))
    ]
    close(heads[1][0], heads[0][0], 1e-8)
    close(heads[1][1], heads[0][1], 1e-8)


@given(st.permutations(range(C)))
@settings(max_examples=8)
def test_the_order_of_classes_only_moves_rows(order):
    method = Ridge(penalty="gcv", layers=(1, 3), tokens="grid:2")
    first = head_of(method, run(method, IMAGES, dealt(0, IMAGES, (2, 3), 3)))[0]
    moved = Images(0, 260)
    moved.labels = np.argsort(order)[IMAGES.labels]
    close(head_of(method, run(method, moved, dealt(3, moved, (1, 4), 2)))[0], first[list(order)], 1e-8)


def test_gcv_is_the_least_error_of_samples():
    method = Ridge(penalty="gcv", layers=(1, 3), tokens="mean")
    rows, _ = head_of(method, run(method, IMAGES, dealt(0, IMAGES, (2, 3), 3)))
    x, y = IMAGES.features(((1, 1), (3, 1))).astype(np.float64), one_hot(IMAGES.labels, C)
    unit = np.square(x).sum(0).mean()
    best = min(STEPS, key=lambda share: gcv_of_samples(x, y, unit * share))
    close(rows, central(x, unit * best), 1e-8)


@pytest.mark.parametrize("solution", ["balanced", "lda"])
def test_the_other_solutions_are_those_of_the_pooled_samples(solution):
    method = Ridge(penalty=3.0, solution=solution, layers=(1, 3), tokens="mean")
    rows, bias = head_of(method, run(method, IMAGES, dealt(0, IMAGES, (2, 3), 3)))
    x = IMAGES.features(((1, 1), (3, 1))).astype(np.float64)
    if solution == "lda":
        expected, expected_bias = discriminant_rows(x, IMAGES.labels, C, 3.0)
        close(rows, expected, 1e-8)
        close(bias, expected_bias, 1e-8)
    else:
        scatter = sum(np.cov(x[IMAGES.labels == c].T, bias=True) * (IMAGES.labels == c).sum() for c in range(C))
        means = np.stack([x[IMAGES.labels == c].mean(0) for c in range(C)])
        weight = len(x) / C
        close(rows, weight * means @ np.linalg.inv(scatter + weight * means.T @ means + 3.0 * np.eye(len(scatter))))
        assert np.abs(rows - balanced_rows(x, IMAGES.labels, C, 3.0)).max() < 0.1 * np.abs(rows).max()


@pytest.mark.parametrize("solution", ["ridge", "balanced", "lda"])
def test_a_class_that_nobody_holds_never_wins(solution):
    images = Images(2, 200)
    images.labels = np.where(images.labels == 3, 4, images.labels)
    method = Ridge(penalty=1.0, solution=solution, layers=(3,), tokens="grid:2")
    steps = run(method, images, dealt(0, images, (2, 3), 3))
    rows, bias = head_of(method, steps)
    np.testing.assert_array_equal(rows[3], 0)
    assert bias[3] == NEVER
    assert (np.delete(bias, 3) != NEVER).all()
    assert 3 not in answers(method, method.deploy(steps[-1][1], steps[-1][0]), images).argmax(1)


def test_float32_on_the_wire_moves_the_head_by_its_rounding():
    heads = []
    for wire in ("float64", "float32"):
        method = Ridge(penalty=5.0, layers=(1, 3), tokens="grid:2", project=20, wire=wire)
        heads.append(head_of(method, run(method, IMAGES, dealt(0, IMAGES, (2, 3), 3)))[0])
    distance = np.linalg.norm(heads[1] - heads[0]) / np.linalg.norm(heads[0])
    assert 0 < distance < 1e-4


@pytest.mark.parametrize("method", [Ridge(penalty=1.0), NCM()])
def test_the_networks_own_features_are_folded_only_where_that_is_asked_for(method):
    """Runs of before there was a fold give the same bits: also of wide backbones, and of two side by side."""
    phase = phases_of(method, tasks_of(2))[0]
    for width in (384, 2400, 2816):
        assert method.statistic(phase).shapes({"head.0.weight": (0, width)})[class_sums(0)] == (2, width)


def test_the_networks_own_features_are_never_folded_and_say_so():
    with pytest.raises(ConfigError, match=r"own features are not folded; name method\.layers"):
        run(Ridge(project=12), IMAGES, dealt(1, IMAGES, (2, 3), 3), seed=4)
