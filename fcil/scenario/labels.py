"""Draw which of a client's training images have labels (semi-supervised federated learning). Pure.

The rule is FedRAN's: a share of the images of each class keeps its labels, client by client. The others stay with the
client, as images without labels.
"""

import numpy as np

from fcil.scenario.census import round_half_up
from fcil.seeding import generator

__all__ = ["known_counts", "labelled"]


def labelled(positions: np.ndarray, share: float, seed: int, task: int, client: int) -> np.ndarray:
    """Choose the samples of one client in one task that keep their labels: of each class the same share, at random.

    Of n samples of a class share * n keep theirs, rounded to the nearest whole number, halves up, and at least one.
    What is drawn depends on the client's own samples alone, so that a site draws the same from its own images.

    >>> labelled(np.array([0, 0, 0, 0, 1]), 0.5, seed=0, task=0, client=0).tolist()
    [False, False, True, True, True]

    Args:
        positions: (n,) class positions of the client's samples of this task.
        share: above 0 and at most 1.

    Returns:
        (n,) bool.
    """
    mask = np.zeros(len(positions), bool)
    for position in np.unique(positions):
        members = np.flatnonzero(positions == position)
        drawn = generator(seed, task, client, int(position), "labelled").permutation(members)
        mask[drawn[: known_counts(np.array([len(members)]), share)[0]]] = True
    return mask


def known_counts(counts: np.ndarray, share: float) -> np.ndarray:
    """Count how many samples of each class keep their labels, (classes,) -> (classes,) int64.

    >>> known_counts(np.array([0, 1, 10, 15]), 0.1).tolist()
    [0, 1, 1, 2]
    """
    return np.array([max(1, round_half_up(share * n)) if n else 0 for n in counts.tolist()], np.int64)
