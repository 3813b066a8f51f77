"""Turn images with labels by name, in parts by name, into a listing: for sets that fcil does not know beforehand."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, overload

import numpy as np

from fcil.data.family import Listing, Part
from fcil.data.settings import Data
from fcil.data.splits import some, test_samples
from fcil.errors import ConfigError

__all__ = ["PARTS", "Lazy", "Rows", "listing_of"]

PARTS = {
    "train": "train", "training": "train", "test": "test", "testing": "test", "validation": "validation",
    "valid": "validation", "val": "validation", "dev": "validation",
}  # fmt: skip
"""A part's name, as sets write it in small letters -> the part."""
T = TypeVar("T")


class Lazy(Sequence[T]):
    """A sequence of which each item is read or made only when it is asked for.

    >>> squares = Lazy(4, lambda i: i * i)
    >>> list(squares), squares[-1], list(squares[1:3])
    ([0, 1, 4, 9], 9, [1, 4])
    """

    def __init__(self, count: int, item: Callable[[int], T]) -> None:
        self._places = range(count)
        self._item = item

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...

    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        """An item, or a slice of them, which is not read either; raises IndexError where there is none."""
        if isinstance(index, slice):
            places = self._places[index]
            return Lazy(len(places), lambda i: self._item(places[i]))
        return self._item(self._places[index])


@dataclass(frozen=True)
class Rows:
    """The images of one part with their labels, and their domains where they are known."""

    images: Any
    """As those of a `Part`."""
    labels: Sequence[str] | Sequence[int]
    """(n,) names, or numbers."""
    domains: Sequence[str] | None = None
    """(n,) names."""


def _names(values: Sequence[str | int]) -> list[str]:
    """All names that occur, sorted; numbers by their value, also where they stand as text."""
    names = {str(value) for value in values}
    numbers = all(name.isdecimal() for name in names)
    return sorted(names, key=(lambda name: (int(name), name)) if numbers else None)


def _codes(values: Sequence[str | int], names: Sequence[str]) -> np.ndarray:
    place = {name: i for i, name in enumerate(names)}
    return np.array([place[str(value)] for value in values], np.int64)


def _drawn(rows: Part, classes: Sequence[str], settings: Data) -> tuple[Part, Part, str]:
    """Draw a fifth of each class for the test part, as for published sets without a split; says how, with a hash."""
    test = test_samples(rows.labels, classes, settings)
    digest = hashlib.sha256(np.packbits(test).tobytes()).hexdigest()
    origin = f"80/20 within each class by seed {settings.split_seed}, sha256 {digest}"
    train, held = (_picked(rows, np.flatnonzero(chosen)) for chosen in (~test, test))
    return train, held, origin


def _picked(part: Part, chosen: np.ndarray) -> Part:
    images: Any = part.images
    if isinstance(images, np.ndarray):
        picked: Any = images[chosen]
    else:
        picked = Lazy(len(chosen), lambda i: images[int(chosen[i])])
    return Part(picked, part.labels[chosen], None if part.domains is None else part.domains[chosen])


def _check(parts: Mapping[str, Rows], settings: Data, where: str, classes: Sequence[str]) -> None:
    if settings.split_file:
        raise ConfigError(f"data.split_file: {settings.name} is split by its own parts, or drawn; leave it empty")
    if "train" not in parts and settings.test_at != "server":
        raise ConfigError(f"{where}: has no training part; it has {some(sorted(parts)) or 'nothing'}")
    empty = [name for name, rows in parts.items() if not len(rows.labels)]
    if empty:
        raise ConfigError(f"{where}: its {empty[0]} part has no images")
    for name, rows in parts.items():
        numbers = np.asarray(rows.labels) if classes else np.zeros(1, np.int64)
        if numbers.dtype.kind not in "iu":
            raise ConfigError(f"{where}: names its classes, so that labels must be their numbers; they are texts")
        if numbers.min() < 0 or numbers.max() >= max(len(classes), 1):
            raise ConfigError(
                f"{where}: its {name} part has labels from {numbers.min()} to {numbers.max()}, and classes go "
                f"from 0 to {len(classes) - 1}; such a part has no labels, or those of another set"
            )
    telling = [name for name, rows in parts.items() if rows.domains is not None]
    if telling and len(telling) < len(parts):
        raise ConfigError(f"{where}: only its {telling[0]} part tells domains; all parts must, or none")


def listing_of(
    parts: Mapping[str, Rows], settings: Data, where: str, classes: Sequence[str] = (), origin: str = ""
) -> Listing:
    """Make a listing of the parts "train", "test" and "validation", as far as there are any.

    Without a test part the validation part takes its place; without either a fifth of each class is drawn. Classes are
    sorted by name, by value where all are numbers; so are domains.

    Args:
        where: how to point at the set in a message.
        classes: names of the classes, where labels are their numbers.
        origin: where the set comes from, for the records.

    Raises:
        ConfigError: no training part, an empty one, or classes in a test that are not in training.
    """
    _check(parts, settings, where, classes)
    names = list(map(str, classes)) or _names([label for rows in parts.values() for label in rows.labels])
    domains = _names([domain for rows in parts.values() for domain in rows.domains or ()])
    made = {
        name: Part(
            rows.images,
            np.asarray(rows.labels, np.int64) if classes else _codes(rows.labels, names),
            None if rows.domains is None else _codes(rows.domains, domains),
        )
        for name, rows in parts.items()
    }
    for name in made.keys() - {"train"} if "train" in made else ():
        if strange := sorted(set(made[name].labels.tolist()) - set(made["train"].labels.tolist())):
            raise ConfigError(f"{where}: its {name} part has classes that are not in training: "
                              f"{some([names[c] for c in strange])}")  # fmt: skip
    return replace(_listing(made, names, settings), domains=tuple(domains), origin=origin)


def _listing(made: Mapping[str, Part], names: Sequence[str], settings: Data) -> Listing:
    """Fill in the parts that are not there."""
    nothing = Part([], np.zeros(0, np.int64))
    if settings.test_at == "server":  # a server has test images only, and its sites training images only
        return Listing(tuple(names), made.get("train", nothing), made.get("test", nothing))
    if "test" in made:
        return Listing(tuple(names), made["train"], made["test"], validation=made.get("validation"))
    if "validation" in made:
        remark = "there is no test part: the validation part takes its place"
        return Listing(tuple(names), made["train"], made["validation"], remarks=(remark,))
    train, test, split = _drawn(made["train"], names, settings)
    return Listing(tuple(names), train, test, split)
