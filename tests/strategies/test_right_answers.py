"""The penalty by right answers: counted on held-out samples alone, and whole numbers."""

import numpy as np
import pytest
from layered import Images, answers, dealt, head_of, reported, run
from problems import close
from reference_features import (
    one_hot,
)
from sklearn.linear_model import Ridge as Sklearn

from fcil.merging.ridge import GRID
from fcil.statistics.features import HELD, counts, held_out
from fcil.statistics.right_answers import BIASES, HEADS, RIGHT
from strategies.ridge import Ridge

IMAGES = Images(0, 260)
C = 5
FIRST = {"layers": "auto", "candidates": 60, "tokens": "grid:2"}
ANEW = {**FIRST, "choose": "every_task"}


def central(x, penalty, images=IMAGES):
    return Sklearn(alpha=penalty, fit_intercept=False).fit(x.astype(np.float64), one_hot(images.labels, C)).coef_


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
    for step, (phase, state) in enumerate(steps):
        seen = np.sort(np.concatenate([kept for at, kept in passed if at == phase]))
        everyone = np.sort(np.concatenate(parts[phase.task]))
        if method.step(phase) != "score":
            np.testing.assert_array_equal(seen, everyone)
            continue
        np.testing.assert_array_equal(seen, everyone[rule(everyone)])
        assert len(seen)
        right = state["chosen"][RIGHT]
        np.testing.assert_array_equal(right, np.round(right))
        sent = method.broadcast(steps[step - 1][1], phase)
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
    heads = method.broadcast(steps[-2][1], phase).arrays[HEADS]
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
    phase, state = steps[-1][0], steps[-2][1]
    mine = np.arange(260)[~held_out(0, 0.1)(np.arange(260))]
    update = reported(method, phase, method.broadcast(state, phase), IMAGES, mine, 0)
    np.testing.assert_array_equal(update.statistics[RIGHT], np.zeros(len(GRID)))
