"""The splits of public code of the field, sample by sample, with the draws in the order in which that code draws.

Written from the rules as they were read in STSA, LANDER, TARGET, PILoRA and FPPL (cuts with a cap), GLFC and UOPP
(shared classes), FedSpace (power law). Lists and loops; nothing is done for several samples at once.
"""

import math


def capped(labels, clients, beta, rng):
    """One attempt: p_k counts only while client k holds fewer than N / K samples; None where 0 / 0 would come out."""
    held = [[] for _ in range(clients)]
    for c in sorted(set(labels)):
        members = [i for i, label in enumerate(labels) if label == c]
        rng.shuffle(members)
        p = [
            q if len(own) < len(labels) / clients else 0.0
            for q, own in zip(rng.dirichlet([beta] * clients), held, strict=True)
        ]
        whole = sum(p)
        if whole == 0:
            return None
        reached, begin = 0.0, 0
        for k in range(clients):
            reached += p[k] / whole
            end = len(members) if k == clients - 1 else math.floor(reached * len(members))
            held[k] += members[begin:end]
            begin = end
    return held


def shared(labels, clients, each, rng):
    """One attempt: every client samples classes and has all of their images; None where a class is lost."""
    classes = sorted(set(labels))
    drawn = [list(rng.choice(classes, each, replace=False)) for _ in range(clients)]
    if any(all(c not in own for own in drawn) for c in classes):
        return None
    return [[i for i, label in enumerate(labels) if label in own] for own in drawn]


def sizes(n, clients, exponent, rng):
    """Sizes of all clients; the public code loses count where it draws the same client twice, this one does not."""
    s = [rng.power(exponent) for _ in range(clients)]
    out = [round(x / sum(s) * n) for x in s]
    while sum(out) > n:
        out[int(rng.choice([k for k in range(clients) if out[k] > 0]))] -= 1
    while sum(out) < n:
        out[int(rng.choice(clients))] += 1
    return out


def power_law(labels, clients, beta, exponent, rng):
    """Sizes, then mixes of classes as far as stocks last, then the rest class by class to those who lack samples."""
    classes = sorted(set(labels))
    stock = {}
    for c in classes:
        stock[c] = [i for i, label in enumerate(labels) if label == c]
        rng.shuffle(stock[c])
    wanted = sizes(len(labels), clients, exponent, rng)
    counts = [dict.fromkeys(classes, 0) for _ in range(clients)]
    left = {c: len(stock[c]) for c in classes}
    for k in range(clients):
        available = [c for c in classes if left[c] > 0]
        if not available:
            continue
        for c, q in zip(available, rng.dirichlet([beta] * len(available)), strict=True):
            counts[k][c] = min(round(q * wanted[k]), left[c])
            left[c] -= counts[k][c]
    for k in range(clients):
        for c in classes:
            while left[c] > 0 and sum(counts[k].values()) < wanted[k]:
                counts[k][c] += 1
                left[c] -= 1
    held = [[] for _ in range(clients)]
    for c in classes:
        for k in range(clients):
            held[k] += [stock[c].pop(0) for _ in range(counts[k][c])]
    return held
