"""Quantise weight matrices to 4 or 2 bits, and split them into a quantised matrix and a low-rank one as LoftQ does.

A weight is cut into blocks of `block` entries along its rows; a block is stored as its largest absolute value, the
scale, and for each entry the number of the nearest of 2^bits levels between -1 and 1 (Dettmers et al., QLoRA, arXiv
2305.14314, for the NF levels; Li et al., LoftQ, arXiv 2310.08659). The last block may be shorter: it is filled up with
zeros, which are cut off again. Literal transcription: `tests/reference_quantization.py`.
"""

from functools import cache
from statistics import NormalDist
from typing import Literal, NamedTuple, get_args

import numpy as np

from fcil.errors import ConfigError
from fcil.merging.lowrank import TOLERANCE, LowRank, balanced, dense, signs

__all__ = ["BITS", "KINDS", "Kind", "LoftqSplit", "byte_levels", "dequantized", "levels", "loftq", "quantized"]

Kind = Literal["nf", "uniform"]
"""How the levels lie: at quantiles of the normal distribution, or evenly."""
KINDS: tuple[Kind, ...] = get_args(Kind)
BITS = (2, 4)
"""The numbers of bits that an entry can have."""
OFFSET = 0.9677083
"""The probability of the largest NF level, as in QLoRA: (1 - 1/32 + 1 - 1/30) / 2."""


class LoftqSplit(NamedTuple):
    """A weight as a quantised matrix Q and a low-rank change beside it: W = Q + B A, nearly."""

    codes: np.ndarray
    """Numbers of Q's levels, packed: (n,) uint8."""
    scales: np.ndarray
    """Largest absolute value of each block of Q, (blocks,) float32."""
    a: np.ndarray
    """The factor A, (rank, in) float32."""
    b: np.ndarray
    """The factor B, (out, rank) float32."""


def levels(bits: int, kind: Kind) -> np.ndarray:
    """Compute the 2^bits levels between -1 and 1, rising, float32.

    "nf" is QLoRA's NormalFloat: 0, and quantiles of the normal distribution at probabilities evenly spaced between 1/2
    and `OFFSET`, 2^(bits-1) above zero and one fewer below, divided by the largest. "uniform" is evenly spaced.

    >>> levels(2, "uniform").round(3).tolist(), levels(2, "nf").round(3).tolist()
    ([-1.0, -0.3330000042915344, 0.3330000042915344, 1.0], [-1.0, 0.0, 0.33799999952316284, 1.0])
    """
    if kind == "uniform":
        return np.linspace(-1, 1, 2**bits).astype(np.float32)
    half, quantile = 2 ** (bits - 1), NormalDist().inv_cdf
    above = [quantile(p) for p in np.linspace(0.5, OFFSET, half + 1)[1:]]
    below = [quantile(p) for p in np.linspace(0.5, OFFSET, half)[1:]]
    return (np.array([*(-q for q in reversed(below)), 0, *above]) / above[-1]).astype(np.float32)


