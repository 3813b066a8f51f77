"""Class-balanced ridge and linear discriminants from sums against their definitions on samples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import close
from reference_features import balanced_rows as balanced_of_samples
from reference_features import discriminant_rows as discriminants_of_samples
from reference_features import log_likelihoods, one_hot, ridge
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from fcil.arrays import symmetric_half
from fcil.errors import MergeError
from fcil.merging import packed
from fcil.merging.discriminant import balanced_rows, discriminant_rows, within_classes

seeds = st.integers(0, 2**32 - 1)
shapes = st.tuples(st.integers(1, 40), st.integers(1, 12), st.integers(1, 5))
penalties = st.sampled_from([1e-2, 1.0, 1e2])


def problem(seed, n, width, classes):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    return rng.standard_normal((classes, width))[labels] * 2 + rng.standard_normal((n, width)), labels


def sums(x, labels, classes):
    y = one_hot(labels, classes)
    return symmetric_half(x.T @ x), y.T @ x, y.sum(0)


def one_covariance(seed, sizes, width):
    """Samples whose classes have exactly one covariance: multiples of one cloud about each class's mean."""
    rng = np.random.default_rng(seed)
    cloud = rng.standard_normal((6, width))
    cloud -= cloud.mean(0)
    x = [np.tile(cloud, (size, 1)) + rng.standard_normal(width) for size in sizes]
    return np.concatenate(x), np.repeat(np.arange(len(sizes)), [len(part) for part in x])


@given(seeds, shapes)
def test_the_scatter_within_classes_is_that_of_samples_about_their_class_mean(seed, shape):
    x, labels = problem(seed, *shape)
    about = np.stack([row - x[labels == label].mean(0) for row, label in zip(x, labels, strict=True)])
    close(packed.whole(within_classes(*sums(x, labels, shape[2]))), about.T @ about)


@given(seeds, st.lists(st.integers(1, 8), min_size=2, max_size=4), st.integers(1, 8), penalties)
def test_balanced_is_ridge_of_weighted_samples_where_classes_have_one_covariance(seed, sizes, width, penalty):
    x, labels = one_covariance(seed, sizes, width)
    rows = balanced_rows(*sums(x, labels, len(sizes)), penalty)
    close(rows, balanced_of_samples(x, labels, len(sizes), penalty), 1e-7)


@given(seeds, st.integers(1, 8), st.integers(1, 10), st.integers(1, 4), penalties)
def test_balanced_is_plain_ridge_where_classes_have_equally_many_samples(seed, each, width, classes, penalty):
    x = np.random.default_rng(seed).standard_normal((each * classes, width))
    labels = np.tile(np.arange(classes), each)
    close(balanced_rows(*sums(x, labels, classes), penalty), ridge(x, one_hot(labels, classes), penalty), 1e-7)


@given(seeds, shapes, st.integers(2, 6), penalties)
def test_seeing_every_sample_several_times_is_a_weaker_penalty(seed, shape, times, penalty):
    x, labels = problem(seed, *shape)
    once = balanced_rows(*sums(x, labels, shape[2]), penalty / times)
    close(balanced_rows(*(times * a for a in sums(x, labels, shape[2])), penalty), once, 1e-7)
    rows, bias = discriminant_rows(*sums(x, labels, shape[2]), penalty / times)
    again, more = discriminant_rows(*(times * a for a in sums(x, labels, shape[2])), penalty)
    present = len(set(labels.tolist()))
    ratio = max(times * len(x) - present, 1) / max(len(x) - present, 1) / times
    close(again, ratio * rows, 1e-7)
    close(more, ratio * bias, 1e-7)


@given(seeds, shapes, penalties)
def test_discriminants_are_those_of_samples(seed, shape, penalty):
    x, labels = problem(seed, *shape)
    rows, bias = discriminant_rows(*sums(x, labels, shape[2]), penalty)
    expected, expected_bias = discriminants_of_samples(x, labels, shape[2], penalty)
    close(rows, expected, 1e-7)
    close(bias, expected_bias, 1e-7)


@given(seeds, shapes, penalties)
def test_scores_differ_as_the_log_likelihoods_of_the_classes_do(seed, shape, penalty):
    x, labels = problem(seed, *shape)
    rows, bias = discriminant_rows(*sums(x, labels, shape[2]), penalty)
    at = np.random.default_rng([seed, 1]).standard_normal((5, shape[1]))
    scores, likelihoods = at @ rows.T + bias, log_likelihoods(x, labels, shape[2], penalty, at)
    close(scores - scores[:, :1], likelihoods - likelihoods[:, :1], 1e-6)


