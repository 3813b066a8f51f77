"""FedAvg on LoRA: average the clients' LoRA factors A and B, each on its own."""

from dataclasses import dataclass
from typing import Annotated, Literal

from fcil.method import ServerOptimizer
from fcil.options import Option

from ._lora import LoraMethod

__all__ = ["FedAvg"]


@dataclass(frozen=True, kw_only=True)
class FedAvg(LoraMethod):
    """Average the clients' LoRA factors A and B, each on its own.

    The mean of A and of B, weighted by examples; one module goes on through all tasks.
    McMahan et al., AISTATS 2017, arXiv 1602.05629, on LoRA factors (FedIT, Zhang et al., arXiv 2305.05644). The product
    of the means is not the mean of the products; that error is part of the method. With `server` it is FedAvgM (Hsu et
    al., arXiv 1909.06335), FedAdagrad, FedYogi or FedAdam (Reddi et al., ICLR 2021, arXiv 2003.00295).
    Literal transcription: `tests/reference.py`, `fedavg`.
    """

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
        """The optimiser that `server` names."""
        if self.server == "mean":
            return None
        return ServerOptimizer(self.server, self.server_lr, self.server_beta1, self.server_beta2, self.server_tau)
