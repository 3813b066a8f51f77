"""Frequent directions against the Gram matrix itself, and against the bound that they promise."""

import numpy as np
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from fcil.merging import packed
from fcil.statistics import frequent_directions
from fcil.statistics.frequent_directions import FrequentDirections
from fcil.statistics.inputs import gram_of_sketch


def stream(seed, width, tokens, decay):
    """Inputs whose energy falls off over hidden directions."""
    rng = np.random.default_rng(seed)
    mixing = np.linalg.qr(rng.standard_normal((width, width)))[0] * decay ** np.arange(width)
    return mixing @ rng.standard_normal((width, tokens))


def sketched(x, rows, pieces):
    directions = FrequentDirections(len(x), rows)
    for piece in np.array_split(x, pieces, axis=1):
        directions.add(torch.from_numpy(np.ascontiguousarray(piece.T)))
    return directions.sketch().numpy()


@given(st.integers(0, 2**32 - 1), st.integers(2, 24), st.integers(1, 24), st.floats(0.5, 1), st.integers(1, 7))
def test_the_error_keeps_its_bound_and_the_sketch_never_overshoots(seed, width, rows, decay, pieces):
    frequent_directions.BLOCK, block = 5, frequent_directions.BLOCK  # many shrinks in a short stream
    try:
        x = stream(seed, width, 60, decay)
        s = sketched(x, rows, pieces)
    finally:
        frequent_directions.BLOCK = block
    rows = min(rows, width)
    assert s.shape == (rows, width)
    g = reference.gram(x)
    missing = np.linalg.eigvalsh(g - s.T @ s)
    largest = np.linalg.eigvalsh(g)[::-1]
    assert missing[0] >= -1e-9 * largest[0]
    for j in range(rows + 1):
        assert missing[-1] <= largest[j:].sum() / (rows + 1 - j) + 1e-9 * largest[0]


@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.integers(0, 5))
def test_as_many_rows_as_inputs_or_more_are_the_whole_gram(seed, width, extra):
    x = stream(seed, width, 80, 0.8)
    s = sketched(x, width + extra, 3)
    np.testing.assert_allclose(s.T @ s, reference.gram(x), rtol=1e-9, atol=1e-9 * np.square(x).sum())


def test_few_inputs_are_kept_without_loss_and_none_make_zeros():
    x = stream(1, 10, 3, 1.0)
    s = sketched(x, 4, 2)
    np.testing.assert_allclose(s.T @ s, reference.gram(x), rtol=1e-10, atol=1e-10)
    assert not FrequentDirections(10, 4).sketch().any()


def test_what_the_server_makes_of_a_sketch_has_the_exact_diagonal_and_is_closer():
    """The diagonal that frequent directions lose is known exactly, so it is put back."""
    x = stream(2, 20, 300, 0.9)
    g = reference.gram(x)
    s = sketched(x, 6, 4)
    mended = packed.whole(gram_of_sketch(s.astype(np.float32), np.diag(g).astype(np.float32)))
    np.testing.assert_allclose(np.diag(mended), np.diag(g), rtol=1e-6)
    np.testing.assert_allclose(mended - np.diag(np.diag(mended)), s.T @ s - np.diag(np.diag(s.T @ s)), atol=1e-3)
    assert np.linalg.eigvalsh(mended)[0] > -1e-6 * g.max()
    assert np.linalg.norm(mended - g) < np.linalg.norm(s.T @ s - g)