@cache
def byte_levels(bits: int, kind: Kind) -> np.ndarray:
    """Tabulate the levels of the entries that a byte holds, (256, 8 / bits) float32; the lowest bits come first."""
    byte, shifts = np.arange(256)[:, None], bits * np.arange(8 // bits)
    table: np.ndarray = levels(bits, kind)[byte >> shifts & 2**bits - 1]
    table.setflags(write=False)  # it is shared
    return table


def quantized(weight: np.ndarray, bits: int, kind: Kind = "nf", block: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Quantise a weight, (out, in), to the nearest levels of its blocks; halfway between two, to the lower.

    Args:
        block: entries that share a scale, a multiple of 8 / bits, so that no byte belongs to two blocks.

    Returns:
        The codes, (blocks * block * bits / 8,) uint8, 8 / bits entries a byte from the lowest bits up; and the scales,
        (blocks,) float32. A block of zeros has the scale 0 and is restored as zeros.

    Raises:
        ConfigError: the weight is not finite in float32.
    """
    blocks = -(-weight.size // block)
    padded = np.zeros(blocks * block)
    padded[: weight.size] = weight.ravel()
    rows = padded.reshape(blocks, block)
    largest = np.abs(rows).max(1, initial=0.0)
    if not (largest <= np.finfo(np.float32).max).all():
        raise ConfigError(
            "model.weights: a weight to be quantised has values that are not finite, or too large for float32; use "
            "other weights, or method.bits = 16"
        )
    scales = largest.astype(np.float32)
    shares = np.divide(rows, scales[:, None], out=np.zeros_like(rows), where=scales[:, None] > 0)
    table = levels(bits, kind).astype(np.float64)
    codes = np.searchsorted((table[1:] + table[:-1]) / 2, shares).astype(np.uint8).reshape(-1, 8 // bits)
    return np.bitwise_or.reduce(codes << (bits * np.arange(8 // bits, dtype=np.uint8)), axis=1), scales


def dequantized(
    codes: np.ndarray, scales: np.ndarray, shape: tuple[int, int], bits: int, kind: Kind = "nf"
) -> np.ndarray:
    """Restore a quantised weight, float32: the level of each entry times the scale of its block.

    Args:
        codes: as `quantized` returns them, with `scales`; the two sizes tell how long a block is.
        shape: (out, in).
    """
    values = byte_levels(bits, kind)[codes].reshape(len(scales), -1) * scales[:, None]
    return np.asarray(values.reshape(-1)[: shape[0] * shape[1]].reshape(shape))


def _nearest(matrix: np.ndarray, rank: int) -> LowRank:
    """The nearest change of rank `rank`, balanced: what `fcil.merging.lowrank.truncated` returns, several times faster.

    The leading singular vectors V of the shorter side are taken from the Gram matrix of the longer one, and U S is M V.
    A Gram matrix knows small singular values badly, but here they are cut off, or V is complete and M V V^T exact.
    """
    from scipy.linalg import eigh  # not imported for settings alone

    if matrix.shape[0] < matrix.shape[1]:
        turned = _nearest(matrix.T, rank).transposed()
        sign = signs(turned.b)
        return LowRank(turned.b * sign, sign[:, None] * turned.a)
    n = matrix.shape[1]
    v = eigh(matrix.T @ matrix, subset_by_index=(n - rank, n - 1))[1][:, ::-1]
    left = matrix @ v  # U S
    s = np.linalg.norm(left, axis=0)
    s[s <= TOLERANCE * s.max()] = 0
    u = np.divide(left, s, out=np.zeros_like(left), where=s > 0)
    sign = signs(u)
    return balanced(u * sign, s, (v * sign).T)


def loftq(
    weight: np.ndarray, rank: int, bits: int, kind: Kind = "nf", iterations: int = 5, block: int = 64
) -> LoftqSplit:
    """Split a weight W, (out, in), into a quantised Q and B A of rank `rank` by LoftQ's algorithm 1.

    From B A = 0, in turn: Q = the quantised W - B A; B A = the best approximation of W - Q of that rank, by an SVD in
    float64, as B = U S^1/2 and A = S^1/2 V^T. The SVD comes last: B A belongs to the Q that is returned. One iteration
    is QLoRA's quantisation and a pair that makes up for the largest part of its error. More usually come nearer to W,
    but need not, as the scales move. Always ||W - Q - B A|| <= ||W - Q||, to the accuracy of float32.

    Args:
        iterations: at least 1.

    Raises:
        ConfigError: the weight is not finite.
    """
    target = weight.astype(np.float64)
    shape = (target.shape[0], target.shape[1])
    pair = LowRank(np.zeros((shape[0], 0)), np.zeros((0, shape[1])))
    for _ in range(iterations):
        codes, scales = quantized(target - dense(pair), bits, kind, block)
        pair = _nearest(target - dequantized(codes, scales, shape, bits, kind), rank)
    return LoftqSplit(codes, scales, pair.a.astype(np.float32), pair.b.astype(np.float32))
