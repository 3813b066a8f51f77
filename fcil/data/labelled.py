"""Turn images with labels by name, in parts by name, into a listing: for sets that fcil does not know beforehand."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, overload

import numpy as np

from fcil.data.family import Listing, Part
from fcil.data.settings import Data, one_form, sorted_names
from fcil.data.splits import some, test_samples
from fcil.errors import ConfigError

__all__ = ["PARTS", "Lazy", "Rows", "listing_of", "named_parts", "under_one_numbering"]

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
    """Image files, their contents, what opens each, or pixels, as in a `Part`."""
    labels: Sequence[str] | Sequence[int]
    """(n,) names, or numbers."""
    domains: Sequence[str] | None = None
    """(n,) names."""


def named_parts(names: Iterable[str], where: str) -> dict[str, str]:
    """Find what a set calls its parts: part -> that name; other names are left out.

    Raises:
        ConfigError: two names mean the same part.
    """
    parts: dict[str, str] = {}
    for name in names:
        part = PARTS.get(name.lower())
        if part in parts:
            raise ConfigError(
                f"{where}: two parts are {part}: {parts[part]} and {name}; join them, or rename one of the two"
            )
        if part:
            parts[part] = name
    return parts


def _check_numbers(labels: Sequence[str] | Sequence[int], classes: Sequence[str], part: str, where: str) -> None:
    """Make sure that labels are places in the list of the classes' names."""
    numbers = np.asarray(labels)
    if numbers.dtype.kind not in "iu":
        raise ConfigError(f"{where}: names its classes, so that labels must be their numbers; they are texts")
    if numbers.min() < 0 or numbers.max() >= len(classes):
        raise ConfigError(
            f"{where}: its {part} part has labels from {numbers.min()} to {numbers.max()}, and classes go "
            f"from 0 to {len(classes) - 1}; such a part has no labels, or those of another set"
        )


def _as_texts(rows: Rows, names: Sequence[str], part: str, where: str) -> Rows:
    """Put names in the place of a part's numbers, by the part's own list."""
    if names and len(rows.labels):
        _check_numbers(rows.labels, names, part, where)
        return replace(rows, labels=[names[int(label)] for label in rows.labels])
    if not all(isinstance(label, str) for label in rows.labels):
        raise ConfigError(
            f"{where}: its {part} part has numbers without names for labels, and another part names its classes; give "
            "all parts the same names, or none"
        )
    return rows


def under_one_numbering(
    parts: Mapping[str, Rows], names: Mapping[str, Sequence[str]], where: str
) -> tuple[dict[str, Rows], list[str]]:
    """Renumber labels of parts that have lists of names of their own, and give the common list; empty for none.

    The training part's list comes first, then the names that only other parts use.

    Args:
        names: part -> the names of its classes, where its labels are their numbers; empty where they are not.

    Raises:
        ConfigError: labels are not in their own list, or one part has names and another has numbers alone.
    """
    lists = [list(names[part]) for part in parts]
    if all(names_of_part == lists[0] for names_of_part in lists):
        return dict(parts), lists[0] if lists else []
    texts = {part: _as_texts(rows, names[part], part, where) for part, rows in parts.items()}
    first = list(names[next((part for part in ("train", *parts) if part in parts), "train")])
    if not first:
        return texts, []
    used = {str(label) for rows in texts.values() for label in rows.labels}
    common = first + sorted(used - set(first))
    place = {name: i for i, name in enumerate(common)}
    return {part: replace(rows, labels=[place[str(n)] for n in rows.labels]) for part, rows in texts.items()}, common


def _names(values: Sequence[str | int]) -> list[str]:
    """All names that occur, sorted; numbers by their value, also where they stand as text."""
    return sorted_names({one_form(str(value)) for value in values})


def _codes(values: Sequence[str | int], names: Sequence[str]) -> np.ndarray:
    place = {name: i for i, name in enumerate(names)}
    return np.array([place[one_form(str(value))] for value in values], np.int64)


def _drawn(rows: Part, classes: Sequence[str], settings: Data) -> tuple[Part, Part, str]:
    """Draw a fifth of each class for the test part, as for published sets without a split; says how, with a hash."""
    test = test_samples(rows.labels, classes, settings)
    digest = hashlib.sha256(np.packbits(test).tobytes()).hexdigest()
    origin = f"80/20 within each class by seed {settings.split_seed}, sha256 {digest}"
    train, rest = (_picked(rows, np.flatnonzero(chosen)) for chosen in (~test, test))
    return train, rest, origin


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
    names = [one_form(str(name)) for name in classes]
    if twice := sorted({name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ()):
        raise ConfigError(f"{where}: names classes twice: {some(twice)}; every class must have a name of its own")
    for name, rows in parts.items():
        if classes:
            _check_numbers(rows.labels, classes, name, where)
    telling = [name for name, rows in parts.items() if rows.domains is not None]
    if telling and len(telling) < len(parts):
        raise ConfigError(f"{where}: only its {telling[0]} part tells domains; all parts must, or none")


def listing_of(
    rows_by_part: Mapping[str, Rows], settings: Data, where: str, classes: Sequence[str] = (), origin: str = ""
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
    _check(rows_by_part, settings, where, classes)
    every = [label for rows in rows_by_part.values() for label in rows.labels]
    names = [one_form(str(name)) for name in classes] or _names(every)
    domains = _names([domain for rows in rows_by_part.values() for domain in rows.domains or ()])
    parts = {
        name: Part(
            rows.images,
            np.asarray(rows.labels, np.int64) if classes else _codes(rows.labels, names),
            None if rows.domains is None else _codes(rows.domains, domains),
        )
        for name, rows in rows_by_part.items()
    }
    for name in parts.keys() - {"train"} if "train" in parts else ():
        if strange := sorted(set(parts[name].labels.tolist()) - set(parts["train"].labels.tolist())):
            raise ConfigError(f"{where}: its {name} part has classes that are not in training: "
                              f"{some([names[c] for c in strange])}")  # fmt: skip
    return replace(_listing(parts, names, settings), domains=tuple(domains), origin=origin)


def _listing(parts: Mapping[str, Part], names: Sequence[str], settings: Data) -> Listing:
    """Fill in the parts that are not there."""
    nothing = Part([], np.zeros(0, np.int64))
    if settings.test_at == "server":  # a server has test images only, and its sites training images only
        return Listing(tuple(names), parts.get("train", nothing), parts.get("test", nothing))
    if "test" in parts:
        return Listing(tuple(names), parts["train"], parts["test"], validation=parts.get("validation"))
    if "validation" in parts:
        remark = "there is no test part: the validation part takes its place"
        return Listing(tuple(names), parts["train"], parts["validation"], remarks=(remark,))
    train, test, split = _drawn(parts["train"], names, settings)
    return Listing(tuple(names), train, test, split)
