"""RanPAC: solve a ridge head on random features of a frozen backbone."""

from dataclasses import dataclass
from typing import Annotated

from fcil.options import Option

from ._ridge import RidgeMethod
from ._ridge_settings import Sketch

__all__ = ["RandomFeatures", "RanPAC"]

RandomFeatures = Annotated[
    int, Option("M, the number of random features; 0 for the features as they are", low=0, former="size")
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RanPAC(RidgeMethod):
    """Solve a ridge head on random features of a frozen backbone.

    Ridge regression on relu(R z), R ~ N(0, 1) being drawn from the run's seed and never sent.
    McDonnell et al., "RanPAC: random projections and pre-trained models for continual learning", NeurIPS 2023, arXiv
    2307.02251 (centralised, M = 10,000); federated with M = 1,250 in STSA, arXiv 2506.01327; the sketch is FedRAN's,
    arXiv 2606.11480. Literal transcription: `tests/reference_features.py`, `ridge`, of relu(R z).
    """

    random: RandomFeatures = 1250
    sketch: Sketch = 0

    @property
    def random_features(self) -> int:
        """M, the number of random features."""
        return self.random

    @property
    def sketch_rank(self) -> int:
        """The rank k of the factor in whose form G is sent."""
        return self.sketch
