"""Response matching: find the linear map whose outputs are closest to those of each client's map on its inputs.

minimise over Theta  sum_i || (Theta - Theta_i) X_i ||_F^2,  G_i = X_i X_i^T  =>  Theta* sum_i G_i = sum_i Theta_i G_i

which is RegMean (Jin et al., arXiv 2212.09849) for a whole layer and LoRM (arXiv 2410.17961) for one LoRA factor: with
A shared and P_i = A G_i A^T it gives B* (Eq. for B), with B shared it gives A*, the same for every B of full column
rank. With Gram diagonals only, every column of Theta* is a mean of the clients' columns weighted by their energy.
Literal transcription: `tests/reference.py`.

The full solution is computed as a correction of that diagonal one, D:

    Theta* = D + (sum_i (Theta_i - D) G_i)(sum_i G_i)^+

Where sum_i G_i has full rank, D cancels. Where it has not, some directions do not appear in the objective, and the
correction of D is the shortest, each feature counted in units of its own energy: identical clients are a fixed point,
one client gets its own matrix back at any rank, and a feature without energy keeps the column that all clients started
from, bit for bit.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fcil.arrays import Arrays, symmetric_half
from fcil.errors import MergeError
from fcil.merging import packed

__all__ = ["CUT_OFF", "Moments", "match", "match_diagonal", "merge_tasks", "moments", "solve"]

CUT_OFF = 1e-6
"""Eigenvalues of the Gram sum, scaled to unit diagonal, below CUT_OFF times the largest count as zero.

Grams travel in float32, whose rounding moves those eigenvalues by about 1e-7 of the largest. Scaling to unit diagonal
first makes the rule independent of the units of single features: inputs of ViT layers differ by factors of 1,000.
"""


@dataclass(frozen=True)
class Moments:
    """The sums over clients that response matching needs, in float64, so that those of two groups of clients add."""

    gram: np.ndarray
    """sum_i G_i: (in,) its diagonal, or (in (in + 1) / 2,) its upper half."""
    weighted: np.ndarray
    """(out, in): sum_i (Theta_i - start) diag(G_i)."""
    response: np.ndarray | None = None
    """(out, in): sum_i (Theta_i - start) G_i; None where only diagonals are known."""

    @staticmethod
    def gram_name(name: str) -> str:
        """The name of the Gram sum among `arrays`."""
        return f"{name}.gram"

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """The sums as named arrays, `<name>.gram` and so on, which `read` turns into moments again."""
        arrays = {self.gram_name(name): self.gram, f"{name}.weighted": self.weighted}
        return arrays if self.response is None else {**arrays, f"{name}.response": self.response}

    @classmethod
    def read(cls, arrays: Arrays, name: str) -> "Moments":
        """Read moments from the arrays that `arrays` made."""
        return cls(arrays[cls.gram_name(name)], arrays[f"{name}.weighted"], arrays.get(f"{name}.response"))


def moments(start: np.ndarray, thetas: Iterable[np.ndarray], grams: Iterable[np.ndarray], whole: bool) -> Moments:
    """Sum the moments of clients, one client at a time.

    Args:
        start: (out, in) the matrix that all clients started from.
        thetas: (out, in) each client's matrix.
        grams: each client's sum of x x^T, in any common unit: the upper half, (in (in + 1) / 2,), where `whole`; else
            the diagonal, (in,).

    Raises:
        MergeError: there are no clients, or shapes do not fit; names the client.
    """
    width = start.shape[1]
    shape = (width * (width + 1) // 2 if whole else width,)
    pairs = _checked_pairs(start, shape, thetas, grams)
    if whole and width > packed.BLOCK:
        return _large_moments(start, pairs)
    return (_small_moments if whole else _diagonal_moments)(start, list(pairs))


def _checked_pairs(
    start: np.ndarray, shape: tuple[int, ...], thetas: Iterable[np.ndarray], grams: Iterable[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield Theta_i and G_i of at least one client, and check their shapes."""
    count = 0
    for theta, gram in zip(thetas, grams, strict=True):
        if theta.shape != start.shape or gram.shape != shape:
            raise MergeError(
                f"client {count}: factor {theta.shape} and Gram {gram.shape} do not fit the start {start.shape}"
            )
        count += 1
        yield theta, gram
    if not count:
        raise MergeError("response matching needs at least one client; got none")


