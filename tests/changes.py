"""Random changes in factors, for tests of merges."""

import numpy as np
from hypothesis import strategies as st

from fcil.merging.lowrank import LowRank


def change(rng, out, width, rank):
    return LowRank(rng.standard_normal((out, rank)), rng.standard_normal((rank, width)))


def orthogonal(rng, n):
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


@st.composite
def low_rank(draw, few=1, many=4):
    """Draw a few changes of one shape, their ranks 1 to 3 each and their sum below both sides."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ranks = draw(st.lists(st.integers(1, 3), min_size=few, max_size=many))
    least = max(sum(ranks), max(ranks) * len(ranks)) + 1
    out, width = draw(st.integers(least, least + 8)), draw(st.integers(least, least + 8))
    return [change(rng, out, width, rank) for rank in ranks]


@st.composite
def full_rank(draw, few=2):
    """Draw a few changes of one shape and of full rank, where the dense forms of spectral merges are well-defined."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    out, width = draw(st.integers(4, 9)), draw(st.integers(4, 9))
    return [change(rng, out, width, min(out, width)) for _ in range(draw(st.integers(few, 4)))]


def gauged(rng, one):
    """Write the same product in other factors."""
    g = orthogonal(rng, one.rank) * rng.uniform(0.5, 2, one.rank)
    return LowRank(one.b @ g, np.linalg.inv(g) @ one.a)


def turned(left, right, one):
    """Turn a change by two orthogonal matrices: left B A right."""
    return LowRank(left @ one.b, one.a @ right)
