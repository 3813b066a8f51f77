"""Differential privacy of closed forms as settings: noise on the sums, and where it is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from fcil.arrays import Arrays
from fcil.errors import ConfigError
from fcil.method import Phase
from fcil.options import Option
from fcil.statistics.features import GRAM, HELD
from fcil.statistics.privacy import SumsNoise, epsilon_of, positive_part

__all__ = ["PrivacySettings"]


@dataclass(frozen=True, kw_only=True)
class PrivacySettings:
    """Stands before a closed form among a method's bases: its sums get Gaussian noise."""

    noise: Annotated[
        float,
        Option(
            "Gaussian noise on all sums, in units of what one sample of norm `clip` adds at most: the noise multiplier "
            "of differential privacy; 0: none",
            low=0,
        ),
    ] = 0.0
    noise_at: Annotated[
        Literal["client", "server"],
        Option("each client adds it before it sends, trusting nobody; or the server once, which is then trusted"),
    ] = "client"
    delta: Annotated[float, Option("at which epsilon is told for the records", above=0, high=0.5)] = 1e-5

    @property
    def privacy(self) -> Literal["none", "client", "server"]:
        """Where the noise is drawn, if any is."""
        return self.noise_at if self.noise else "none"

    def noise_of(self, place: Literal["client", "server"], clip: float) -> SumsNoise | None:
        """The noise that is drawn at a place; None where none is."""
        return SumsNoise(self.noise, clip) if self.noise and self.noise_at == place else None

    def check_privacy(self, clip: float, other: str) -> None:
        """Raise ConfigError where noise is not defined, or what it gives cannot be accounted.

        Args:
            other: a setting by which samples would be used in more ways than are accounted; empty for none.
        """
        if not self.noise:
            return
        if not clip:
            raise ConfigError(
                f"method.noise = {self.noise:g}: without a norm that no sample exceeds there is no privacy; set "
                "method.clip, for example to the median norm of public images' features"
            )
        if other:
            raise ConfigError(
                f"method.noise = {self.noise:g}: its privacy is accounted for one noisy G, class sums and counts of a "
                f"task, solved as ridge regression; {other} is something else, leave it out"
            )
        epsilon_of(self.noise, self.delta)

    def noisy(self, sums: Arrays, clip: float, phase: Phase) -> Arrays:
        """A task's sums over all clients, with the server's noise where it draws any."""
        noise = self.noise_of("server", clip)
        return noise.added(sums, phase.generator("privacy")) if noise else sums

    def mended(self, sums: Arrays) -> Arrays:
        """The sums as they might be without noise, where it may have made them impossible.

        Gram matrices get no negative eigenvalues. Counts get no less than 1, since all that is asked of them is whether
        a class has samples: noise below zero would silence a class for good.
        """
        if not self.noise:
            return sums

        def possible(name: str, a: np.ndarray) -> np.ndarray:
            if name.endswith(GRAM):
                return positive_part(a)
            return np.maximum(a, 1.0) if name.removeprefix(HELD).startswith("counts.") else a

        return {name: possible(name, a) for name, a in sums.items()}

    def privacy_note(self) -> dict[str, str]:
        """Say what the noise gives, for records and screen."""
        if not self.noise:
            return {}
        at = "every reply of a client" if self.noise_at == "client" else "the server's sums"
        epsilon = np.ceil(1000 * epsilon_of(self.noise, self.delta)) / 1000
        return {"privacy": f"{at}: epsilon {epsilon:g} at delta {self.delta:g} for each sample"}
