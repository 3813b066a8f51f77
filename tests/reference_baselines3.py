"""STSA-E, PILoRA, LANDER's anchors and GLFC, literally: slowly, in float64, with loops; see `reference`."""

import math

import numpy as np


def grouped_gram(clients, groups, all_groups):
    """STSA-E, arXiv 2506.01327: G of one class from sums of groups, negative coefficients set to 0.

    Args:
        clients: of each client, (its samples' phi of this class, (n, M); their groups, n numbers).
        all_groups: whether groups without a sample of the class count.
    """
    width = clients[0][0].shape[1]
    sums, numbers = [], []
    for phi, places in clients:
        for g in range(groups):
            rows = [x for x, place in zip(phi, places, strict=True) if place == g]
            sums.append(sum(rows, np.zeros(width)))
            numbers.append(len(rows))
    count, q = sum(numbers), sum(sums)
    k = len(numbers) if all_groups else sum(n > 0 for n in numbers)
    if count == 0:
        return np.zeros((width, width))
    if k == 1:
        return np.outer(q, q) / count
    first, second = max((count - 1) / (k - 1), 0), max((count - k) / ((k - 1) * count), 0)
    within = sum(np.outer(s, s) / n for s, n in zip(sums, numbers, strict=True) if n)
    return first * within - second * np.outer(q, q)


def pilora_loss(features, labels, prototypes, temperature, pull):
    """PILoRA, arXiv 2401.02094: DCE over all prototypes, and PL, the mean distance to a sample's own prototype."""
    dce, pl = 0.0, 0.0
    for h, y in zip(features, labels, strict=True):
        d = [math.sqrt(sum((a - b) ** 2 for a, b in zip(h, p, strict=True)) / len(h)) for p in prototypes]
        dce += d[y] / temperature + math.log(sum(math.exp(-one / temperature) for one in d))
        pl += d[y]
    return (dce + pull * pl) / len(features)


def pilora_prototype(prototypes, means, sharpness):
    """PILoRA's server: the weighted sum of all clients' prototypes of a class."""
    s = [1 / sum(math.dist(p, f) for f in means) for p in prototypes]
    scaled = [(one - min(s)) / (max(s) - min(s)) for one in s]
    powers = [math.exp(sharpness * one) for one in scaled]
    return sum(w / sum(powers) * p for w, p in zip(powers, prototypes, strict=True))


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def binary_cross_entropy(value, target):
    """Of one logit and one target between 0 and 1."""
    return -target * math.log(sigmoid(value)) - (1 - target) * math.log(1 - sigmoid(value))


def glfc_weights(logits, labels, first):
    """GLFC, arXiv 2203.11473, equations 3 and 4: |sigmoid(z_y) - 1| over its mean among old, or among new samples."""
    slopes = [abs(sigmoid(z[y]) - 1) for z, y in zip(logits, labels, strict=True)]
    weights = []
    for slope, y in zip(slopes, labels, strict=True):
        group = [other for other, label in zip(slopes, labels, strict=True) if (label < first) == (y < first)]
        weights.append(slope / (sum(group) / len(group)))
    return weights


def glfc_loss(logits, labels, first, weights, old, relation):
    """GLFC's two terms; old: the old model's logits of the `first` old classes, or None."""
    compensated, related, classes = 0.0, 0.0, len(logits[0])
    for n, (z, y) in enumerate(zip(logits, labels, strict=True)):
        for c in range(classes):
            own = float(c == y)
            compensated += weights[n] * binary_cross_entropy(z[c], own)
            if old is not None:
                related += binary_cross_entropy(z[c], sigmoid(old[n][c]) if c < first else own)
    share = 0.0 if old is None else relation
    return ((1 - share) * compensated + share * related) / (len(labels) * classes)


def entropy(logits):
    """Mean entropy of the softmax, in nats."""
    total = 0.0
    for z in logits:
        whole = sum(math.exp(value) for value in z)
        total -= sum(math.exp(v) / whole * math.log(math.exp(v) / whole) for v in z)
    return total / len(logits)


def mean_square(a, b):
    """Over all entries of two arrays of rows."""
    squares = [(x - y) ** 2 for one, other in zip(a, b, strict=True) for x, y in zip(one, other, strict=True)]
    return sum(squares) / len(squares)


def lander_loss(cross_entropy, mapped, anchors, pull, radius):
    """LANDER, arXiv 2403.14101, in the first task: mapped features and the anchors of their classes, (n, dimension)."""
    return cross_entropy + pull * max(0.0, mean_square(mapped, anchors) - radius)


def lander_later(new, taught, seen, old, current, previous):
    """And in later tasks, of `lander_loss` and what the last model teaches, weighted by numbers of classes."""
    alpha, beta = math.log(seen / 2 + 1, 2), (old / seen) ** 0.5
    return current * (1 + 1 / alpha) / beta * new + previous * alpha * beta * taught
