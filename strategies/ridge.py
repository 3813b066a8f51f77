"""Ridge: solve a ridge head on the frozen backbone's features."""

from dataclasses import dataclass

from ._ridge import RidgeMethod

__all__ = ["Ridge"]


@dataclass(frozen=True, kw_only=True)
class Ridge(RidgeMethod):
    """Solve a ridge head on the frozen backbone's features.

    H = (G + lambda I)^-1 Q of frozen features: the centralised head, whoever holds which samples.
    AFL and AFCL, "Analytic federated class-incremental learning", arXiv 2505.12245, there in recursive form. Clients
    send G = sum phi phi^T and Q = sum phi y^T once a task; the server adds, and solves by Cholesky in float64.
    """
