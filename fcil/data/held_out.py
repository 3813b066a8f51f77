"""Holds out training images to choose settings by, in place of the test images, which nobody then has looked at."""

import hashlib
from dataclasses import replace

import numpy as np

from fcil.data.dataset import Dataset, Split
from fcil.errors import ConfigError
from fcil.seeding import generator

__all__ = ["hold_out"]


def hold_out(data: Dataset, share: float, seed: int) -> Dataset:
    """Put a share of each class's training images in the place of the test images, and take them out of training.

    Of a class with n images round(share n) are held out, at least one and at most n - 1, drawn from the seed; the
    same whatever the run's own seed is. The remaining ones keep their order.

    Raises:
        ConfigError: a class has a single training image.
    """
    mask = np.zeros(len(data.train), bool)
    for label in np.unique(data.train.labels):
        members = np.flatnonzero(data.train.labels == label)
        if len(members) < 2:
            raise ConfigError(
                f"data.held_out = {share:g}: class {data.classes[label]!r} has a single training image, so that none "
                "can be held out; leave the class out, or data.held_out"
            )
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        mask[generator(seed, "held out images", int(label)).permutation(members)[:count]] = True
    name, remark = f"{share!r} {seed}", f"{100 * share:g} % of the training images held out in place of the test images"
    return replace(
        data, train=_part(data.train, ~mask, f"less {name}"), test=_part(data.train, mask, name),
        files="; ".join(filter(None, [data.files, remark])),
    )  # fmt: skip


def _part(split: Split, chosen: np.ndarray, name: str) -> Split:
    """The chosen samples, with a hash of their own where the whole has one."""
    part = split.select(np.flatnonzero(chosen))
    return replace(part, digest=hashlib.sha256(f"{split.digest} {name}".encode()).hexdigest() if split.digest else "")
