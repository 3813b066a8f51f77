"""Heads beside plain ridge regression from the same sums: class-balanced ridge, and linear discriminant analysis.

Both need the scatter within classes, S_w = G - sum_c n_c mu_c mu_c^T with mu_c = Q_c / n_c, which G and Q hold.
Literal transcriptions: `balanced_rows` and `discriminant_rows` in tests/reference_features.py.
"""

import numpy as np

from fcil.arrays import symmetric_half
from fcil.merging.ridge import class_means, ridge_rows

__all__ = ["balanced_rows", "discriminant_rows", "within_classes"]


def within_classes(gram: np.ndarray, class_sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Scatter within classes, S_w: (M (M + 1) / 2,) upper half.

    Args:
        gram: (M (M + 1) / 2,) upper half of G.
        class_sums: (C, M) Q.
        counts: (C,) samples of each class.
    """
    means = class_means(class_sums, counts)
    return np.asarray(gram - symmetric_half((means * counts[:, None]).T @ means))


def balanced_rows(gram: np.ndarray, class_sums: np.ndarray, counts: np.ndarray, penalty: float) -> np.ndarray:
    """Ridge regression in which every class weighs the same, as if all had n / C samples: (C, M).

    H^T = (n / C) mu (S_w + (n / C) sum_c mu_c mu_c^T + penalty I)^-1. It is ridge regression of samples weighted by
    n / (C n_c) where all classes have one covariance, and plain ridge regression where they have equally many samples.
    After AIR (arXiv 2408.10349), which keeps a G for every class instead of the common covariance.

    Args:
        gram, class_sums, counts: as in `within_classes`; C counts the classes that have samples.
        penalty: lambda, greater than zero.

    Raises:
        MergeError: the penalty is too small for these sums.
    """
    means, present = class_means(class_sums, counts), max(int((counts > 0).sum()), 1)
    weight = float(counts.sum()) / present
    between = symmetric_half(weight * means.T @ means)
    return ridge_rows(within_classes(gram, class_sums, counts) + between, weight * means, penalty)


def discriminant_rows(
    gram: np.ndarray, class_sums: np.ndarray, counts: np.ndarray, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Linear discriminant analysis with equal priors: rows, (C, M), and biases, (C,).

    score_c = mu_c^T W phi - mu_c^T W mu_c / 2 with W = (n - C) (S_w + penalty I)^-1: up to what all classes share, the
    log-likelihood of a Gaussian around mu_c with the common, shrunken covariance.

    Raises:
        MergeError: the penalty is too small for these sums.
    """
    means = class_means(class_sums, counts)
    freedom = max(float(counts.sum()) - int((counts > 0).sum()), 1.0)
    rows = freedom * ridge_rows(within_classes(gram, class_sums, counts), means, penalty)
    return rows, -np.sum(rows * means, 1) / 2
