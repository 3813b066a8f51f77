"""The two parts of an update that filters look at: the change of what trained, and the statistics for each sample.

Most statistics are sums over a client's samples, so they grow with their number; divided by it they can be compared.
What is no sum is declared to be none (`fcil.method.NoSum`): roots of sums are divided by the number's root, and what
does not grow with it is compared as it is. The number itself is checked against the plan before any filter is asked.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from fcil.arrays import Arrays
from fcil.method import ClientUpdate, NoSum, Shapes

__all__ = ["PARTS", "WIDTH", "Starts", "columns", "norms", "squared_distances"]

Starts = Callable[[int], Arrays]
"""Client -> the arrays with which it began the phase."""
PARTS = ("change", "statistics")
"""The change of the trained arrays, x - start, and the statistics for each sample."""
GROWTH = {"root": 0.5, "constant": 0.0, "weighted": 0.0}
"""The power of the number of samples with which an array grows that is no sum; a sum has 1."""
WIDTH = 1 << 16
"""Numbers of one update that are looked at together: memory stays small however large the model is."""


def _growth(shape: object) -> float:
    return GROWTH[shape.amount] if isinstance(shape, NoSum) else 1.0


def columns(part: str, updates: Sequence[ClientUpdate], starts: Starts, declared: Shapes) -> Iterator[np.ndarray]:
    """Yield a part of all updates in pieces, (clients, up to WIDTH) float64 each; nothing where it is empty.

    Args:
        declared: shapes of the statistics as the method declares them: those that are no sums are a `NoSum`.

    Raises:
        KeyError, ValueError: names or shapes differ between the updates, or from those of the starts.
    """
    examples = np.array([max(u.num_examples, 1) for u in updates], np.float64)
    of = [u.arrays if part == "change" else u.statistics for u in updates]
    for name in sorted(of[0]) if of else ():
        rows = [np.reshape(arrays[name], -1) for arrays in of]
        unit = examples ** _growth(declared.get(name))
        begun = [np.reshape(starts(u.client)[name], -1) for u in updates] if part == "change" else []
        for begin in range(0, rows[0].size, WIDTH):
            at = slice(begin, begin + WIDTH)
            piece = np.stack([row[at].astype(np.float64) for row in rows])
            if begun:
                piece -= np.stack([row[at].astype(np.float64) for row in begun])
            else:
                piece /= unit[:, None]
            yield piece


def norms(part: str, updates: Sequence[ClientUpdate], starts: Starts, declared: Shapes) -> np.ndarray:
    """Euclidean norm of a part of every update, all its arrays together, (clients,); zero where it is empty.

    Each update is looked at by itself, so that clients may have arrays of different shapes.
    """

    def length(update: ClientUpdate) -> float:
        return float(np.sqrt(sum(float(np.square(c).sum()) for c in columns(part, [update], starts, declared))))

    return np.array([length(update) for update in updates])


def squared_distances(updates: Sequence[ClientUpdate], starts: Starts, declared: Shapes) -> np.ndarray:
    """Squared Euclidean distances between updates, (clients, clients).

    Each part is measured in units of the median of its norms, so that neither outweighs the other whatever its scale.
    A part whose median norm is zero is measured as it is.
    """
    from scipy.spatial.distance import pdist, squareform  # slow to import, and settings are checked without it

    total = np.zeros((len(updates), len(updates)))
    for part in PARTS:
        unit = float(np.median(norms(part, updates, starts, declared))) or 1.0
        for piece in columns(part, updates, starts, declared):
            total += squareform(pdist(piece / unit, "sqeuclidean"))
    return total
