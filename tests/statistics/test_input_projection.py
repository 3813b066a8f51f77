"""Sketches of inputs: sums over tokens whose space is that of the inputs, drawn by each client for itself."""

import numpy as np
import torch
from small import phase

from fcil.statistics.input_projection import InputProjection, projection_of

ARRAYS = {"layer.lora_A": np.zeros((2, 5), "f4"), "layer.lora_B": np.zeros((3, 2), "f4")}


def sketch(x, client=0, columns=4, batches=2):
    collector = InputProjection(columns).start(ARRAYS, None, lambda purpose: phase().generator(purpose, client))
    for part in torch.tensor(x).chunk(batches):
        collector.layers["layer"](part)
    return collector.finish()[projection_of("layer")]


def test_a_sketch_is_inputs_times_normal_numbers_and_spans_them():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(6, 7, 2)) @ rng.normal(size=(2, 5))).astype("f4")  # of rank 2
    y = sketch(x)
    omega = phase().generator("input projection", 0).standard_normal((42, 4), np.float32)
    np.testing.assert_allclose(y, x.reshape(-1, 5).T @ omega, rtol=1e-4, atol=1e-4)
    assert InputProjection(4).shapes({n: a.shape for n, a in ARRAYS.items()}) == {"layer.input_projection": y.shape}
    assert np.linalg.matrix_rank(y, tol=1e-3) == 2
    other = sketch(x, client=1)
    assert not np.allclose(y, other)
    assert np.linalg.matrix_rank(np.concatenate([y, other, x.reshape(-1, 5).T], 1), tol=1e-3) == 2


def test_its_square_is_the_gram_matrix_on_average():
    x = np.random.default_rng(0).normal(size=(30, 5)).astype("f4")
    y = sketch(x, columns=20_000)
    np.testing.assert_allclose(y @ y.T / 20_000, x.T @ x, atol=2.0)
