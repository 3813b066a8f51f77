"""VPT: train visual prompts beside the image's tokens, and average them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from fcil.method import Averaging
from fcil.model.prompts import Depth, Prompts
from fcil.options import Option

from ._server import ServerSettings

__all__ = ["VPT"]


@dataclass(frozen=True, kw_only=True)
class VPT(ServerSettings, Averaging):
    """Train prompts beside the image's tokens, and average them.

    The mean is weighted by examples; one set of prompts goes on through all tasks.

    Jia et al., "Visual prompt tuning", ECCV 2022, arXiv 2203.12119. What is sent are length x width floats, with "deep"
    for every block, and the head's new rows. Without dropout; `server` as in FedAvg.
    """

    refused: ClassVar[Mapping[str, str]] = {"adapter": "vpt trains prompts, which change no weights; leave it out"}

    depth: Annotated[Depth, Option("prompts before the first block only, or other ones before every block")] = "deep"
    length: Annotated[int, Option("number of prompts of a block", "tokens", low=1)] = 10

    @property
    def adapter(self) -> Prompts:
        """The prompts before the first block, or before each."""
        return Prompts(self.depth, self.length)
