"""Filters that leave whole updates out: a norm bound, Krum and Multi-Krum. What they keep stays as it was sent."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from fcil.filters.base import Filter, Filtered
from fcil.filters.parts import PARTS, Starts, norms, squared_distances
from fcil.method import ClientUpdate, Shapes
from fcil.options import Option

__all__ = ["Krum", "MultiKrum", "Norm"]

SHOWN = {"change": "its change is {:.3g} long", "statistics": "its statistics for each sample are {:.3g} long"}


@dataclass(frozen=True, kw_only=True)
class Norm(Filter):
    """Leave out updates whose change, or statistics for each sample, are longer than `factor` times the median.

    The two parts have a bound each, from the median of the clients' Euclidean norms over all arrays of the part. More
    than half of the clients have to be honest for the median to be that of an honest one. Norm bounding as a defence:
    Sun et al., arXiv 1911.07963, who clip; here nothing is changed, an update is taken or left.
    """

    factor: Annotated[float, Option("times the median norm that an update may have", low=1)] = 3.0

    @property
    def one_start(self) -> bool:
        """Every client's norm is its own matter."""
        return False

    def complaint(self, clients: int) -> str | None:
        """A median of norms needs three."""
        return None if clients >= 3 else "the median of norms needs updates of 3 clients or more"

    def apply(self, updates: Sequence[ClientUpdate], starts: Starts, declared: Shapes) -> Filtered:
        """Keep the updates with both norms within their bounds; a bound of zero admits zeros."""
        left_out: dict[int, str] = {}
        for part in PARTS:
            lengths = norms(part, updates, starts, declared)
            bound = self.factor * float(np.median(lengths))
            for update, length in zip(updates, lengths, strict=True):
                if length > bound:
                    reason = f"{SHOWN[part].format(length)}, more than {self.factor:g} times the median, {bound:.3g}"
                    left_out.setdefault(update.client, reason)
        return Filtered([u for u in updates if u.client not in left_out], left_out)


@dataclass(frozen=True, kw_only=True)
class MultiKrum(Filter):
    """Keep the `keep` updates that lie closest to their neighbours, and leave the others out.

    Blanchard, El Mhamdi, Guerraoui and Stainer, NeurIPS 2017: the score of an update is the sum of squared distances to
    its n - f - 2 nearest others, f being the number of malicious clients; the lowest scores win, and of equal ones the
    lower client number. The distance is over both parts of an update, each in units of its median norm: in a phase
    without statistics it is the paper's but for that one factor.
    """

    malicious: Annotated[int, Option("f, the number of malicious clients to be borne", low=0)] = 1
    keep: Annotated[int, Option("updates that are kept; 0 for all but f", low=0)] = 0

    @property
    def needed(self) -> int:
        """The fewest clients for which the paper's guarantee stands: n > 2 f + 2."""
        return 2 * self.malicious + 3

    def complaint(self, clients: int) -> str | None:
        """Krum needs more than 2 f + 2 clients, and no more than all but f are kept."""
        if clients < self.needed:
            return f"{self.malicious} malicious clients need updates of {self.needed} or more in all"
        if self.keep > clients - self.malicious:
            return f"keep = {self.keep}: of {clients} updates {self.malicious} may be malicious, so keep fewer"
        return None

    def scores(self, updates: Sequence[ClientUpdate], starts: Starts, declared: Shapes) -> np.ndarray:
        """Krum's score of every update, (clients,): the lower, the closer its nearest others are."""
        ordered = np.sort(squared_distances(updates, starts, declared), axis=1)  # the first is the distance to itself
        return np.asarray(ordered[:, 1 : len(updates) - self.malicious - 1].sum(1))

    def apply(self, updates: Sequence[ClientUpdate], starts: Starts, declared: Shapes) -> Filtered:
        """Keep the updates of the lowest scores."""
        scores = self.scores(updates, starts, declared)
        keep = self.keep or len(updates) - self.malicious
        chosen = set(np.argsort(scores, kind="stable")[:keep].tolist())
        worst = max(scores[i] for i in chosen)
        reason = "Krum's score is {:.4g}, that of updates kept {:.4g} at most"
        left_out = {u.client: reason.format(scores[i], worst) for i, u in enumerate(updates) if i not in chosen}
        return Filtered([u for i, u in enumerate(updates) if i in chosen], left_out)


@dataclass(frozen=True, kw_only=True)
class Krum(Filter):
    """Keep the one update that lies closest to its neighbours: Multi-Krum with `keep` = 1."""

    malicious: Annotated[int, Option("f, the number of malicious clients to be borne", low=0)] = 1

    @property
    def _multi(self) -> MultiKrum:
        return MultiKrum(malicious=self.malicious, keep=1)

    def complaint(self, clients: int) -> str | None:
        """Krum needs more than 2 f + 2 clients."""
        return self._multi.complaint(clients)

    def apply(self, updates: Sequence[ClientUpdate], starts: Starts, declared: Shapes) -> Filtered:
        """Keep the update of the lowest score."""
        return self._multi.apply(updates, starts, declared)
