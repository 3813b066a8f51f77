"""Checks of what a client claims to be sums of its features: inequalities that hold for any samples whatever.

With features of norm R at most they bound what a client can move, however it came by its sums (docs/robustness.md).
"""

import numpy as np

from fcil.merging import packed
from fcil.merging.ridge import semidefinite

__all__ = ["SLACK", "counts_objection", "sums_objection"]

SLACK = 1e-5
"""Relative room for sums that were rounded to float32 on their way."""


def counts_objection(counts: np.ndarray, examples: int) -> str | None:
    """Say why these are no numbers of samples by class, given how many samples the client holds; None if they are."""
    if (counts < 0).any() or (counts != np.round(counts)).any():
        return "class counts are not whole numbers from 0 on"
    if counts.sum() != examples:
        return f"class counts add up to {counts.sum():g}, not to the {examples} samples that the client holds"
    return None


def sums_objection(
    counts: np.ndarray, class_sums: np.ndarray, gram: np.ndarray | None, clip: float, trace: float | None = None
) -> str | None:
    """Say why no samples have these sums; None if some may have.

    For samples phi of class c, with q_c their sum and n_c their number: |q_c|^2 / n_c <= sum |phi|^2, and all of these
    add up to tr G at most. Where |phi| <= R: |q_c| <= n_c R, tr G <= n R^2, and G - sum_c q_c q_c^T / n_c, the scatter
    within classes, has no negative eigenvalue.

    Args:
        counts: (c,) n_c, already found to be counts.
        class_sums: (c, M) q_c.
        gram: (M (M + 1) / 2,) upper half of G, or None where it is not sent.
        clip: R; 0 where features are not clipped, and then only the first inequality is checked.
        trace: of a sketch of G, which lies below G and of which nothing else is bounded; None where G itself is known.
    """
    lengths = np.linalg.norm(class_sums.astype(np.float64), axis=1)
    if (lengths[counts == 0] > 0).any():
        return "a class without samples has a class sum"
    if clip and (lengths > counts * clip * (1 + SLACK)).any():
        return f"a class sum is longer than its samples of norm {clip:g} can make it"
    if gram is not None:
        trace = float(packed.diagonal(gram).astype(np.float64).sum())
    if trace is None:
        return None
    if clip and trace > counts.sum() * clip**2 * (1 + SLACK):
        return f"the trace of G is {trace:.4g}, more than {counts.sum():g} samples of norm {clip:g} make"
    if gram is None:
        return None
    present = counts > 0
    means = class_sums[present].astype(np.float64) / np.sqrt(counts[present])[:, None]
    if np.square(means).sum() > trace * (1 + SLACK):
        return "class sums are longer than samples with this G can make them"
    if clip and not semidefinite(packed.less_outer(gram, means), SLACK * trace):
        return "G less the outer products of class sums has negative eigenvalues: no samples have such sums"
    return None
