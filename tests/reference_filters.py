"""Slow literal transcriptions of the filters: whole vectors, loops over clients and coordinates.

A client is a tuple (vector, examples). Nothing of the product is imported here.
"""

import math

import numpy as np


def length(vector):
    return math.sqrt(sum(float(x) ** 2 for x in vector))


def median(values):
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def within_norm(vectors, factor):
    """Positions of the vectors no longer than `factor` times the median length."""
    lengths = [length(v) for v in vectors]
    return [i for i, one in enumerate(lengths) if one <= factor * median(lengths)]


def krum_scores(vectors, malicious):
    """Blanchard et al., section 4: s(i) = sum over i -> j of |V_i - V_j|^2, j among the n - f - 2 closest to V_i."""
    n, scores = len(vectors), []
    for i in range(n):
        others = [sum((a - b) ** 2 for a, b in zip(vectors[i], vectors[j], strict=True)) for j in range(n) if j != i]
        scores.append(sum(sorted(others)[: n - malicious - 2]))
    return scores


def multi_krum(vectors, malicious, keep):
    scores = krum_scores(vectors, malicious)
    return sorted(sorted(range(len(vectors)), key=lambda i: (scores[i], i))[:keep])


def in_median_units(vectors):
    """Divide by the median length, unless that is zero."""
    unit = median([length(v) for v in vectors]) or 1.0
    return [[x / unit for x in v] for v in vectors]


def coordinate_median(vectors):
    return [median(column) for column in zip(*vectors, strict=True)]


def trimmed_mean(vectors, examples, cut):
    """Yin et al., definition 2: without the `cut` smallest and largest of every coordinate; weighted by examples."""
    out = []
    for column in zip(*vectors, strict=True):
        kept = sorted(zip(column, examples, strict=True))[cut : len(column) - cut]
        out.append(sum(w * x for x, w in kept) / sum(w for _, w in kept))
    return out


def mean(vectors, weights):
    return list(np.average(np.array(vectors), axis=0, weights=weights))
