"""Short runs on the tiny ViT: two tasks of two rounds, three clients; what a method ends in, to the bit."""

from functools import cache

import numpy as np

from fcil.battery.trial import Trial
from strategies.fedavg import FedAvg


@cache
def trial(method):
    """The trial of a method, carried out once."""
    return Trial(method)


def weights(method):
    """Module and head after every round, in their order: what training and merging have made."""
    rounds = [record.after for record in trial(method).records if record.phase.kind == "train"]
    return [{n: a for group in ("module", "head") for n, a in state[group].items()} for state in rounds]


def same_bits(one, other):
    """Tell whether two lists of `weights` are equal, bit for bit."""
    return all(
        a.keys() == b.keys() and all(np.array_equal(a[n], b[n]) for n in a) for a, b in zip(one, other, strict=True)
    )


def is_fedavg(method, **settings):
    """Tell whether a method ends every round in the bits of federated averaging."""
    return same_bits(weights(method), weights(FedAvg(rank=2, **settings)))
