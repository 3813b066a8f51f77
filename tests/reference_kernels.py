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


def cubic_budget(t, total, first, last, warmup, settled):
    """The public code's schedule of nonzeros, at epoch t of `total`, without its truncation to an integer."""
    if t <= warmup:
        return first
    if t > total - settled:
        return last
    return last + (first - last) * (1 - (t - warmup) / (total - settled - warmup)) ** 3


def water_filled(shares, sizes, volume):
    """The level z at which sum min(c z, n) is the volume, by bisection; shares are positive."""
    low, high = 0.0, max(n / c for n, c in zip(sizes, shares, strict=True))
    for _ in range(200):
        level = (low + high) / 2
        held = sum(min(c * level, n) for c, n in zip(shares, sizes, strict=True))
        low, high = (level, high) if held < volume else (low, level)
    return np.array([min(c * high, n) for c, n in zip(shares, sizes, strict=True)])


def handed_on(shares, sizes, volume):
    """The public loop: whole numbers first, the surplus over and over to those that have room, whole at the end."""
    c, n = np.asarray(shares) / sum(shares), np.asarray(sizes, float)
    v = np.minimum(np.floor(volume * c), n)
    while volume - v.sum() > 1e-6:
        room = n - v > 0
        v[room] += np.minimum((volume - v.sum()) * c[room] / c[room].sum(), (n - v)[room])
    return np.floor(v)


def sensitivity_scores(thetas, gradients, beta1, beta2):
    """Mean score over a factor's entries, after the steps of which the parameters and gradients are listed."""
    mean, deviation = np.zeros(thetas[0].shape), np.zeros(thetas[0].shape)
    for theta, g in zip(thetas, gradients, strict=True):
        i = np.nan_to_num(np.abs(theta * g), nan=0.0)
        mean = beta1 * mean + (1 - beta1) * i
        deviation = beta2 * deviation + (1 - beta2) * np.abs(i - mean)
    return mean * deviation
