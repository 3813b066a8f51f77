"""Closed forms on tokens of layers, which may be chosen from sums: exact, and the same for every split and order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layered import DEPTH, VIT, WIDTH, Images, answers, dealt, head_of, phases_of, reported, run
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
from fcil.merging.ridge import GRID, NEVER
from fcil.method import TOKENS, Backbone, Tokens
from fcil.statistics.feature_map import fold_table, projection
from fcil.statistics.features import GRAM, HELD, counts, held_out
from fcil.statistics.right_answers import BIASES, HEADS, RIGHT
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
FIRST = {"layers": "auto", "candidates": 60, "tokens": "grid:2"}
ANEW = {**FIRST, "choose": "every_task"}


def central(x, penalty, images=IMAGES):
    return Sklearn(alpha=penalty, fit_intercept=False).fit(x.astype(np.float64), one_hot(images.labels, C)).coef_


def blocks_of(state):
    return Tokens.of(state["rows"][TOKENS]).blocks


# ---- named layers ----------------------------------------------------------------------------------------------------


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


@every_map
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


# ---- layers chosen from sums -----------------------------------------------------------------------------------------


@given(splits, st.sampled_from(["gcv", "auto", 2.0]))
@settings(max_examples=10)
def test_chosen_anew_the_head_is_the_same_for_every_split_and_order_of_tasks(case, penalty):
    seed, clients, sizes, batch = case
    method = Ridge(penalty=penalty, **ANEW)
    whole, other = (
        run(method, IMAGES, parts, size)
        for parts, size in ((dealt(0, IMAGES, (C,), 1), 300), (dealt(seed, IMAGES, sizes, clients), batch))
    )
    np.testing.assert_array_equal(other[-1][1]["chosen"]["blocks"], whole[-1][1]["chosen"]["blocks"])
    close(head_of(method, other)[0], head_of(method, whole)[0], 1e-8)


@given(st.integers(0, 999), st.integers(1, 6), st.integers(1, 60), st.sampled_from(["gcv", "auto", "accuracy", 2.0]))
@settings(max_examples=10)
def test_chosen_in_the_first_task_the_head_is_the_same_for_every_split(seed, clients, batch, penalty):
    method = Ridge(penalty=penalty, **FIRST)
    whole, other = (
        run(method, IMAGES, parts, size)
        for parts, size in ((dealt(0, IMAGES, (2, 3), 1), 300), (dealt(seed, IMAGES, (2, 3), clients), batch))
    )
    assert blocks_of(other[-1][1]) == blocks_of(whole[-1][1])
    close(head_of(method, other)[0], head_of(method, whole)[0], 1e-8)


@pytest.mark.parametrize("given", [FIRST, ANEW, {**FIRST, "penalty": "accuracy"}, {"layers": (2, 3)}], ids=str)
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_groups_of_clients_may_be_summed_where_they_are(given, groups):
    method = Ridge(**{"penalty": "gcv", **given})
    assert method.additive
    parts = dealt(3, IMAGES, (2, 3), 5)
    alone, grouped = run(method, IMAGES, parts), run(method, IMAGES, parts, groups=groups)
    for (_, before), (_, after) in zip(alone, grouped, strict=True):
        assert {g: list(a) for g, a in before.items()} == {g: list(a) for g, a in after.items()}
    close(head_of(method, grouped)[0], head_of(method, alone)[0], 1e-10)


def test_the_first_task_has_a_report_to_choose_and_one_with_the_chosen_tokens_in_full():
    method = Ridge(penalty="gcv", **FIRST)
    steps = run(method, IMAGES, dealt(0, IMAGES, (2, 3), 3))
    assert [(phase.task.index, phase.round) for phase, _ in steps] == [(0, 1), (0, 2), (1, 1)]
    chosen = blocks_of(steps[0][1])
    assert len(chosen) == 3
    assert 3 in [layer for layer, _ in chosen]  # the only one that tells much
    assert {side for _, side in chosen} == {2}
    assert all(blocks_of(state) == chosen for _, state in steps)
    assert not steps[0][1]["sums"][GRAM].any()  # begins anew
    named = Ridge(penalty="gcv", layers=tuple(layer for layer, _ in chosen), tokens="grid:2")
    other = run(named, IMAGES, dealt(0, IMAGES, (2, 3), 3))
    close(head_of(method, steps)[0], head_of(named, other)[0], 1e-12)
    note = method.notes(steps[-1][1], steps[-1][0])
    assert note == {"layers": [layer for layer, _ in chosen], "tokens": [2, 2, 2]}


def test_the_choice_of_the_first_task_reads_that_tasks_sums_alone():
    method = Ridge(penalty="gcv", **FIRST)
    first, later = Images(5, 200), Images(5, 200)
    later.layers = [np.where(first.labels[:, None, None] < 2, a, 0) for a in first.layers]
    runs = [run(method, images, dealt(0, images, (2, 3), 3)) for images in (first, later)]
    assert blocks_of(runs[0][-1][1]) == blocks_of(runs[1][-1][1])


def test_candidates_are_summed_as_the_explicit_maps_of_every_block_give_them():
    method = Ridge(penalty="gcv", **{**ANEW, "tokens": "class+grid:2"})
    state = run(method, IMAGES, dealt(0, IMAGES, (2, 3), 3), seed=6)[-1][1]
    blocks = [(layer, side) for layer in range(1, DEPTH + 1) for side in (0, 2)]
    assert list(blocks_of(state)) == blocks
    x = IMAGES.features(tuple(blocks)).astype(np.float64)
    lengths = tuple(WIDTH * (side**2 or 1) for _, side in blocks)
    phi = x @ fold_matrix(fold_table(6, 6, lengths), x.shape[1]).T  # 60 numbers for 10 blocks
    close(state["sums"][GRAM], (phi.T @ phi)[np.triu_indices(60)], 1e-10)


@pytest.mark.parametrize("penalty", ["gcv", "auto", 2.0])
def test_chosen_anew_the_head_is_ridge_on_the_folded_tokens_of_the_chosen_blocks(penalty):
    method = Ridge(penalty=penalty, **ANEW)
    steps = run(method, IMAGES, dealt(0, IMAGES, (2, 3), 3))
    phase, state = steps[-1]
    at = [int(i) for i in state["chosen"]["blocks"]]
    parts = [IMAGES.features(((layer, 2),)).astype(np.float64) for layer in range(1, DEPTH + 1)]
    p = fold_matrix(fold_table(0, 12, (4 * WIDTH,) * DEPTH), 4 * WIDTH * DEPTH)
    phi = (np.concatenate(parts, 1) @ p.T).reshape(-1, DEPTH, 12)
    rows, _ = head_of(method, steps)
    others = [i for i in range(DEPTH) if i not in at]
    cut = rows.reshape(C, DEPTH, 12)
    assert not cut[:, others].any()
    x = phi[:, at].reshape(len(phi), -1)
    if penalty == 2.0:
        close(cut[:, at].reshape(C, -1), central(x, 2.0), 1e-8)
    else:
        unit = np.square(x).sum(0).mean()
        shares = STEPS if penalty == "gcv" else GRID
        assert min(np.abs(cut[:, at].reshape(C, -1) - central(x, unit * s)).max() for s in shares) < 1e-8
    expected = phi.reshape(len(phi), -1) @ rows.T
    close(answers(method, method.deploy(state, phase), IMAGES), expected, 1e-4)
    assert method.notes(state, phase) == {"layers": [i + 1 for i in at], "tokens": [2] * len(at)}


@pytest.mark.parametrize("more", [{}, {"project": 15}])
@pytest.mark.parametrize("penalty", ["gcv", "auto", "accuracy", 2.0])
@pytest.mark.parametrize("solution", ["ridge", "balanced", "lda"])
@pytest.mark.parametrize("kind", [Ridge, RanPAC])
def test_after_every_phase_there_is_something_finite_to_evaluate(more, penalty, solution, kind):
    """With `evaluate_rounds` also after the choice, when there are no sums of the chosen tokens yet."""
    random = {"random": 20} if kind is RanPAC else {}
    method = kind(penalty=penalty, solution=solution, **FIRST, **more, **random)
    for phase, state in run(method, IMAGES, dealt(0, IMAGES, (2, 3), 3)):
        deployed = method.deploy(state, phase)
        assert all(np.isfinite(a).all() for a in deployed.values())
        scores = answers(method, deployed, IMAGES)
        assert scores.shape == (260, phase.task.seen)
        method.notes(state, phase)
    assert (scores.argmax(1) == IMAGES.labels).mean() > 0.5


def test_folds_of_the_candidates_and_of_the_chosen_tokens_are_what_is_declared():
    """What clients send has the declared shapes in every phase: checked in `reported`."""
    for more in ({"project": 15}, {"candidates": 1}, {"candidates": 1000}, {"tokens": "class"}):
        for base in (FIRST, ANEW):
            given = {**base, **more}
            if base is ANEW and "project" in more:
                continue
            run(Ridge(penalty="gcv", **given), IMAGES, dealt(0, IMAGES, (2, 3), 2))


@pytest.mark.xfail(strict=True, reason="every block is folded to candidates / blocks numbers, also where it has fewer")
def test_blocks_of_candidates_that_are_short_are_not_sent_with_places_for_nothing():
    """Five class tokens of five numbers are 25: a Gram of 60 would have 35 rows of zeros."""
    method = Ridge(penalty="gcv", **{**ANEW, "tokens": "class"})
    state = run(method, IMAGES, dealt(0, IMAGES, (2, 3), 2))[-1][1]
    assert len(state["sums"][GRAM]) <= 25 * 26 // 2


# ---- the penalty by right answers ------------------------------------------------------------------------------------

MIDDLE = {"layers": (3,), "tokens": "mean"}
ACCURACY = [
    {"layers": (2, 3), "tokens": "grid:2"}, {**FIRST}, {**MIDDLE, "random": 40}, {**MIDDLE, "solution": "lda"},
    {**MIDDLE, "solution": "balanced"}, {**FIRST, "project": 30},
]  # fmt: skip


@pytest.mark.parametrize("given", ACCURACY, ids=str)
def test_right_answers_are_whole_numbers_counted_on_held_out_samples_alone(given):
    method, passed = Ridge(penalty="accuracy", **given), []
    parts = dealt(0, IMAGES, (2, 3), 4)
    steps = run(method, IMAGES, parts, passed=passed)
    rule, before = held_out(0, 0.1), np.zeros(len(GRID))
    for phase, state in steps:
        seen = np.sort(np.concatenate([kept for at, kept in passed if at == phase]))
        everyone = np.sort(np.concatenate(parts[phase.task]))
        if method.step(phase) != "score":
            np.testing.assert_array_equal(seen, everyone)
            continue
        np.testing.assert_array_equal(seen, everyone[rule(everyone)])
        assert len(seen)
        right = state["chosen"][RIGHT]
        np.testing.assert_array_equal(right, np.round(right))
        sent = method.broadcast(state, phase)  # the sums are those of before the count
        counted = [counted_directly(method, state, phase, sent, head, seen) for head in range(len(GRID))]
        np.testing.assert_array_equal(right - before, counted)
        assert max(counted) > 0.4 * len(seen)
        before = right


def counted_directly(method, state, phase, sent, head, seen):
    """Right answers of one of the heads that were sent, by the deployed way from images to scores."""
    deployed = method.maps(state, phase, method.input_width(state))
    deployed |= {"head.0.weight": sent.arrays[HEADS][head], "head.0.bias": sent.arrays[BIASES][head]}
    return int((answers(method, deployed, IMAGES)[seen].argmax(1) == IMAGES.labels[seen]).sum())


def test_the_heads_that_are_tried_are_those_of_the_samples_that_are_not_held_out():
    method = Ridge(penalty="accuracy", layers=(2, 3), tokens="mean")
    steps = run(method, IMAGES, dealt(0, IMAGES, (2, 3), 4))
    phase, state = steps[-1]
    held = held_out(0, 0.1)(np.arange(len(IMAGES.labels)))
    x = IMAGES.features(((2, 1), (3, 1))).astype(np.float64)
    unit = np.square(x).sum(0).mean()
    heads = method.broadcast(state, phase).arrays[HEADS]
    y = one_hot(IMAGES.labels, C)[~held]
    for share, head in zip(GRID, heads, strict=True):
        close(head, Sklearn(alpha=unit * share, fit_intercept=False).fit(x[~held], y).coef_, 1e-4)
    best = GRID[int(np.argmax(state["chosen"][RIGHT]))]
    close(head_of(method, steps)[0], central(x, unit * best), 1e-8)  # in the end all samples count


def test_counts_do_not_depend_on_who_holds_what():
    method = Ridge(penalty="accuracy", layers=(2, 3), tokens="grid:2")
    runs = [run(method, IMAGES, dealt(seed, IMAGES, (2, 3), n), batch) for seed, n, batch in ((0, 1, 300), (5, 7, 3))]
    np.testing.assert_array_equal(runs[0][-1][1]["chosen"][RIGHT], runs[1][-1][1]["chosen"][RIGHT])


def test_without_held_out_samples_accuracy_has_the_penalty_that_auto_has():
    images = Images(0, 4, classes=2)
    seed = next(s for s in range(50) if not held_out(s, 0.1)(np.arange(4)).any())
    heads = []
    for penalty in ("auto", "accuracy"):
        method = Ridge(penalty=penalty, layers=(3,), tokens="mean")
        steps = run(method, images, dealt(0, images, (2,), 1), seed=seed)
        assert not steps[-1][1]["sums"][HELD + counts(0)].any()
        heads.append(head_of(method, steps)[0])
    close(heads[1], heads[0], 1e-10)


def test_a_client_whose_samples_are_all_kept_counts_nothing():
    method = Ridge(penalty="accuracy", layers=(3,), tokens="mean")
    steps = run(method, IMAGES, dealt(0, IMAGES, (2, 3), 2))
    phase, state = steps[-1]
    mine = np.arange(260)[~held_out(0, 0.1)(np.arange(260))]
    update = reported(method, phase, method.broadcast(state, phase), IMAGES, mine, 0)
    np.testing.assert_array_equal(update.statistics[RIGHT], np.zeros(len(GRID)))


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Ridge(tokens="mean"), 'method.tokens = "mean": of which layers? Set method.layers, for example to [5] or'),
        (NCM(tokens="mean"), "of which layers?"),
        (Ridge(layers=(6,)), "no layer 6: the backbone has layers 1 to 5"),
        (Ridge(layers="spread:6"), 'method.layers = "spread:6": the backbone has 5 layers'),
        (Ridge(layers=(1, 1)), "the same layer twice"),
        (Ridge(layers=(1,), tokens="grid:5"), 'at most "grid:4"'),
        (Ridge(layers="auto", tokens="grid:5"), 'at most "grid:4"'),
        (Ridge(choose="every_task"), 'there is a choice only with method.layers = "auto"'),
        (Ridge(layers=(1,), choose="every_task"), 'there is a choice only with method.layers = "auto"'),
        (Ridge(**ANEW, project=5), "method.project = 5: with method.choose"),
        (Ridge(**ANEW, random=5), "method.random = 5: with method.choose"),
        (RanPAC(**ANEW, random=5), "method.random = 5: with method.choose"),
        (RanPAC(**ANEW, random=0, sketch=3), "needs G whole"),
        (Ridge(**ANEW, penalty="accuracy"), "no penalty by accuracy"),
    ],
)
def test_settings_that_do_not_fit_each_other_or_the_backbone_are_refused(method, message):
    with pytest.raises(ConfigError) as caught:
        method.init(VIT, C, 0)
    assert message in str(caught.value)


@pytest.mark.parametrize("given", [FIRST, ANEW, {"layers": (1,)}, {"layers": "spread:1"}], ids=str)
def test_a_backbone_that_hands_out_no_layers_is_refused(given):
    with pytest.raises(ConfigError, match="does not hand out tokens of single layers"):
        Ridge(**given).init(Backbone(WIDTH, {}, blocks=DEPTH, grid=(4, 4), layer_tokens=False), C, 0)


@pytest.mark.parametrize(
    ("given", "kinds"),
    [
        ({}, [1, 1]), ({"penalty": "accuracy"}, [2, 2]), (FIRST, [2, 1]), (ANEW, [1, 1]),
        ({**FIRST, "penalty": "accuracy"}, [3, 2]),
    ],
    ids=str,
)  # fmt: skip
def test_the_reports_of_a_task_are_as_many_as_there_are_things_to_ask(given, kinds):
    phases = phases_of(Ridge(**given), dealt(0, IMAGES, (2, 3), 1))
    assert [sum(phase.task.index == t for phase in phases) for t in range(2)] == kinds
    assert {phase.kind for phase in phases} == {"report"}
