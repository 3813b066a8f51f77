"""Server optimisers, which take the mean change of a round's clients for a gradient: FedAvgM, FedAdam and kin."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fcil.arrays import Arrays, State

__all__ = ["MOMENTS", "Rule", "ServerOptimizer"]

Rule = Literal["momentum", "adagrad", "yogi", "adam"]
MOMENTS = "server_optimizer"
"""The state's group that holds the moments, `momentum/<array>` and `square/<array>`."""


@dataclass(frozen=True)
class ServerOptimizer:
    """One step of the server per round along D, the clients' mean change, entry by entry and without bias correction.

    momentum  m <- beta1 m + D;                x <- x + lr m
    others    m <- beta1 m + (1 - beta1) D;    x <- x + lr m / (sqrt(v) + tau)
              adagrad  v <- v + D^2
              yogi     v <- v - (1 - beta2) D^2 sign(v - D^2)
              adam     v <- beta2 v + (1 - beta2) D^2

    FedAvgM: Hsu et al., arXiv 1909.06335. Others: Reddi et al., "Adaptive federated optimization", ICLR 2021, arXiv
    2003.00295, Algorithm 2; m starts at 0 and v at tau^2. Their FedAdagrad has beta1 = 0. Moments of arrays that a
    round does not train rest. Flower's strategies of these names start v at 0, and its FedAdam multiplies lr by Adam's
    correction of the bias, in which the first round counts as the second step. Literal transcription:
    `tests/reference_server.py`; beside Flower's: `tests/exchange/flower/test_server_optimizers.py`.
    """

    rule: Rule
    lr: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def step(self, changes: Arrays, state: State) -> tuple[dict[str, np.ndarray], State]:
        """The changes to carry out, float64, and the state with the moments after this round."""
        moments = dict(state.get(MOMENTS, {}))
        out: dict[str, np.ndarray] = {}
        for name, change in changes.items():
            m = moments.get(f"momentum/{name}", np.zeros(change.shape))
            if self.rule == "momentum":
                m = self.beta1 * m + change
                out[name] = self.lr * m
            else:
                m = self.beta1 * m + (1 - self.beta1) * change
                v = self._second(moments.get(f"square/{name}", np.full(change.shape, self.tau**2)), change**2)
                moments[f"square/{name}"] = v
                out[name] = self.lr * m / (np.sqrt(v) + self.tau)
            moments[f"momentum/{name}"] = m
        return out, {**state, MOMENTS: moments}

    def _second(self, v: np.ndarray, square: np.ndarray) -> np.ndarray:
        """The second moment after a change whose square is given."""
        step = {"adagrad": 1.0, "yogi": -(1 - self.beta2) * np.sign(v - square), "adam": 1 - self.beta2}[self.rule]
        keep = self.beta2 if self.rule == "adam" else 1.0
        return np.asarray(keep * v + step * square)
