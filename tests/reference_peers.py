"""Slow literal transcriptions of what federated LoRA methods aggregate; see `reference`."""

import numpy as np


def fedex_residual(pairs, weights):
    """mean(B_i A_i) - mean(B_i) mean(A_i), dense."""
    products, b, a = 0.0, 0.0, 0.0
    for w, pair in zip(weights, pairs, strict=True):
        products = products + w * (pair.b @ pair.a)
        b, a = b + w * pair.b, a + w * pair.a
    return products - b @ a


def best_of_rank(matrix, rank):
    """The nearest matrix of that rank, by a dense SVD."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank] @ np.diag(s[:rank]) @ vt[:rank]


def half(matrix):
    """The upper half, row by row."""
    return np.array([matrix[i, j] for i in range(len(matrix)) for j in range(i, len(matrix))])


def fisher_mean(thetas, fishers, weights, floor):
    """Entry by entry: sum (F + w e) theta / sum (F + w e), e = floor times the mean of the summed Fisher."""
    e = floor * sum(fishers).mean() if sum(fishers).any() else 1.0
    out = np.zeros_like(thetas[0])
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            precisions = [f[i, j] + w * e for f, w in zip(fishers, weights, strict=True)]
            out[i, j] = sum(p * t[i, j] for p, t in zip(precisions, thetas, strict=True)) / sum(precisions)
    return out


def mats(thetas, inputs, outputs):
    """sum_i S_i W G_i = sum_i S_i W_i G_i as one linear system: (S kron G) vec(W), row by row."""
    system = sum(np.kron(s, g) for s, g in zip(outputs, inputs, strict=True))
    right = sum(s @ theta @ g for theta, s, g in zip(thetas, outputs, inputs, strict=True))
    return np.linalg.lstsq(system, right.ravel(), rcond=1e-12)[0].reshape(right.shape)
