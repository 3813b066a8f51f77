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
