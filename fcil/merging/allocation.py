"""Sparsities that layers compete for: a budget of nonzeros that falls over a run, shared out by the layers' scores.

SNELLA (arXiv 2510.24037), after AdaLoRA. The budget v(t) falls from v_0 to v_T by a cubic; layer l of n_l entries
gets v_l = min(c_l z, n_l) nonzeros of it, with shares c_l of the scores and the level z at which sum_l v_l = v(t).
The public loop, which hands the surplus of saturated layers on in integers, ends there within its truncation.
Literal transcription: `tests/reference_kernels.py`.
"""

from collections.abc import Mapping

import numpy as np

from fcil.errors import MergeError

__all__ = ["allocated", "budget", "sparsities"]

_LEAST = 1e-100
"""Scores below this share of the largest count as zero."""


def budget(
    progress: float, entries: int, sparsity_start: float, sparsity: float, warmup: float = 0.0, settled: float = 0.0
) -> float:
    """Number of nonzeros v(t) that all layers may have together.

    v_0 until t_i; v_T + (v_0 - v_T) (1 - (t - t_i) / (T - t_i - t_f))^3 until T - t_f; then v_T.

    >>> [budget(t, 1000, 0.0, 0.75) for t in (0, 0.5, 1)]
    [1000.0, 343.75, 250.0]

    Args:
        progress: t / T, from 0 to 1.
        entries: number of entries of all layers' weights.
        sparsity_start: share of them that is zero at v_0.
        sparsity: share of them that is zero at v_T.
        warmup: t_i / T.
        settled: t_f / T.

    Raises:
        MergeError: a share is not between 0 and 1, sparsity would fall, or nothing of the run is left to fall in.
    """
    shares = (progress, sparsity_start, sparsity, warmup, settled)
    if not all(0 <= share <= 1 for share in shares) or sparsity < sparsity_start or warmup + settled >= 1:
        raise MergeError(f"no budget follows from progress, sparsities and schedule {shares}")
    first, last = (1 - sparsity_start) * entries, (1 - sparsity) * entries
    if progress <= warmup:
        return float(first)
    if progress >= 1 - settled:
        return float(last)
    remainder = 1 - (progress - warmup) / (1 - settled - warmup)
    return float(last + (first - last) * remainder**3)


def allocated(scores: np.ndarray, sizes: np.ndarray, volume: float) -> np.ndarray:
    """Share a volume out in proportion to scores, no layer more than its size.

    Args:
        scores: (n,), not negative; any scale. If all are zero the shares are equal; layers whose score is zero beside
            others get equal parts of what these cannot hold.
        sizes: (n,), the most that each can hold.
        volume: what is shared out; more than the sum of the sizes fills all.

    Returns:
        (n,) in float64; the sum is the volume, or that of the sizes.

    Raises:
        MergeError: lengths differ, there is nothing, or numbers are negative or not finite.
    """
    c, n = np.asarray(scores, np.float64), np.asarray(sizes, np.float64)
    if c.shape != n.shape or c.ndim != 1 or not c.size:
        raise MergeError(f"an allocation needs a score for each size and at least one; got {c.shape}, {n.shape}")
    for name, a in (("scores", c), ("sizes", n), ("a volume", np.array([volume]))):
        if not np.isfinite(a).all() or (a < 0).any():
            raise MergeError(f"an allocation needs {name} that are finite and not negative")
    result, scored = np.zeros_like(n), c > _LEAST * c.max()
    if scored.any():
        result[scored] = _filled(c[scored] / c.max(), n[scored], volume)
    if not scored.all():
        rest = max(volume - float(n[scored].sum()), 0.0)
        result[~scored] = _filled(np.ones(int((~scored).sum())), n[~scored], rest)
    return result


def _filled(shares: np.ndarray, sizes: np.ndarray, volume: float) -> np.ndarray:
    """min(c_l z, n_l) at the level z at which the sum is the volume; shares are positive."""
    order = np.argsort(sizes / shares, kind="stable")  # layers are full in this order as the level rises
    c, n = shares[order], sizes[order]
    if volume >= n.cumsum()[-1]:
        return sizes.copy()
    levels = (volume - n.cumsum() + n) / c[::-1].cumsum()[::-1]  # entry k: z if the k layers before it are full
    fits = levels * c <= n
    fits[-1] = True  # it does, but for rounding
    k = int(np.argmax(fits))
    result = np.empty_like(n)
    result[order] = np.concatenate([n[:k], np.minimum(levels[k] * c[k:], n[k:])])
    return result


def sparsities(scores: Mapping[str, np.ndarray], sizes: Mapping[str, int], volume: float) -> dict[str, np.ndarray]:
    """Sparsity s = 1 - v / n of every part of every layer, (parts,) float32, from an allocation among all parts.

    float32 is what travels, and everyone computes from it.

    Args:
        scores: layer -> (parts,), not negative.
        sizes: layer -> number of entries of one of its parts.
        volume: number of nonzeros of all parts together.

    Raises:
        MergeError: see `allocated`; or a layer has no size.
    """
    if missing := [layer for layer in scores if layer not in sizes]:
        raise MergeError(f"no size is known for {missing[0]}")
    names = list(scores)
    parts = [len(scores[name]) for name in names]
    entries = np.repeat([float(sizes[name]) for name in names], parts)
    volumes = allocated(np.concatenate([scores[name] for name in names]) if names else np.zeros(0), entries, volume)
    shares = np.clip(1 - volumes / entries, 0, 1).astype(np.float32)
    return dict(zip(names, np.split(shares, np.cumsum(parts)[:-1]), strict=True))
