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


def cosine(x, y):
    """The angle's cosine between two models, all their layers taken as one vector; 0 where one of them is zero."""
    x, y = (np.concatenate([layer.ravel() for layer in model]) for model in (x, y))
    lengths = np.linalg.norm(x) * np.linalg.norm(y)
    return x @ y / lengths if lengths else 0.0


def slerp(x, y):
    """sin(w / 2) / sin(w) (x + y) layer by layer, w being the angle between the two; the mean of parallel ones."""
    merged = []
    for a, b in zip(x, y, strict=True):
        c = cosine([a], [b])
        w = np.arccos(np.clip(c, -1, 1))
        straight = abs(c) > 1 - 1e-6 or not a.any() or not b.any()
        merged.append((a + b) * (0.5 if straight else np.sin(w / 2) / np.sin(w)))
    return merged


def evolve(experts, top, generations, near):
    """Top-k greedy merging with exploration by kinship; models are lists of dense layers.

    A generation merges every pair of the k best models, and the best model with that of all models which is least akin
    to it: by SLERP, once in all, and only if the two are less akin than `near`. It ends when the k best stay the same.
    The best are those with the largest smallest kinship to an expert, of equal ones those with the largest mean.
    """
    models, merged_pairs, parents = list(experts), [], None

    def rank(i):
        akin = [round(cosine(models[i], expert), 10) for expert in experts]
        return -min(akin), -sum(akin) / len(akin)

    for _ in range(generations):
        order = sorted(range(len(models)), key=rank)
        if order[:top] == parents:
            break
        parents, best = order[:top], order[0]
        stranger = min(range(len(models)), key=lambda i: cosine(models[best], models[i]))
        pairs = [{i, j} for i in parents for j in parents if i < j] + [{best, stranger}]
        for pair in pairs:
            if pair not in merged_pairs and len(pair) == 2 and cosine(*[models[i] for i in pair]) < near:
                merged_pairs.append(pair)
                models.append(slerp(*[models[i] for i in pair]))
    return models[min(range(len(models)), key=rank)]
