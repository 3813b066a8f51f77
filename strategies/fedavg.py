"""FedAvg: average what the clients train, LoRA's factors A and B by default, each array on its own."""

from dataclasses import dataclass

from ._adapters import AdapterAveraging
from ._server import ServerSettings

__all__ = ["FedAvg"]


@dataclass(frozen=True, kw_only=True)
class FedAvg(ServerSettings, AdapterAveraging):
    """Average what the clients train, by default LoRA's factors A and B.

    The mean of each array on its own, weighted by examples; one module goes on through all tasks. Exact for the head
    and full tuning; the changes that averaged factors or kernels make are not the mean of the clients' changes.
    McMahan et al., AISTATS 2017, arXiv 1602.05629, on LoRA factors (FedIT, Zhang et al., arXiv 2305.05644). The product
    of the means is not the mean of the products; that error is part of the method. With `server` it is FedAvgM (Hsu et
    al., arXiv 1909.06335), FedAdagrad, FedYogi or FedAdam (Reddi et al., ICLR 2021, arXiv 2003.00295).
    Literal transcription: `tests/reference.py`, `fedavg`.
    """
