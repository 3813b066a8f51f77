"""Fixed points of classes, to which features are pulled: an orthogonal frame, or embeddings out of a file."""

from pathlib import Path

import numpy as np

from fcil.errors import ConfigError
from fcil.merging.orthogonal import orthonormal_rows

__all__ = ["check_frame", "frame", "read_anchors"]


def check_frame(classes: int, dimension: int) -> None:
    """Raise ConfigError where there are more classes than dimensions, so that anchors cannot be orthogonal."""
    if classes > dimension:
        raise ConfigError(
            f"method.dimension = {dimension}: {classes} classes have no orthogonal anchors in so few dimensions; "
            f"set it to {classes} or more"
        )


def frame(classes: int, dimension: int, rng: np.random.Generator) -> np.ndarray:
    """Draw anchors that are orthogonal to each other, (classes, dimension) float32, each of length sqrt(dimension).

    So the mean square of their entries is 1, and any two are at a mean square distance of 2.
    """
    rows = orthonormal_rows(np.zeros((0, dimension)), classes, rng)
    return np.asarray(np.sqrt(dimension) * rows, np.float32)


def read_anchors(path: str, classes: int) -> np.ndarray:
    """Read anchors of a .npy file, (classes, dimension) float32, rows in the order in which classes arrive.

    Raises:
        ConfigError: there is no such file, or it holds anything else than so many rows of finite numbers.
    """
    where = f"method.anchors = {path!r}"
    try:
        with Path(path).expanduser().open("rb") as file:
            anchors = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
        raise ConfigError(
            f'{where}: cannot be read ({reason}); give "frame", or a file that numpy.save has written'
        ) from None
    if anchors.ndim != 2 or len(anchors) != classes or not anchors.shape[1] or anchors.dtype.kind not in "fiu":
        raise ConfigError(
            f"{where}: holds {anchors.dtype} of shape {anchors.shape}; needs real numbers of shape "
            f"({classes}, dimension), a row for each class of the run in the order of arrival"
        )
    if not np.isfinite(anchors).all():
        raise ConfigError(f"{where}: has entries that are not finite")
    return anchors.astype(np.float32)
