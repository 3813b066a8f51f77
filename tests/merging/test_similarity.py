"""Kinship, spectra and intruders: definitions on dense products, and what no change of basis may alter."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcil.errors import MergeError
from fcil.merging.lowrank import LowRank
from fcil.merging.similarity import cosines, grams, intruders, kinships, left_vectors, spectra, spectral_features

SHAPES = {"first": (7, 5), "second": (4, 9)}


def models(seed, n=3, ranks=(1, 2, 3)):
    rng = np.random.default_rng(seed)
    return [
        {
            layer: LowRank(rng.standard_normal((out, k)), rng.standard_normal((k, width)))
            for layer, (out, width) in SHAPES.items()
        }
        for k in ranks[:n]
    ]


def flat(changes):
    return np.concatenate([(c.b @ c.a).ravel() for c in changes.values()])


def in_another_basis(changes, seed):
    rng = np.random.default_rng(seed)
    out = {}
    for layer, c in changes.items():
        r = np.linalg.qr(rng.standard_normal((c.rank, c.rank)))[0] * rng.uniform(0.2, 5, c.rank)
        out[layer] = LowRank(c.b @ r, np.linalg.inv(r) @ c.a)
    return out


@given(st.integers(0, 2**32 - 1))
def test_kinship_is_the_cosine_of_the_dense_changes(seed):
    many = models(seed)
    v = np.array([flat(m) for m in many])
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    result = kinships(many)
    np.testing.assert_allclose(result, v @ v.T, atol=1e-12)
    np.testing.assert_allclose(result, result.T, rtol=0)
    np.testing.assert_allclose(np.diagonal(result), 1, atol=1e-12)


@given(st.integers(0, 2**32 - 1))
def test_kinship_and_features_depend_on_products_only(seed):
    many = models(seed)
    other = [in_another_basis(m, seed) for m in many]
    np.testing.assert_allclose(kinships(other), kinships(many), atol=1e-9)
    for ours, theirs in zip(many, other, strict=True):
        np.testing.assert_allclose(spectral_features(theirs, 4), spectral_features(ours, 4), rtol=1e-8, atol=1e-8)


def test_kinship_keeps_its_sign_and_ignores_scale():
    one = models(0, 1)[0]
    against = {layer: c.times(-3.0) for layer, c in one.items()}
    np.testing.assert_allclose(kinships([one, against]), [[1, -1], [-1, 1]], atol=1e-12)


def test_a_model_that_did_not_change_is_akin_to_nobody():
    one = models(0, 1)[0]
    still = {layer: c.times(0.0) for layer, c in one.items()}
    np.testing.assert_array_equal(kinships([one, still])[1], [0, 0])
    assert cosines(np.zeros((2, 2))).tolist() == [[0, 0], [0, 0]]


def test_models_that_differ_in_layers_or_are_none_are_refused():
    one = models(0, 1)[0]
    with pytest.raises(MergeError, match="the same layers"):
        kinships([one, {"first": one["first"]}])
    with pytest.raises(MergeError, match="one model"):
        grams([])


@given(st.integers(0, 2**32 - 1))
def test_spectra_are_the_singular_values_of_the_product(seed):
    for changes in models(seed):
        for layer, values in spectra(changes).items():
            c = changes[layer]
            np.testing.assert_allclose(values, np.linalg.svd(c.b @ c.a)[1][: c.rank], rtol=1e-8)
        assert spectral_features(changes, 5).shape == (5 * len(SHAPES),)


def layer_weight(shape, seed=0):
    """A weight with a falling spectrum, as trained layers have."""
    rng = np.random.default_rng(seed)
    small = min(shape)
    u, v = (np.linalg.qr(rng.standard_normal((n, small)))[0] for n in shape)
    return (u * np.geomspace(10, 0.1, small)) @ v.T, u, v


both_ways = pytest.mark.parametrize("shape", [(96, 64), (64, 96), (80, 80)])


@both_ways
def test_no_change_and_a_change_along_known_directions_bring_no_intruder(shape):
    w, u, v = layer_weight(shape)
    known = left_vectors(w)
    none = LowRank(np.zeros((shape[0], 1)), np.zeros((1, shape[1])))
    assert intruders(w, none, known) == 0
    assert intruders(w, (u * np.linspace(1, 30, u.shape[1])) @ v.T, known) == 0


@both_ways
def test_one_large_random_direction_is_one_intruder(shape):
    w, _, _ = layer_weight(shape)
    rng = np.random.default_rng(3)
    u, v = rng.standard_normal((shape[0], 1)), rng.standard_normal((1, shape[1]))
    change = LowRank(50 * u / np.linalg.norm(u), v / np.linalg.norm(v))
    assert intruders(w, change, left_vectors(w)) == 1
    assert intruders(w, change.times(1e-4), left_vectors(w)) == 0


def test_the_change_is_added_to_the_weight():
    """It takes the first direction away and puts another in its place; subtracted it would make the first larger."""
    w = np.array([[4.0, 0], [0, 1], [0, 0]])
    change = LowRank(np.array([[-4.0], [0], [2]]), np.array([[1.0, 0]]))
    assert intruders(w, change, left_vectors(w), top=1) == 1
    assert intruders(w, change.times(-1), left_vectors(w), top=1) == 0


@both_ways
def test_the_top_vectors_span_what_an_svd_says(shape):
    w, u, _ = layer_weight(shape)
    np.testing.assert_allclose(np.abs(np.sum(left_vectors(w, 5) * u[:, :5], 0)), 1, atol=1e-8)
    assert left_vectors(w, 200).shape == (shape[0], min(shape))
