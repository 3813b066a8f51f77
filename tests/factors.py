"""Random experts to merge: changes in factors, several layers, ranks that may differ."""

import numpy as np
from hypothesis import strategies as st

from fcil.merging.expert import Expert
from fcil.merging.lowrank import LowRank

SHAPES = {"first": (5, 4), "second": (3, 6)}


def experts(seed, ranks=(2, 1, 2), shapes=SHAPES, weights=None):
    """Draw one expert per rank, of unequal weights unless `weights` says otherwise."""
    rng = np.random.default_rng(seed)
    weights = rng.integers(1, 9, len(ranks)) if weights is None else weights
    return [
        Expert({n: LowRank(rng.normal(size=(o, r)), rng.normal(size=(r, i))) for n, (o, i) in shapes.items()}, float(w))
        for r, w in zip(ranks, weights, strict=True)
    ]


@st.composite
def many(draw, few=1, equal=False):
    """Draw experts of up to three layers with sides up to 6; with `equal` all weights are 1."""
    side = st.integers(1, 6)
    shapes = {f"layer{n}": (draw(side), draw(side)) for n in range(draw(st.integers(1, 3)))}
    ranks = draw(st.lists(st.integers(1, 3), min_size=few, max_size=4))
    return experts(draw(st.integers(0, 2**32 - 1)), ranks, shapes, [1.0] * len(ranks) if equal else None)


def denses(one):
    """Layer -> B A of an expert."""
    return {layer: change.b @ change.a for layer, change in one.changes.items()}


def mapped(all_experts, function):
    """Replace every change of the experts."""
    return [
        Expert({n: function(c) for n, c in e.changes.items()}, e.weight, e.statistics) for e in all_experts
    ]  # fmt: skip


def draws(seed=0):
    """A `Draw`: purpose -> generator, the same for the same purpose."""

    def draw(*purpose):
        return np.random.default_rng([seed, *(b for part in purpose for b in f"{part}/".encode())])

    return draw
