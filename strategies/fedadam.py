"""FedAdam: federated averaging with Adam on the server."""

from dataclasses import dataclass
from typing import Annotated

from fcil.method import ServerOptimizer
from fcil.options import Option

from ._adapters import AdapterAveraging

__all__ = ["FedAdam"]


@dataclass(frozen=True, kw_only=True)
class FedAdam(AdapterAveraging):
    """Average what trains, and take the mean change as the gradient of Adam.

    With D the mean change of the round's clients, weighted by examples, entry by entry and without bias correction:

        m <- beta1 m + (1 - beta1) D;  v <- beta2 v + (1 - beta2) D^2;  w <- w + lr m / (sqrt(v) + tau)

    v begins at tau^2. Reddi et al., "Adaptive federated optimization", ICLR 2021, arXiv 2003.00295, Algorithm 2, with
    the paper's values of beta1, beta2 and tau; it tunes lr over powers of ten, server and clients together. It is
    `fedavg(server = "adam")` under the name that it is looked for by; FedAdagrad and FedYogi are other values of that
    setting. Sent: as in federated averaging. Kept by a client: nothing; by the server m and v, each as large as what
    trains.

    Unlike the paper, where clients take SGD steps: the optimiser of [train], AdamW by default; LoRA by default
    (`adapter = "full"` for all weights); moments go on through tasks with the module, and begin anew for new head rows.
    A step moves every entry by about lr, whatever D is: LoRA wants a rate near that of its clients, not 1. Literal
    transcription: `tests/reference_server.py`, `adaptive`.
    """

    server_lr: Annotated[float, Option("learning rate of the server's Adam", above=0)] = 0.01
    beta1: Annotated[float, Option("decay of the first moment", low=0, high=0.9999)] = 0.9
    beta2: Annotated[float, Option("decay of the second moment", low=0, high=0.9999)] = 0.99
    tau: Annotated[float, Option("adaptivity, added to the root of the second moment", above=0)] = 1e-3

    @property
    def server_optimizer(self) -> ServerOptimizer:
        """Adam over the clients' mean changes."""
        return ServerOptimizer("adam", self.server_lr, self.beta1, self.beta2, self.tau)
