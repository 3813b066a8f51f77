"""Transport sums of old features to new ones in closed form, when the backbone has changed between two tasks.

The linear map T from old to new features that fits best on the current task's data turns G into T G T^T and Q into T Q
(`fcil.merging.ridge.transport`). A client sums old and new features of the same samples: C = sum new old^T, G_o.
"""

from collections.abc import Sequence

import numpy as np

from fcil.arrays import Arrays
from fcil.merging.ridge import transport, transported
from fcil.statistics.drift import CROSS, OLD_GRAM
from fcil.statistics.features import GRAM, HELD, class_sums

__all__ = ["transported_sums", "split_drift"]


def split_drift(sums: Arrays) -> tuple[Arrays, Arrays]:
    """Split the sums into those of the head and those of which the map from old to new features is made."""
    drift = {name: a for name, a in sums.items() if name in (CROSS, OLD_GRAM)}
    return {name: a for name, a in sums.items() if name not in drift}, drift


def transported_sums(sums: Arrays, drift: Arrays, tasks: Sequence[int], mu: float) -> dict[str, np.ndarray]:
    """Transport G and Q of earlier tasks to sums of the features T phi.

    Args:
        drift: C, (M, M), and G_o, as `split_drift` gives them.
        tasks: the earlier tasks.
        mu: of the ridge problem whose solution is T, in units of the mean square of an old feature.
    """
    transport_map = transport(drift[CROSS], drift[OLD_GRAM], mu)
    out = dict(sums)
    for prefix in ("", HELD) if HELD + GRAM in sums else ("",):
        names = [prefix + class_sums(task) for task in tasks]
        sizes = [len(sums[name]) for name in names]
        gram, q = transported(transport_map, sums[prefix + GRAM], np.concatenate([sums[name] for name in names]))
        out |= {prefix + GRAM: gram, **dict(zip(names, np.split(q, np.cumsum(sizes)[:-1]), strict=True))}
    return out
