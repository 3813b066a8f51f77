"""FedAvgM: federated averaging with momentum on the server."""

from dataclasses import dataclass
from typing import Annotated

from fcil.method import ServerOptimizer
from fcil.options import Option

from ._adapters import AdapterAveraging

__all__ = ["FedAvgM"]


@dataclass(frozen=True, kw_only=True)
class FedAvgM(AdapterAveraging):
    """Average what trains, and move the server by momentum over rounds.

    With D the mean change of the round's clients, weighted by examples, entry by entry:

        v <- beta v + D;  w <- w + lr v

    Hsu et al., "Measuring the effects of non-identical data distribution for federated visual classification", arXiv
    1909.06335; there lr = 1, and beta from 0 to 0.997. It is `fedavg(server = "momentum")` under the name that it is
    looked for by, with the paper's settings alone. Sent: as in federated averaging. Kept by a client: nothing; by the
    server v, as large as what trains.

    Unlike the paper, which trains a small network from scratch: LoRA by default (`adapter = "full"` for all weights),
    and tasks: v goes on through them with the module, and begins at zero for the new head rows. With beta = 0 and
    lr = 1 it is federated averaging bit for bit. Literal transcription: `tests/reference_server.py`, `fedavgm`.
    """

    server_lr: Annotated[float, Option("learning rate of the server", above=0)] = 1.0
    momentum: Annotated[float, Option("decay of the server's momentum; beta in the paper", low=0, high=0.9999)] = 0.9

    @property
    def server_optimizer(self) -> ServerOptimizer:
        """Momentum, without damping and without Nesterov's step."""
        return ServerOptimizer("momentum", self.server_lr, self.momentum)
