"""Differences of methods seed by seed, against their definition."""

import csv
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from reference import paired_difference as literal

from fcil.report.paired import differences, differences_csv, differences_markdown, paired_difference

accuracies = arrays(np.float64, st.shared(st.integers(2, 8), key="n"), elements=st.floats(0, 1))


@given(accuracies, accuracies)
def test_it_is_students_interval_for_the_mean_of_the_differences(ours, theirs):
    mean, half = paired_difference(ours, theirs)
    low, high = literal(ours, theirs)
    assert mean - half == pytest.approx(low, abs=1e-9)
    assert mean + half == pytest.approx(high, abs=1e-9)


@given(accuracies, accuracies, st.floats(-1, 1))
def test_what_both_have_in_common_leaves_it_and_turning_it_round_changes_its_sign(ours, theirs, shift):
    mean, half = paired_difference(ours, theirs)
    assert paired_difference(ours + shift, theirs + shift) == pytest.approx((mean, half), abs=1e-9)
    assert paired_difference(theirs, ours) == pytest.approx((-mean, half), abs=1e-12)


def test_it_covers_the_truth_as_often_as_it_says():
    """Of 2,000 samples of 3 normal differences with mean 0.1, 95 % have it inside; the error of this count is 0.5 %."""
    rng = np.random.default_rng(0)
    inside = 0
    for d in rng.normal(0.1, 0.02, (2000, 3)):
        mean, half = paired_difference(d, np.zeros(3))
        inside += abs(mean - 0.1) <= half
    assert inside / 2000 == pytest.approx(0.95, abs=0.02)


def run(label, seed, final):
    return {"label": label, "seed": seed, "final_accuracy": final}


def test_methods_are_paired_by_the_seeds_that_both_have():
    runs = [run("a", 0, 0.5), run("a", 1, 0.6), run("b", 1, 0.8), run("b", 0, 0.6), run("b", 2, 0.1), run("c", 9, 0.3)]
    found = {(d.label, d.reference): d for d in differences(runs)}
    assert set(found) == {("a", "b"), ("b", "a")}
    d = found["b", "a"]
    assert (d.seeds, d.mean) == (2, pytest.approx(0.15))
    assert d.half_width == pytest.approx(
        12.7062047 * math.sqrt(((0.1 - 0.15) ** 2 + (0.2 - 0.15) ** 2) / 1) / math.sqrt(2)
    )
    rows = list(csv.DictReader(differences_csv(differences(runs)).splitlines()))
    assert [row["method"] for row in rows] == ["a", "b"]
    assert float(rows[1]["interval_low"]) == d.interval[0]
    assert "| b | a | 2 | +15.00 |" in differences_markdown(differences(runs))


def test_where_nothing_varies_there_is_no_interval():
    """Closed forms do not depend on the seed: an interval of no width would claim certainty about other data."""
    found = differences([run("a", seed, 0.5) for seed in (0, 1)] + [run("b", seed, 0.6) for seed in (0, 1)])
    assert math.isnan(found[1].half_width)
    assert "| b | a | 2 | +10.00 | - |" in differences_markdown(found)


def test_methods_that_saw_other_images_are_not_compared():
    runs = [{**run(label, seed, 0.5 + seed / 10), "settings": {"data.held_out": share}}
            for label, share in (("a", 0.0), ("b", 0.2), ("c", 0.0)) for seed in (0, 1)]  # fmt: skip
    assert {(d.label, d.reference) for d in differences(runs)} == {("a", "c"), ("c", "a")}


def test_a_single_seed_has_a_difference_and_no_interval():
    (first, _) = differences([run("a", 0, 0.5), run("b", 0, 0.6)])
    assert math.isnan(first.half_width)
    assert differences_csv([first]).splitlines()[1].endswith(",,")
    assert differences_markdown([first]) == ""
    assert differences([run("a", 0, 0.5)]) == []
