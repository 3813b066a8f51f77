"""Writes the demonstration's images: three sites that share some classes, one of which calls them otherwise."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from fcil.errors import ConfigError

__all__ = ["CLASSES", "Site", "check_sites", "write_sites"]

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
"""The common names of the classes, in the order of the digits."""
HELD = (range(0, 6), range(2, 8), range(4, 10))
"""The digits that each site has images of; further sites begin again with the first."""
OTHER_NAMES = 2
"""The site whose folders have names of its own, "digit-0", with a class map to the common ones."""
_SIDE = 32


@dataclass(frozen=True)
class Site:
    """A site's folder of images, and the file that says what its names mean; None where they are the common ones."""

    root: Path
    class_map: Path | None


def check_sites(count: int, train: int = 12, test: int = 4) -> None:
    """Check that the digits are enough for so many sites, with `train` and `test` images of each of their classes.

    Raises:
        ConfigError: they are not; it says for how many they are.
    """
    from sklearn.datasets import load_digits  # slow to import

    stock = Counter(load_digits().target.tolist())
    for number in range(count):
        stock.subtract(dict.fromkeys(HELD[number % len(HELD)], train + test))
        if min(stock.values()) < 0:
            raise ConfigError(
                f"{count} sites with {train + test} images of each class: the digits are enough for {number} sites"
            )


def write_sites(folder: Path, count: int = 3, train: int = 12, test: int = 4) -> list[Site]:
    """Write `site-K/train/CLASS/*.png` and `site-K/test/CLASS/*.png` from scikit-learn's digits.

    Args:
        count: number of sites.
        train: training images that a site has of each of its classes. No two sites have the same image.
        test: the same for test images.

    Raises:
        ConfigError: there are not so many images.
    """
    check_sites(count, train, test)
    import numpy as np  # slow to import, as are the next, and only needed here
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    members = [list(np.flatnonzero(digits.target == digit)) for digit in range(len(CLASSES))]
    sites = []
    for number in range(count):
        other, lines = number % len(HELD) == OTHER_NAMES, []
        root = folder / f"site-{number}"
        for digit in HELD[number % len(HELD)]:
            name = f"digit-{digit}" if other else CLASSES[digit]
            lines.append(f'"{name}" = "{CLASSES[digit]}"')
            for part, images in (("train", train), ("test", test)):
                into = root / part / name
                into.mkdir(parents=True)
                for _ in range(images):
                    index = members[digit].pop(0)
                    pixels = (digits.images[index] * (255 / 16)).round().astype(np.uint8)
                    Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).convert("RGB").save(
                        into / f"{index:04d}.png"
                    )
        class_map = folder / f"site-{number}.toml" if other else None
        if class_map:
            class_map.write_text("\n".join(lines) + "\n")
        sites.append(Site(root, class_map))
    return sites
