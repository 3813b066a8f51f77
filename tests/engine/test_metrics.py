"""Figures from matrices worked out by hand."""

import numpy as np
import pytest

from fcil.engine.metrics import accuracy_matrix, pooled_accuracies, summarise

TOTAL = [10, 20, 10]
RIGHT = [[8], [6, 18], [7, 10, 9]]
# accuracies          0.8
#                     0.6  0.9
#                     0.7  0.5  0.9


def test_matrix():
    np.testing.assert_allclose(
        accuracy_matrix(RIGHT, TOTAL), [[0.8, np.nan, np.nan], [0.6, 0.9, np.nan], [0.7, 0.5, 0.9]]
    )


def test_figures_by_hand():
    figures = summarise(RIGHT, TOTAL)
    assert figures == pytest.approx({
        "final_accuracy": 26 / 40,
        "final_accuracy_task_mean": (0.7 + 0.5 + 0.9) / 3,
        "average_accuracy": (8 / 10 + 24 / 30 + 26 / 40) / 3,
        "forgetting": ((0.8 - 0.7) + (0.9 - 0.5)) / 2,
        "forgetting_from_learned": ((0.8 - 0.7) + (0.9 - 0.5) + 0) / 3,
        "backward_transfer": ((0.7 - 0.8) + (0.5 - 0.9)) / 2,
    })  # fmt: skip


def test_best_before_the_end_counts_not_only_the_accuracy_when_learned():
    """Task 0: 0.5, then 0.9, then 0.7: forgotten 0.2 from its best, and transfer is +0.2 from when it was learned."""
    figures = summarise([[5], [9, 10], [7, 10, 10]], [10, 10, 10])
    assert figures["forgetting"] == pytest.approx((0.2 + 0.0) / 2)
    assert figures["backward_transfer"] == pytest.approx((0.2 + 0.0) / 2)
    assert figures["forgetting_from_learned"] == pytest.approx(-0.2 / 3)


def test_a_task_that_gets_better_at_the_end_has_negative_forgetting():
    assert summarise([[5], [8, 10]], [10, 10])["forgetting"] == pytest.approx(-0.3)


def test_after_one_task_there_is_nothing_to_forget():
    figures = summarise([[3]], [4, 9])
    assert figures["final_accuracy"] == figures["average_accuracy"] == figures["final_accuracy_task_mean"] == 0.75
    assert figures["forgetting_from_learned"] == 0  # a mean over all tasks; the others are over all but the last
    assert figures["forgetting"] is figures["backward_transfer"] is None


def test_classes_learned_at_once_have_figures_of_the_end_alone():
    figures = summarise([[7, 5, 9]], [10, 10, 20])
    assert figures["final_accuracy"] == 21 / 40
    assert figures["final_accuracy_task_mean"] == pytest.approx((0.7 + 0.5 + 0.45) / 3)
    assert [name for name, value in figures.items() if value is None] == [
        "average_accuracy", "forgetting", "forgetting_from_learned", "backward_transfer"
    ]  # fmt: skip
    matrix = accuracy_matrix([[7, 5, 9]], [10, 10, 20])
    np.testing.assert_array_equal(matrix[2], [0.7, 0.5, 0.45])
    assert np.isnan(matrix[:2]).all()
    np.testing.assert_array_equal(pooled_accuracies([[7, 5, 9]], [10, 10, 20]), [np.nan, np.nan, 21 / 40])
