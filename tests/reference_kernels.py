"""SNELL and SNELLA in NumPy float64, entry by entry, as the papers and their public code define them."""

import math

import numpy as np


def distance(p, q):
    """(n, m): the Euclidean distance of every pair of rows."""
    return np.array([[math.sqrt(sum((a - b) ** 2 for a, b in zip(x, y, strict=True))) for y in q] for x in p])


def distance_gradients(p, q, g):
    """Gradients of sum g D: every pair pulls along its unit vector, and coincident points do not pull."""
    g_p, g_q = np.zeros_like(p), np.zeros_like(q)
    for j, x in enumerate(p):
        for k, y in enumerate(q):
            d = math.sqrt(((x - y) ** 2).sum())
            if d > 0:
                g_p[j] += g[j, k] * (x - y) / d
                g_q[k] -= g[j, k] * (x - y) / d
    return g_p, g_q


def kernel(name, p, q, mix=None):
    """K (in, out) of P (H, in, d) and Q (H, out, d)."""
    if name == "linear":
        return sum(a @ b.T for a, b in zip(p, q, strict=True))
    d = sum(0.1 * (-1) ** head * distance(p[head], q[head]) for head in range(len(p)))
    if name == "piecewise":
        return d
    alpha, gamma, beta = mix
    e = np.exp(d / gamma - (d / gamma).max(1, keepdims=True))
    return d + alpha * e / e.sum(1, keepdims=True) + beta


def compete(change, sparsity, rule):
    """The public code's masked x |x| by the interpolated quantile, or the paper's Equation 5."""
    if rule == "none":
        return change
    size = np.abs(change)
    if rule == "code":
        return np.where(size > np.quantile(size, sparsity), change * size, 0.0)
    ordered = np.sort(size, axis=None)
    place = math.ceil(sparsity * size.size)
    return change * np.maximum(size - (ordered[place - 1] if place else 0.0), 0.0)


def weight_change(name, rule, p, q, mix, sparsity):
    """(out, in): the parts' changes, stacked along the outputs."""
    parts = [
        compete(kernel(name, p[i], q[i], None if mix is None else mix[i]), sparsity[i], rule).T for i in range(len(p))
    ]
    return np.concatenate(parts)