def test_without_shrinkage_rows_are_scikit_learns_but_for_its_priors_and_its_divisor():
    """Scikit-learn divides the scatter by n, and adds the logarithms of the classes' shares."""
    x, labels = problem(3, 200, 5, 4)
    sklearns = LinearDiscriminantAnalysis(solver="lsqr").fit(x, labels)
    rows, bias = discriminant_rows(*sums(x, labels, 4), 1e-9)
    close(rows * 200 / 196, sklearns.coef_, 1e-7)
    close(bias * 200 / 196, sklearns.intercept_ - np.log(np.bincount(labels) / 200), 1e-7)


@given(seeds)
def test_a_class_without_samples_changes_no_other_and_has_a_zero_row(seed):
    x, labels = problem(seed, 30, 5, 3)
    labels = labels + (labels == 2)  # 0, 1 and 3: nobody has class 2
    without = np.where(labels == 3, 2, labels)
    for solve in (lambda *given: (balanced_rows(*given), np.zeros(len(given[2]))), discriminant_rows):
        rows, bias = solve(*sums(x, labels, 4), 0.5)
        others, other_bias = solve(*sums(x, without, 3), 0.5)
        close(rows[[0, 1, 3]], others, 1e-9)
        close(bias[[0, 1, 3]], other_bias, 1e-9)
        np.testing.assert_array_equal(rows[2], 0)
        assert bias[2] == 0


def test_nobodys_samples_make_zero_heads():
    nothing = np.zeros((0, 4))
    assert not balanced_rows(*sums(nothing, [], 3), 1.0).any()
    rows, bias = discriminant_rows(*sums(nothing, [], 3), 1.0)
    assert not rows.any()
    assert not bias.any()


def test_as_many_samples_as_classes_have_no_scatter_and_the_nearest_mean_wins():
    x, labels = problem(0, 0, 4, 3)[0], np.arange(3)
    x = np.random.default_rng(0).standard_normal((3, 4))
    rows, bias = discriminant_rows(*sums(x, labels, 3), 2.0)
    at = np.random.default_rng(1).standard_normal((50, 4))
    nearest = np.square(at[:, None] - x).sum(2).argmin(1)
    np.testing.assert_array_equal((at @ rows.T + bias).argmax(1), nearest)


@pytest.mark.parametrize("offset", [1e2, 1e3])
def test_features_far_from_zero_do_not_spoil_discriminants(offset):
    """The scatter is a difference of large numbers: six of sixteen digits are lost at 1e3."""
    x, labels = problem(5, 300, 6, 3)
    rows, bias = discriminant_rows(*sums(x + offset, labels, 3), 1.0)
    near, near_bias = discriminant_rows(*sums(x, labels, 3), 1.0)
    close(rows - rows[:1], near - near[:1], 1e-6)
    at = x[:40]
    scores, others = (at + offset) @ rows.T + bias, at @ near.T + near_bias
    close(scores - scores[:, :1], others - others[:, :1], 1e-5)


def test_a_penalty_too_small_for_the_scatter_is_told():
    x = np.zeros((4, 3))
    for solve in (balanced_rows, discriminant_rows):
        with pytest.raises(MergeError, match=r"raise method\.penalty"):
            solve(*sums(x, np.array([0, 0, 1, 1]), 2), 0.0)


def test_under_a_long_tail_balanced_and_discriminants_are_fairer_to_rare_classes():
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((4, 8))
    labels = np.repeat(np.arange(4), [400, 60, 20, 6])
    x = centres[labels] + 1.5 * rng.standard_normal((len(labels), 8))
    test_labels = np.repeat(np.arange(4), 300)
    at = centres[test_labels] + 1.5 * rng.standard_normal((len(test_labels), 8))
    given = sums(x, labels, 4)
    plain = ridge(x, one_hot(labels, 4), 1.0)
    rows, bias = discriminant_rows(*given, 1.0)
    answers = [(at @ plain.T), at @ balanced_rows(*given, 1.0).T, at @ rows.T + bias]
    first, balanced, lda = (np.mean(answer.argmax(1) == test_labels) for answer in answers)
    assert min(balanced, lda) > first + 0.1
