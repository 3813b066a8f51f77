"""Settings of a server optimiser, for methods that average what trains."""

from dataclasses import dataclass
from typing import Annotated, Literal

from fcil.method import ServerOptimizer
from fcil.options import Option

__all__ = ["ServerSettings"]


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Stands before `Averaging` among a method's bases: the mean of the clients is taken as it is, or as a gradient."""

    server: Annotated[
        Literal["mean", "momentum", "adagrad", "yogi", "adam"],
        Option("what the server does with the clients' mean change: takes it as it is, or as a gradient"),
    ] = "mean"
    server_lr: Annotated[float, Option("learning rate of the server's optimiser; unused with mean", above=0)] = 1.0
    server_beta1: Annotated[float, Option("decay of the server's first moment", low=0, high=0.9999)] = 0.9
    server_beta2: Annotated[float, Option("decay of the second moment; yogi and adam", low=0, high=0.9999)] = 0.99
    server_tau: Annotated[float, Option("adaptivity, added to the root of the second moment", above=0)] = 1e-3

    @property
    def server_optimizer(self) -> ServerOptimizer | None:
        """The optimiser that `server` names; None puts the mean in place."""
        if self.server == "mean":
            return None
        return ServerOptimizer(self.server, self.server_lr, self.server_beta1, self.server_beta2, self.server_tau)
