"""FFA-LoRA: train and average B alone; A stays at its random start."""

from dataclasses import dataclass

from fcil.method import Phase
from fcil.model.lora import B

from ._lora import LoraMethod

__all__ = ["FFA"]


@dataclass(frozen=True, kw_only=True)
class FFA(LoraMethod):
    """Train and average B alone; A stays at its random start.

    The mean of B, weighted by examples; A is drawn once, the same for all clients, and never trains.
    Sun et al., "Improving LoRA in privacy-preserving federated learning", ICLR 2024, arXiv 2403.12313. The change B A
    is linear in what trains, so that no average and no noise is distorted. A travels once to each client.
    Literal transcription: `tests/reference.py`, `fedavg`.
    """

    def trains(self, phase: Phase) -> tuple[str, ...]:
        """B alone trains; A stays as it was drawn."""
        return (f"*{B}",)
