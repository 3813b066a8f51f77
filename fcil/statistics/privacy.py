"""Gaussian noise for sums of clipped features, and what it means: (epsilon, delta) for every single sample.

One sample of norm R at most adds phi phi^T to G, phi to one class sum and 1 to one count: in Frobenius and Euclidean
norm at most R^2, R and 1. With noise of standard deviation z R^2 / sqrt(s_1), z R / sqrt(s_2) and z / sqrt(s_3), and
s_1 + s_2 + s_3 = 1, all three together are one Gaussian mechanism of noise multiplier z: divided by these deviations, a
sample's contribution has norm 1 / z at most. That G alone may be treated so is "Analyze Gauss" (Dwork, Talwar, Thakurta
and Zhang, STOC 2014).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from fcil.arrays import Arrays, symmetric_half
from fcil.errors import ConfigError
from fcil.merging import packed

__all__ = ["SHARES", "SumsNoise", "epsilon_of", "multiplier_for", "positive_part"]

SHARES: Mapping[str, float] = {"gram": 0.5, "class_sums": 0.45, "counts": 0.05}
"""Shares of the one mechanism: counts are only asked whether a class has any samples."""


@dataclass(frozen=True)
class SumsNoise:
    """Gaussian noise for the sums of features clipped to a norm."""

    multiplier: float
    """z: standard deviation in units of what one sample adds at most."""
    clip: float
    """R, the norm that no feature vector exceeds."""

    def deviation(self, kind: str) -> float:
        """Standard deviation of the noise on "gram" (its diagonal), "class_sums" or "counts"."""
        most = {"gram": self.clip**2, "class_sums": self.clip, "counts": 1.0}[kind]
        return self.multiplier * most / float(np.sqrt(SHARES[kind]))

    def added(self, sums: Arrays, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Add noise to sums, in float64 and in the order of their names.

        A Gram is an upper half, so that its noise is symmetric: s on the diagonal and s / sqrt(2) beside it, which is s
        in every direction of the Frobenius norm.

        Args:
            sums: under names that have "gram", "class_sums" or "counts" in them.
        """
        return {name: sums[name] + self._noise(name, sums[name].shape, rng) for name in sorted(sums)}

    def _noise(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        (kind,) = (kind for kind in SHARES if kind in name)
        noise = self.deviation(kind) * rng.standard_normal(shape)
        return packed.shrunk(noise, float(np.sqrt(0.5))) if kind == "gram" else noise


def positive_part(half: np.ndarray) -> np.ndarray:
    """The nearest positive semidefinite matrix in Frobenius norm, as halves: negative eigenvalues become zero.

    Noise makes eigenvalues negative, which no sum of squares has. What is done to noisy sums costs no privacy.
    """
    values, vectors = np.linalg.eigh(packed.whole(half))
    return symmetric_half((vectors * np.maximum(values, 0)) @ vectors.T) if values[0] < 0 else half


def _library() -> Any:
    try:
        import dp_accounting
        import dp_accounting.pld
    except ImportError as error:
        raise ConfigError(
            f"method.noise: the privacy it gives is accounted by dp-accounting, which is missing ({error}); install it "
            'with `pip install "fcil[privacy]"`'
        ) from error
    return dp_accounting


@lru_cache(maxsize=8)
def epsilon_of(multiplier: float, delta: float) -> float:
    """Epsilon at `delta` of one Gaussian mechanism, by the privacy loss distribution of dp-accounting.

    Neighbours are data sets of which one has a sample more, or has nothing in its place: how many samples a client
    holds is told to the server anyway.

    Raises:
        ConfigError: dp-accounting is not installed.
    """
    library = _library()
    accountant = library.pld.PLDAccountant()
    accountant.compose(library.GaussianDpEvent(multiplier))
    return float(accountant.get_epsilon(delta))


def multiplier_for(epsilon: float, delta: float) -> float:
    """The least noise multiplier with which one Gaussian mechanism has (epsilon, delta), by dp-accounting.

    Raises:
        ConfigError: dp-accounting is not installed.
    """
    library = _library()
    multiplier = library.calibrate_dp_mechanism(library.pld.PLDAccountant, library.GaussianDpEvent, epsilon, delta)
    return float(multiplier)
