"""Slow literal transcriptions of closed-form classifiers' definitions, from samples: no sums, no shortcuts.

Nothing here is imported by the product, and nothing of the product is imported here. X is (n, M), one row per sample;
labels are (n,), and Y = one_hot(labels) is (n, C).
"""

import numpy as np


def one_hot(labels, classes):
    y = np.zeros((len(labels), classes))
    for sample, label in enumerate(labels):
        y[sample, label] = 1
    return y


def cells(patches, grid, side):
    """Means over side x side cells of one image's patches, (h * w, d); cells that do not divide share their border."""
    h, w = grid
    rows = []
    for i in range(side):
        for j in range(side):
            inside = [
                patches[r * w + c]
                for r in range(h)
                for c in range(w)
                if np.floor(i * h / side) <= r < np.ceil((i + 1) * h / side)
                and np.floor(j * w / side) <= c < np.ceil((j + 1) * w / side)
            ]
            rows.append(sum(inside) / len(inside))
    return rows


def features_of_tokens(outputs, blocks, grid, prefix):
    """Features, (n, width): `outputs` are every layer's tokens, (n, prefix + h w, d); blocks are (layer, side or 0)."""
    features = []
    for image in range(len(outputs[0])):
        parts = []
        for layer, side in blocks:
            tokens = outputs[layer - 1][image].astype(np.float64)
            parts += [tokens[0]] if side == 0 else cells(tokens[prefix:], grid, side)
        features.append(np.concatenate(parts))
    return np.stack(features)


def fold_matrix(table, width):
    """P, (places, width), of a table of 1 + position with sign, and 0 for none."""
    p = np.zeros((len(table), width))
    for place, entries in enumerate(table):
        for entry in entries:
            if entry:
                p[place, int(abs(entry)) - 1] += np.sign(entry)
    return p


def ridge(x, y, penalty):
    """H^T = Y^T X (X^T X + penalty I)^-1, as least squares on samples with penalty rows under them."""
    below = np.sqrt(penalty) * np.eye(x.shape[1])
    return np.linalg.lstsq(np.concatenate([x, below]), np.concatenate([y, np.zeros((len(below), y.shape[1]))]))[0].T


def weighted_ridge(x, y, weights, penalty):
    """argmin sum_i w_i |H^T x_i - y_i|^2 + penalty |H|^2."""
    root = np.sqrt(np.asarray(weights, np.float64))[:, None]
    return ridge(root * x, root * y, penalty)


def balancing_weights(labels, classes):
    """w_i = n / (C n_c), C counting the classes that have samples."""
    n = [sum(labels == c) for c in range(classes)]
    present = sum(count > 0 for count in n)
    return np.array([len(labels) / (present * n[label]) for label in labels])


def balanced_rows(x, labels, classes, penalty):
    """Ridge regression of samples that are weighted so that every class weighs the same, (C, M)."""
    return weighted_ridge(x, one_hot(labels, classes), balancing_weights(labels, classes), penalty)


def gcv_of_samples(x, y, penalty):
    """n |(I - S) Y|^2 / tr(I - S)^2, S the hat matrix: fitted values are S Y.

    I - S = penalty (X X^T + penalty I)^-1 is written through the eigenvectors of X X^T, which are X's left singular
    vectors, so that it stays exact where S is almost the identity.
    """
    u, s, _ = np.linalg.svd(x, full_matrices=True)
    squares = np.zeros(len(x))
    squares[: len(s)] = s**2
    left_over = u @ np.diag(penalty / (squares + penalty)) @ u.T
    return len(x) * np.square(left_over @ y).sum() / np.trace(left_over) ** 2


def log_likelihoods(x, labels, classes, penalty, at):
    """log N(at; mean of class, covariance) less the constant, (points, C); the covariance is pooled and shrunken.

    Covariance = (sum_i (x_i - mu_c(i)) (x_i - mu_c(i))^T + penalty I) / (n - C), C counting classes with samples.
    """
    means = [x[labels == c].mean(0) if (labels == c).any() else np.zeros(x.shape[1]) for c in range(classes)]
    scatter = penalty * np.eye(x.shape[1])
    for sample, label in zip(x, labels, strict=True):
        scatter += np.outer(sample - means[label], sample - means[label])
    covariance = scatter / max(len(x) - len(set(labels.tolist())), 1)
    inverse = np.linalg.inv(covariance)
    return np.array([[-(point - mean) @ inverse @ (point - mean) / 2 for mean in means] for point in at])


def discriminant_rows(x, labels, classes, penalty):
    """Rows, (C, M), and biases, (C,), of the linear scores whose differences are those of `log_likelihoods`."""
    means = np.stack([x[labels == c].mean(0) if (labels == c).any() else np.zeros(x.shape[1]) for c in range(classes)])
    scatter = sum(
        ((x[labels == c] - means[c]).T @ (x[labels == c] - means[c]) for c in range(classes)),
        penalty * np.eye(x.shape[1]),
    )
    inverse = max(len(x) - len(set(labels.tolist())), 1) * np.linalg.inv(scatter)
    return means @ inverse, np.array([-mean @ inverse @ mean / 2 for mean in means])


def merged_samples(x, choice, signs):
    """Sum over the chosen blocks b of D_b z_b, sample by sample: (n, m); x is (n, blocks * m)."""
    m = signs.shape[1]
    out = np.zeros((len(x), m))
    for b, sign in zip(choice, signs, strict=True):
        out += x[:, b * m : (b + 1) * m] * sign
    return out


def progressions(layers, depth):
    """Every arithmetic progression of so many layers of 1 to depth."""
    return {
        tuple(first + gap * i for i in range(layers))
        for first in range(1, depth + 1)
        for gap in range(1, depth + 1)
        if first + gap * (layers - 1) <= depth
    }
