"""Layers chosen from sums: the same for every split, and the head is that of the chosen tokens."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layered import DEPTH, VIT, WIDTH, Images, answers, dealt, head_of, phases_of, run
from problems import close
from reference_features import (
    fold_matrix,
    one_hot,
)
from sklearn.linear_model import Ridge as Sklearn

from fcil.errors import ConfigError
from fcil.merging.cross_validation import STEPS
from fcil.merging.ridge import GRID
from fcil.method import TOKENS, Backbone, Tokens
from fcil.statistics.feature_map import fold_table
from fcil.statistics.features import GRAM
from strategies.ncm import NCM
from strategies.ranpac import RanPAC
from strategies.ridge import Ridge

IMAGES = Images(0, 260)
C = 5
splits = st.tuples(st.integers(0, 999), st.integers(1, 6), st.permutations([1, 2, 2]), st.integers(1, 60))
FIRST = {"layers": "auto", "candidates": 60, "tokens": "grid:2"}
ANEW = {**FIRST, "choose": "every_task"}


def central(x, penalty, images=IMAGES):
    return Sklearn(alpha=penalty, fit_intercept=False).fit(x.astype(np.float64), one_hot(images.labels, C)).coef_


def blocks_of(state):
    return Tokens.of(state["rows"][TOKENS]).blocks


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
    assert note == {"layers": ", ".join(str(layer) for layer, _ in chosen), "tokens": "grid:2"}


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
    assert method.notes(state, phase) == {"layers": ", ".join(str(i + 1) for i in at), "tokens": "grid:2"}


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


def test_blocks_of_candidates_that_are_short_are_not_sent_with_places_for_nothing():
    """Five class tokens of five numbers are 25: a Gram of 60 would have 35 rows of zeros."""
    method = Ridge(penalty="gcv", **{**ANEW, "tokens": "class"})
    state = run(method, IMAGES, dealt(0, IMAGES, (2, 3), 2))[-1][1]
    assert len(state["sums"][GRAM]) <= 25 * 26 // 2


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


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Ridge(candidates=60), 'there are candidates only with method.layers = "auto"'),
        (RanPAC(sketch=3, penalty="gcv"), "need G whole"), (RanPAC(sketch=3, solution="lda"), "need G whole"),
    ],
)  # fmt: skip
def test_settings_without_effect_or_sense_are_refused(method, message):
    with pytest.raises(ConfigError, match=message):
        run(method, IMAGES, dealt(0, IMAGES, (2, 3), 2))
