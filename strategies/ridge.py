"""Ridge: solve a ridge head on the frozen backbone's features."""

from dataclasses import dataclass
from typing import Annotated

from fcil.options import Option

from ._ridge import RidgeMethod

__all__ = ["Ridge"]


@dataclass(frozen=True, kw_only=True)
class Ridge(RidgeMethod):
    """Solve a ridge head on the frozen backbone's features.

    H = (G + lambda I)^-1 Q of frozen features: the centralised head, whoever holds which samples.
    AFL and AFCL, "Analytic federated class-incremental learning", arXiv 2505.12245, there in recursive form. Clients
    send G = sum phi phi^T and Q = sum phi y^T once a task; the server adds, and solves by Cholesky in float64.
    With `layers` the features are tokens of several layers, of which the middle ones often hold more: after LayUP,
    arXiv 2312.08888 (centralised), and as exact for any split as features of the last layer are.
    Literal transcription: `tests/reference_features.py`, `ridge`.
    """

    random: Annotated[int, Option("M, the number of random features relu(R z), as in ranpac; 0 for none", low=0)] = 0

    @property
    def random_features(self) -> int:
        """M, the number of random features."""
        return self.random
