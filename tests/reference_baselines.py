"""The classic baselines, literally: their papers' objectives and updates, slowly, in float64; see `reference`."""

import math

import numpy as np


def fedprox(loss, w, broadcast, mu):
    """Li et al., arXiv 1812.06127, Algorithm 2: h(w; w^r) = F(w) + mu / 2 |w - w^r|^2, for lists of numbers."""
    return loss + mu / 2 * sum((a - b) ** 2 for a, b in zip(w, broadcast, strict=True))


def softmax(z, temperature=1.0):
    """Probabilities of a list of logits."""
    powers = [math.exp(value / temperature - max(z) / temperature) for value in z]
    return np.array([power / sum(powers) for power in powers])


def scaffold_round(x, c, own, gradients, counts, steps, lr, server_lr, option, weights, everyone):
    """One round of Karimireddy et al., arXiv 1910.06378, Algorithm 1.

    Args:
        own: client -> c_i, changed in place; gradients: client that is asked -> its gradient, a function.
        counts: client -> examples, of all clients; everyone: N.
    """
    moved, turned, share = 0.0, 0.0, 0.0
    for i, gradient in gradients.items():
        y = x.copy()
        for _ in range(steps):
            y = y - lr * (gradient(y) - own[i] + c)
        new = gradient(x) if option == "I" else own[i] - c + (x - y) / (steps * lr)
        w = 1.0 if weights == "equal" else counts[i]
        moved, turned, share = moved + w * (y - x), turned + w * (new - own[i]), share + w
        own[i] = new
    whole = everyone if weights == "equal" else sum(counts.values())
    return x + server_lr * moved / share, c + turned / whole


def fisher(logits, jacobian, label, kind):
    """One sample's share of F. jacobian[c][j]: the derivative of logit c in parameter j."""
    p = softmax(list(logits))
    jacobian = np.asarray(jacobian)

    def score(c):
        return jacobian[c] - sum(p[k] * jacobian[k] for k in range(len(p)))  # grad log p(c|x)

    if kind == "exact":
        return sum(p[c] * score(c) ** 2 for c in range(len(p)))
    return (p[label] if kind == "mammoth" else 1.0) * score(label) ** 2


def ewc(loss, theta, anchor, fishers, strength):
    """Kirkpatrick et al., arXiv 1612.00796, equation 3."""
    return loss + sum(strength / 2 * f * (t - a) ** 2 for t, a, f in zip(theta, anchor, fishers, strict=True))


def distillation(student, teacher, temperature):
    """Li and Hoiem, arXiv 1606.09282, equations 2 and 3: probabilities to the power 1 / T, normalised again."""
    total = 0.0
    for z, z_old in zip(student, teacher, strict=True):
        y, y_old = softmax(z), softmax(z_old)
        q = y_old ** (1 / temperature) / sum(y_old ** (1 / temperature))
        s = y ** (1 / temperature) / sum(y ** (1 / temperature))
        total -= sum(a * math.log(b) for a, b in zip(q, s, strict=True))
    return total / len(student)


def cross_entropy(logits, labels):
    """Mean of -log p(y|x)."""
    return sum(-math.log(softmax(list(z))[y]) for z, y in zip(logits, labels, strict=True)) / len(logits)


def der_distance(logits, kept):
    """Buzzega et al., arXiv 2004.07211: the mean of (z - z')^2, over the classes that were known of each sample."""
    squares = [(a - b) ** 2 for z, old in zip(logits, kept, strict=True) for a, b in zip(z, old, strict=False)]
    return sum(squares) / len(squares)


def reservoir(stream, size, draw):
    """Vitter's algorithm R; draw(n) is uniform on 0 ... n - 1."""
    kept = []
    for n, sample in enumerate(stream, 1):
        if len(kept) < size:
            kept.append(sample)
        elif (place := draw(n)) < size:
            kept[place] = sample
    return kept


def greedy_balance(stream, size, pick):
    """Prabhu et al., ECCV 2020, algorithm 1, for (sample, label); pick(places) is one of those of the largest class."""
    kept, seen = [], set()
    for sample, label in stream:
        seen.add(label)
        count = {y: sum(other == y for _, other in kept) for y in seen}
        if count[label] < size / len(seen):
            if len(kept) >= size:
                most = max(count.values())
                largest = min(y for y in count if count[y] == most)
                kept[pick([i for i, (_, y) in enumerate(kept) if y == largest])] = (sample, label)
            else:
                kept.append((sample, label))
    return kept


def icarl(logits, labels, old, first):
    """Rebuffi et al., arXiv 1611.07725, Algorithm 3, mean over images; old: the last model's logits, (n, first)."""
    total = 0.0
    for z, y, z_old in zip(logits, labels, old, strict=True):
        for c, value in enumerate(z):
            g = 1 / (1 + math.exp(-value))
            target = 1 / (1 + math.exp(-z_old[c])) if c < first else float(y == c)
            total -= target * math.log(g) + (1 - target) * math.log(1 - g)
    return total / len(labels)


def unit(x):
    return x / np.linalg.norm(x)


def herding_distances(features, chosen):
    """Algorithm 4: candidate -> the distance that it would leave; features and means are normalised (section 3.1)."""
    mean, k = unit(np.mean(features, axis=0)), len(chosen) + 1
    return {
        i: np.linalg.norm(mean - unit((features[i] + sum(features[j] for j in chosen)) / k))
        for i in range(len(features))
        if i not in chosen
    }


def herding(features, count):
    """Algorithm 4: the nearest candidate, again and again."""
    chosen = []
    while len(chosen) < min(count, len(features)):
        distances = herding_distances(features, chosen)
        chosen.append(min(distances, key=distances.get))
    return chosen


def nearest_mean(x, exemplar_sets):
    """Algorithm 1: the class whose exemplars' mean is nearest to a feature; a class without exemplars is never it."""
    means = {c: unit(np.mean([unit(p) for p in them], axis=0)) for c, them in exemplar_sets.items() if len(them)}
    return min(means, key=lambda c: np.linalg.norm(unit(x) - means[c]))
