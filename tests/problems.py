"""Random problems of response matching, for Hypothesis."""

import numpy as np
import reference
from hypothesis import strategies as st


class Problem:
    """Random factors and inputs of some clients; with `tokens` >= in every Gram has full rank."""

    def __init__(self, seed, out, width, rank, clients, tokens=None):
        self.rng = rng = np.random.default_rng(seed)
        self.xs = [rng.standard_normal((width, tokens or 6 * width)) for _ in range(clients)]
        self.grams = [reference.gram(x) for x in self.xs]
        self.a = rng.standard_normal((rank, width))
        self.b = rng.standard_normal((out, rank))
        self.as_ = [rng.standard_normal((rank, width)) for _ in range(clients)]
        self.bs = [rng.standard_normal((out, rank)) for _ in range(clients)]
        self.thetas = [rng.standard_normal((out, width)) for _ in range(clients)]
        self.start = rng.standard_normal((out, width))
        self.ps = [self.a @ g @ self.a.T for g in self.grams]


@st.composite
def problems(draw, tokens=None, few=1):
    width = draw(st.integers(2, 8))
    rank = draw(st.integers(1, min(3, width)))
    out = draw(st.integers(rank, 7))
    return Problem(draw(st.integers(0, 2**32 - 1)), out, width, rank, draw(st.integers(few, 5)), tokens)


def close(left, right, tolerance=1e-8):
    np.testing.assert_allclose(left, right, rtol=tolerance, atol=tolerance * max(1, np.abs(right).max()))
