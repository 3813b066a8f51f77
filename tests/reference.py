"""Slow literal transcriptions of the papers' equations: loops, dense matrices, pseudo-inverses and least squares.

Nothing here is imported by the product, and nothing of the product is imported here. Layer inputs are given as
X, (in, tokens), one column per token, as in the papers.
"""

import math

import numpy as np
import scipy.special


def gram(x):
    """G = sum over tokens of x x^T."""
    g = np.zeros((len(x), len(x)))
    for token in x.T:
        g += np.outer(token, token)
    return g


def diagonal_only(g):
    return np.diag(np.diag(g))


def shrunk(g, amount):
    """Off-diagonals times `amount`."""
    out = np.array(g, np.float64)
    for i in range(len(g)):
        for j in range(len(g)):
            if i != j:
                out[i, j] *= amount
    return out


def match(thetas, grams):
    """(sum_i Theta_i G_i)(sum_i G_i)^+."""
    left = sum(theta @ g for theta, g in zip(thetas, grams, strict=True))
    return left @ np.linalg.pinv(sum(grams), rcond=1e-10, hermitian=True)


def lorm_b(bs, a, xs, diagonal=False):
    """B* = (sum_i B_i P_i)(sum_i P_i)^+ with P_i = A G_i A^T."""
    grams = [diagonal_only(gram(x)) if diagonal else gram(x) for x in xs]
    return match(bs, [a @ g @ a.T for g in grams])


def lorm_a(as_, xs, diagonal=False):
    """A* = (sum_i A_i G_i)(sum_i G_i)^+."""
    return match(as_, [diagonal_only(gram(x)) if diagonal else gram(x) for x in xs])


def lorm_head(hs, xs, amount):
    """H* = (sum_i H_i G'_i)(sum_i G'_i)^-1."""
    return match(hs, [shrunk(gram(x), amount) for x in xs])


def lorm_tasks(pairs, grams):
    """delta W = (sum_t B_t A_t G_t)(sum_t G_t)^+, dense; `grams` are matrices, or diagonals as vectors."""
    whole = [np.diag(g) if np.ndim(g) == 1 else g for g in grams]
    return match([b @ a for b, a in pairs], whole)


def mean_of_tasks(pairs):
    """The mean of B_t A_t, dense."""
    return sum(b @ a for b, a in pairs) / len(pairs)


def response_error(theta, thetas, xs):
    """sum_i || (Theta - Theta_i) X_i ||_F^2: what response matching minimises, without any Gram matrix."""
    return sum(float(np.square((theta - one) @ x).sum()) for one, x in zip(thetas, xs, strict=True))


def least_squares_b(bs, a, xs):
    """argmin over B of sum_i || B A X_i - B_i A X_i ||^2, by least squares on the stacked responses."""
    inputs = np.concatenate([a @ x for x in xs], 1)
    responses = np.concatenate([b @ a @ x for b, x in zip(bs, xs, strict=True)], 1)
    return np.linalg.lstsq(inputs.T, responses.T, rcond=None)[0].T


def least_squares_a(as_, b, xs):
    """argmin over A of sum_i || B A X_i - B A_i X_i ||^2, through vec(B A X) = (X^T kron B) vec(A)."""
    system = np.concatenate([np.kron(x.T, b) for x in xs])
    responses = np.concatenate([(b @ a @ x).T.reshape(-1) for a, x in zip(as_, xs, strict=True)])
    solution = np.linalg.lstsq(system, responses, rcond=None)[0]
    return solution.reshape(as_[0].shape[1], as_[0].shape[0]).T


def fedavg(thetas, counts):
    """sum_i n_i theta_i / sum_i n_i, entry by entry."""
    out = np.zeros(np.shape(thetas[0]))
    for index in np.ndindex(out.shape):
        out[index] = sum(n * float(theta[index]) for theta, n in zip(thetas, counts, strict=True)) / sum(counts)
    return out


def cross_entropy(logits, labels):
    """Mean of -log softmax(logits)[label], sample by sample."""
    losses = []
    for row, label in zip(logits, labels, strict=True):
        top = max(row)
        losses.append(top + math.log(sum(math.exp(z - top) for z in row)) - row[label])
    return sum(losses) / len(losses)


def paired_difference(ours, theirs, coverage=0.95):
    """Ends of Student's interval for the mean of paired differences; t by bisection of its distribution function."""
    d = [a - b for a, b in zip(ours, theirs, strict=True)]
    n = len(d)
    mean = sum(d) / n
    sd = math.sqrt(sum((x - mean) ** 2 for x in d) / (n - 1))
    low, high = 0.0, 1e3
    for _ in range(200):
        middle = (low + high) / 2
        if scipy.special.stdtr(n - 1, middle) < (1 + coverage) / 2:
            low = middle
        else:
            high = middle
    half = low * sd / math.sqrt(n)
    return mean - half, mean + half
