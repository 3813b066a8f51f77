"""Choose which layers' tokens to use from the sums of all candidates, by generalised cross-validation.

Every candidate block is folded to m numbers (`fcil.statistics.candidates`), and G holds the products within and
between blocks. The sums of any choice of blocks are therefore known without another pass, in two forms:

- side by side, `columns`: rows and columns of G;
- as one fold of all chosen blocks into m numbers, `merged`: with random signs D_b, sum_b D_b z_b is a fold of the
  blocks put side by side, so that choices of one block and of many are compared at equal width.
"""

from collections.abc import Sequence

import numpy as np

from fcil.arrays import symmetric_half
from fcil.merging import packed
from fcil.merging.cross_validation import least_generalised_error

__all__ = ["best_choice", "choices", "columns", "merged"]

LAYERS = 3
"""Number of layers in a choice."""
DRAWS = 4
"""Number of draws of signs over which the errors of a merged choice are averaged."""
Choice = tuple[int, ...]
"""The positions of the chosen blocks among the candidates."""
Blocks = Sequence[tuple[int, int]]
"""(layer, tokens of a side or 0) of each candidate, as in `fcil.method.Tokens`."""


def choices(candidates: Blocks, whole: bool = False) -> list[Choice]:
    """List what may be chosen: three evenly spaced layers, wherever they begin, with tokens of one kind or of all.

    Args:
        whole: also all layers at once.

    >>> choices([(1, 0), (2, 0), (3, 0), (4, 0)])
    [(0, 1, 2), (1, 2, 3)]
    """
    place = {block: i for i, block in enumerate(candidates)}
    depth = max(layer for layer, _ in candidates)
    kinds = sorted({side for _, side in candidates})
    taken = min(LAYERS, depth)
    evenly = [
        tuple(range(first, first + taken * gap, gap))
        for gap in range(1, max(2, depth))
        for first in range(1, depth - (taken - 1) * gap + 1)
    ]
    sets = dict.fromkeys([*evenly, *([tuple(range(1, depth + 1))] if whole else [])])
    together = [(side,) for side in kinds] + ([tuple(kinds)] if len(kinds) > 1 else [])
    return [tuple(place[layer, side] for layer in layers for side in chosen) for chosen in together for layers in sets]


def columns(choice: Choice, size: int) -> np.ndarray:
    """The entries of phi that belong to the chosen blocks, each of `size` numbers: (len(choice) * size,)."""
    return np.concatenate([np.arange(i * size, (i + 1) * size) for i in choice])


def merged(
    matrix: np.ndarray, class_sums: np.ndarray, choice: Choice, signs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of sum_b D_b z_b over the chosen blocks: G, (m, m), and Q, (C, m).

    Args:
        matrix: (M, M) G of all blocks.
        class_sums: (C, M) Q of all blocks.
        signs: (blocks of the choice, m) the diagonals of D_b.
    """
    at, m = columns(choice, signs.shape[1]), signs.shape[1]
    both = (matrix[np.ix_(at, at)] * np.outer(signs, signs)).reshape(len(choice), m, len(choice), m).sum((0, 2))
    return both, (class_sums[:, at] * signs.ravel()).reshape(len(class_sums), len(choice), m).sum(1)


def best_choice(
    gram: np.ndarray, class_sums: np.ndarray, count: float, candidates: Blocks, rng: np.random.Generator,
    whole: bool = False,
) -> Choice:  # fmt: skip
    """Choose the blocks with the least generalised error, at equal width, or side by side with `whole`.

    Args:
        gram: (M (M + 1) / 2,) upper half of G of all candidates.
        class_sums: (C, M) Q.
        count: n, the number of samples.
        candidates: the blocks in the order of phi; each has M / blocks numbers.
        rng: draws the signs.
        whole: compare choices at their own widths, all layers at once among them.

    Returns:
        Positions of the chosen blocks; ties go to the first of `choices`.
    """
    matrix, m = packed.whole(gram), class_sums.shape[1] // len(candidates)
    signs = rng.choice((-1.0, 1.0), (DRAWS, len(candidates), m))
    listed, errors = choices(candidates, whole), []
    for choice in listed:
        if whole:
            at = columns(choice, m)
            parts = [(matrix[np.ix_(at, at)], class_sums[:, at])]
        else:
            parts = [merged(matrix, class_sums, choice, draw[list(choice)]) for draw in signs]
        errors.append(np.mean([least_generalised_error(symmetric_half(g), q, count)[1] for g, q in parts]))
    return listed[int(np.argmin(errors))]
