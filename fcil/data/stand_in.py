"""Stand in for a data set whose files are not at hand: its official numbers, and one image of noise for all."""

import numpy as np

from fcil.data.dataset import Dataset, Split
from fcil.data.family import Family
from fcil.data.splits import TEST_SHARE
from fcil.data.transforms import View
from fcil.errors import ConfigError
from fcil.seeding import generator

__all__ = ["stand_in"]


def stand_in(family: Family, size: int) -> Dataset:
    """Make a data set of the official numbers of classes and images, classes in turn, for a model of `size` pixels.

    It takes no memory: every image is the same noise, as large as a cache would hold it, or as the model where that
    depends on the files. Sets without an official split have a fifth of their images in the test part.

    Raises:
        ConfigError: the data set has no official numbers.
    """
    if not (family.classes and family.counts):
        raise ConfigError(f"data.stand_in: {family.name} has no official numbers of classes and images to stand in for")
    held_out = round(TEST_SHARE * family.counts[0])
    train, test = family.counts if len(family.counts) == 2 else (family.counts[0] - held_out, held_out)
    noise = generator(0, "stand-in")

    def part(count: int, view: View) -> Split:
        to = family.stored(view, size)
        side = to[0] if isinstance(to, tuple) else to or size
        image = noise.integers(0, 256, (side, side, 3), np.uint8)
        return Split(np.broadcast_to(image, (count, *image.shape)), np.arange(count) % family.classes, "stand-in")

    return Dataset(
        family.name, tuple(map(str, range(family.classes))), part(train, family.train_view),
        part(test, family.test_view), family.mean, family.std, family.train_view, family.test_view,
        "stand-in: noise in the official numbers",
    )  # fmt: skip
