"""PILoRA's weights of prototypes, against the paper's."""

import numpy as np
import reference_baselines3 as literal
from hypothesis import given
from hypothesis import strategies as st

from fcil.merging.prototypes import reweighted, weights


@given(st.integers(0, 2**32), st.integers(2, 5), st.integers(1, 4), st.sampled_from([0.0, 1.0, 5.0]))
def test_they_are_the_papers(seed, clients, holders, sharpness):
    rng = np.random.default_rng(seed)
    p, f = rng.normal(size=(clients, 3)), rng.normal(size=(holders, 3))
    np.testing.assert_allclose(reweighted(p, f, sharpness), literal.pilora_prototype(p, f, sharpness), rtol=1e-8)
    np.testing.assert_allclose(weights(p, f, sharpness).sum(), 1)


def test_clients_count_alike_where_nothing_tells_them_apart():
    p = np.random.default_rng(0).normal(size=(3, 4))
    for same, means in ((p, np.zeros((0, 4))), (np.ones((3, 4)), p[:2]), (np.ones((3, 4)), np.ones((1, 4)))):
        np.testing.assert_allclose(weights(same, means, 5.0), np.full(3, 1 / 3))
    np.testing.assert_array_equal(weights(p[:1], p, 5.0), [1])
