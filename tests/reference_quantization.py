"""Slow, literal transcriptions of block-wise quantisation and of LoftQ's alternating decomposition, for tests only."""

import numpy as np
from scipy.stats import norm

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""The 16 values as published with QLoRA (appendix E of arXiv 2305.14314)."""


def normal_float(bits):
    """0, the quantiles above it and one fewer below, at evenly spaced probabilities, divided by the largest."""
    offset, count = 0.9677083, 2**bits
    above = [norm.ppf(0.5 + (offset - 0.5) * i / (count // 2)) for i in range(1, count // 2 + 1)]
    below = [-norm.ppf(0.5 + (offset - 0.5) * i / (count // 2 - 1)) for i in range(1, count // 2)]
    return sorted(value / max(above) for value in [*below, 0.0, *above])


def table(bits, kind):
    return normal_float(bits) if kind == "nf" else [-1 + 2 * i / (2**bits - 1) for i in range(2**bits)]


def numbers(weight, levels, block):
    """Entry by entry: its block's largest absolute value, and the number of the nearest level."""
    flat, chosen, scales = [float(w) for w in weight.ravel()], [], []
    for begin in range(0, len(flat), block):
        entries = flat[begin : begin + block]
        scale = float(np.float32(max(abs(w) for w in entries)))
        scales.append(scale)
        for w in entries:
            share = w / scale if scale else 0.0
            chosen.append(min(range(len(levels)), key=lambda i: abs(share - levels[i])))
    return chosen, scales


def restored(chosen, scales, levels, block, shape):
    return np.array([levels[c] * scales[i // block] for i, c in enumerate(chosen)]).reshape(shape)


def loftq(weight, rank, levels, iterations, block):
    """Algorithm 1 of LoftQ: Q_t = quant(W - the product), then the SVD of W - Q_t; returns Q_T and the product."""
    product = np.zeros(weight.shape)
    for _ in range(iterations):
        q = restored(*numbers(weight - product, levels, block), levels, block, weight.shape)
        u, s, vt = np.linalg.svd(weight - q, full_matrices=False)
        product = (u[:, :rank] * np.sqrt(s[:rank])) @ (np.sqrt(s[:rank])[:, None] * vt[:rank])
    return q, product