def _subtract(theta: np.ndarray, origin: np.ndarray, change: np.ndarray) -> None:
    """Write Theta_i - start into `change`. Theta_i is converted first: mixed types are slow to calculate with."""
    np.copyto(change, theta)
    change -= origin


def _diagonal_moments(start: np.ndarray, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Moments:
    grams = np.stack([gram for _, gram in pairs]).astype(np.float64)
    origin, change, weighted = start.astype(np.float64), np.empty(start.shape), np.zeros(start.shape)
    for (theta, _), gram in zip(pairs, grams, strict=True):
        _subtract(theta, origin, change)
        change *= gram
        weighted += change
    return Moments(grams.sum(0), weighted)


def _small_moments(start: np.ndarray, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Moments:
    """Sum the moments for the small Grams of a B round, with fewer passes over the factors.

    [sum (Theta_i - start) G_i, sum (Theta_i - start) diag(G_i)], (out, 2 in), is added up inside the products.
    """
    from scipy.linalg.blas import dgemm  # slow to import, and settings are checked without it

    out, width = start.shape
    grams = np.stack([gram for _, gram in pairs]).astype(np.float64)
    all_grams, columns = np.zeros((len(pairs), width, 2 * width)), np.arange(width)
    all_grams[:, :, :width] = packed.whole(grams)
    all_grams[:, columns, width + columns] = all_grams[:, columns, columns]
    origin, change, both = start.astype(np.float64), np.empty(start.shape), np.zeros((out, 2 * width))
    for (theta, _), both_grams in zip(pairs, all_grams, strict=True):
        _subtract(theta, origin, change)
        # BLAS counts by columns: these are the transposes, computed in place
        dgemm(1.0, both_grams.T, change.T, beta=1.0, c=both.T, overwrite_c=True)
    return Moments(grams.sum(0), both[:, width:], both[:, :width])


def _large_moments(start: np.ndarray, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> Moments:
    """Sum the moments for Grams that are too large to hold in float64 for several clients."""
    width = start.shape[1]
    origin, change = start.astype(np.float64), np.empty(start.shape)
    gram_sum, weighted, response = np.zeros(width * (width + 1) // 2), np.zeros(start.shape), np.zeros(start.shape)
    for theta, gram in pairs:
        _subtract(theta, origin, change)
        gram_sum += gram
        response += packed.times(change, gram)
        change *= packed.diagonal(gram).astype(np.float64)
        weighted += change
    return Moments(gram_sum, weighted, response)


def _unit_diagonal(gram: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """diag(scale) G diag(scale) in the lower triangle, zeros above, in column order as LAPACK needs it."""
    matrix = packed.upper(gram)
    matrix *= scale
    matrix *= scale[:, None]
    return matrix.T


def _factor(matrix: np.ndarray, cut_off: float) -> np.ndarray | None:
    """The Cholesky factor, computed in place, if the condition number rules out eigenvalues below the cut-off."""
    from scipy.linalg.lapack import dlantr, dpocon, dpotrf

    # norms of one triangle, by columns and by rows: together at least that of the whole matrix
    norm = dlantr("1", matrix, uplo="L") + dlantr("I", matrix, uplo="L")
    factor, failed = dpotrf(matrix, lower=1, clean=0, overwrite_a=1)
    return factor if not failed and dpocon(factor, norm, uplo="L")[0] > 10 * cut_off else None


def _solve_right(right: np.ndarray, gram: np.ndarray, cut_off: float) -> np.ndarray:
    """Solve X gram = right for a positive semi-definite `gram`, given as a half, whose range holds the rows of `right`.

    It uses Cholesky where no eigenvalue can be below the cut-off, else eigenvectors.
    """
    from scipy.linalg import eigh
    from scipy.linalg.lapack import dpotrs

    energy = packed.diagonal(gram)
    if len(right) > len(energy):  # the inverse and a product are faster than that many solves
        return np.asarray(right @ _solve_right(np.eye(len(energy)), gram, cut_off))
    positive = energy > 0
    scale = np.zeros_like(energy)
    scale[positive] = energy[positive] ** -0.5
    factor = _factor(_unit_diagonal(gram, scale), cut_off) if positive.all() else None
    if factor is not None:
        solution, _ = dpotrs(factor, (right * scale).T, lower=1, overwrite_b=1)
        return np.asarray(solution.T * scale)
    values, vectors = eigh(_unit_diagonal(gram, scale), lower=True, driver="evd", check_finite=False, overwrite_a=True)
    mask = values > cut_off * values[-1]
    vectors = scale[:, None] * vectors[:, mask]
    return np.asarray((right @ vectors / values[mask]) @ vectors.T)


def solve(start: np.ndarray, sums: Moments, cut_off: float = CUT_OFF) -> np.ndarray:
    """Solve for the matched matrix Theta*, (out, in) in float64.

    Args:
        start: (out, in) the start of the moments; its column j stays where no client has energy.
        cut_off: relative cut-off of eigenvalues, for whole Grams.
    """
    energy = sums.gram if sums.response is None else packed.diagonal(sums.gram)
    change = sums.weighted / np.where(energy > 0, energy, 1.0)
    if sums.response is not None:
        rest = sums.response - packed.times(change, sums.gram)
        # of one client, or copies of one, only rounding is left to correct
        if _response_norm(rest, energy) > 1e-14 * _response_norm(sums.response, energy):
            change += _solve_right(rest, sums.gram, cut_off)
    change += start
    return np.asarray(change)


def _response_norm(response: np.ndarray, energy: np.ndarray) -> float:
    """The norm of a response Theta G, (out, in), with features in units of their root mean square."""
    squares = np.einsum("ij,ij->j", response, response)
    return float(np.sqrt((squares[energy > 0] / energy[energy > 0]).sum()))


def _check_counts(thetas: Sequence[np.ndarray], grams: Sequence[np.ndarray]) -> None:
    if not thetas or len(thetas) != len(grams):
        raise MergeError(
            f"response matching needs one Gram per client and at least one; got {len(thetas)}, {len(grams)}"
        )


def match(
    start: np.ndarray, thetas: Sequence[np.ndarray], grams: Sequence[np.ndarray], cut_off: float = CUT_OFF
) -> np.ndarray:
    """Match responses with whole Gram matrices, (in, in) each. A client with a zero Gram has no influence.

    Returns:
        (out, in) in float64.

    Raises:
        MergeError: as for `moments`.
    """
    _check_counts(thetas, grams)
    for i, gram in enumerate(grams):
        if gram.shape != (start.shape[1],) * 2:
            raise MergeError(f"client {i}: a Gram {gram.shape} does not fit the start {start.shape}")
    return solve(start, moments(start, thetas, map(symmetric_half, grams), whole=True), cut_off)


def match_diagonal(start: np.ndarray, thetas: Sequence[np.ndarray], grams: Sequence[np.ndarray]) -> np.ndarray:
    """Match responses with Gram diagonals, (in,) each: a column is a mean of columns, weighted by energy.

    >>> match_diagonal(np.zeros((1, 2)), [np.ones((1, 2)), np.zeros((1, 2))], [np.array([3.0, 0]), np.array([1.0, 0])])
    array([[0.75, 0.  ]])

    Returns:
        (out, in) in float64. Costs two passes over the factors; no in x in matrix exists.
    """
    _check_counts(thetas, grams)
    return solve(start, moments(start, thetas, grams, whole=False))


def merge_tasks(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], energies: Sequence[np.ndarray],
    responses: Sequence[np.ndarray] = (), gram: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Merge tasks by response matching in factors: (sum_t B_t A_t G_t)(sum_t G_t)^+.

    Args:
        pairs: (B_t, A_t), (out, r_t) and (r_t, in), one per task.
        energies: (in,) each, g_t = diag(G_t).
        responses: for whole Grams A_t G_t, (r_t, in) each.
        gram: for whole Grams the upper half of sum_t G_t.

    Returns:
        (out, R) and (R, in) with R = sum_t r_t, in float64: B = [B_1 ... B_T], and A has the
        A_t G_t (sum_s G_s)^+ below each other. A column without energy in any task gets no change.
    """
    if not pairs or len(pairs) != len(energies) or len(responses) not in (0, len(pairs)):
        raise MergeError(f"merging tasks needs one Gram per task and at least one; got {len(pairs)}, {len(energies)}")
    weighted = np.concatenate([a * g.astype(np.float64) for (_, a), g in zip(pairs, energies, strict=True)])
    if gram is None or not responses:
        sums = Moments(np.sum([g.astype(np.float64) for g in energies], axis=0), weighted)
    else:
        sums = Moments(gram.astype(np.float64), weighted, np.concatenate(responses))
    b = np.concatenate([b.astype(np.float64) for b, _ in pairs], 1)
    return b, solve(np.zeros(weighted.shape), sums)
