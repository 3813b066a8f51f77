"""`[train]`: the settings of local training."""

from dataclasses import dataclass
from typing import Annotated, Literal

from fcil.options import Option

__all__ = ["Train"]


@dataclass(frozen=True, kw_only=True)
class Train:
    """`[train]`: the protocol of local training."""

    rounds: Annotated[int, Option("communication rounds per task", low=1)] = 5
    epochs: Annotated[int, Option("local epochs per round", low=1)] = 5
    batch: Annotated[int, Option("batch size", "images", low=1)] = 16
    lr: Annotated[float, Option("learning rate of whatever has none of its own", above=0)] = 3e-3
    optimizer: Annotated[Literal["adamw", "sgd"], Option("built anew each round, constant rate")] = "adamw"
    weight_decay: Annotated[float, Option("decoupled weight decay", low=0)] = 0.0
    participation: Annotated[float, Option("share of the clients that train in a round", above=0, high=1)] = 1.0
    participants: Annotated[
        int, Option("number of clients that train in a round, in place of the share; 0: by participation", low=0)
    ] = 0
