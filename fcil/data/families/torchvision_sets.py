"""Any classification set of torchvision: `data.name = "torchvision:Flowers102"`, with its files in data.root.

Parts are those that a set's own argument `train` or `split` tells apart. Further arguments go in brackets,
`torchvision:DTD(partition = 2)`. torchvision checks the files; nothing is downloaded unless that is asked for.
"""

import inspect
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fcil.data.families.calls import call
from fcil.data.family import CACHE, PROTOCOL_TEST, Family, Listing
from fcil.data.labelled import Lazy, Rows, listing_of
from fcil.data.progress import bar
from fcil.data.settings import Data
from fcil.data.splits import stamp_of
from fcil.errors import ConfigError
from fcil.options import nearest

__all__ = ["torchvision_set"]

NO_SETS = {"VisionDataset", "ImageFolder", "DatasetFolder", "FakeData"}
SPLITS = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}
"""Part -> what sets call it in their argument `split`."""
LABELS = "targets", "labels", "_labels", "y"
ROWS = "_samples", "samples", "_image_files"
"""Attributes in which sets keep labels, or pairs of image and label; each is compared with what the set yields."""
COMPARED = 8
OURS = "self", "root", "transform", "transforms", "target_transform", "loader", "download", "kwargs"
"""Arguments that fcil gives, or that would change what it reads."""
BY_HAND = "put its files there by hand, as torchvision's documentation says"


def _class(name: str) -> type:
    import torchvision.datasets as sets  # takes seconds

    set_names = [n for n in sets.__all__ if inspect.isclass(getattr(sets, n)) and n not in NO_SETS]
    if name not in set_names:
        hint = ' For images of your own, data.name = "imagefolder" or "folder".' if name in NO_SETS else ""
        raise ConfigError(f'data.name = "torchvision:{name}": no such data set. {nearest(name, set_names)}{hint}')
    return getattr(sets, name)  # type: ignore[no-any-return]


def _parameters(of: type) -> dict[str, inspect.Parameter]:
    """The arguments of a class, and those that it hands on to the classes above it."""
    parameters_by_name: dict[str, inspect.Parameter] = {}
    for above in of.__mro__:
        parameters = inspect.signature(vars(above)["__init__"]).parameters if "__init__" in vars(above) else {}
        parameters_by_name = {**parameters, **parameters_by_name}
        if parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            break
    return parameters_by_name


def _told(of: type) -> str:
    """Name the arguments of a set that a user may give in brackets."""
    return ", ".join(name for name in _parameters(of) if name not in OURS)


def _made(of: type, root: Path, arguments: Mapping[str, Any], download: bool, where: str, optional: bool) -> Any:
    """Make one part of a set; None where the set has no part of that name.

    Raises:
        ConfigError: files are missing or damaged, or arguments are not the set's.
    """
    downloads = {"download": download} if "download" in _parameters(of) else {}
    try:
        return of(root, **arguments, **downloads)
    except (RuntimeError, OSError, ModuleNotFoundError) as error:
        reason = " ".join(str(error).split())
        if download and downloads:
            raise ConfigError(
                f"{where}: torchvision could not fetch it into {root} ({reason}); try again, or {BY_HAND}"
            ) from None
        remedy = f"`fcil data prepare '{where}' --root {root} --download` fetches it" if downloads else BY_HAND
        raise ConfigError(f"data.root: {where} cannot be read from {root} ({reason}); {remedy}") from None
    except ValueError as error:
        if optional and "nknown value" in str(error):  # torchvision's words for a split that the set has not
            return None
        raise ConfigError(f"{where}: {error}") from None
    except TypeError as error:
        raise ConfigError(f"{where}: {error}; its arguments are {_told(of)}") from None


def _parts(name: str, arguments: Mapping[str, Any], root: Path, download: bool) -> dict[str, Any]:
    """Make all parts of a set: part -> the data set of torchvision."""
    of, where = _class(name), f"torchvision:{name}"
    parameters = _parameters(of)
    if "train" in parameters and "train" not in arguments:
        arguments_by_part: dict[str, tuple[dict[str, Any], ...]]
        arguments_by_part = {"train": ({"train": True},), "test": ({"train": False},)}
    elif "split" in parameters and "split" not in arguments:
        arguments_by_part = {part: tuple({"split": word} for word in words) for part, words in SPLITS.items()}
        default = parameters["split"].default
        if isinstance(default, str) and default not in [word for words in SPLITS.values() for word in words]:
            arguments_by_part["train"] = (*arguments_by_part["train"], {"split": default})
    else:
        arguments_by_part = {"train": ({},)}
    sets = {}
    for part, choices in arguments_by_part.items():
        tried = (_made(of, root, {**arguments, **choice}, download, where, "split" in choice) for choice in choices)
        data_set = next((candidate for candidate in tried if candidate is not None), None)
        if data_set is not None:
            sets[part] = data_set
    return sets


def _target(data: Any, i: int, where: str) -> int:
    try:
        image, target = data[i]
        if isinstance(image, Image.Image):
            image.close()  # some sets leave the file open
        return operator.index(target)
    except (TypeError, ValueError, IndexError, KeyError, RuntimeError):
        raise ConfigError(f"{where}: its targets are no numbers of classes, so that it is no set to classify") from None


def _labels(data: Any, where: str) -> np.ndarray:
    """The label of every image: as the set keeps them if that agrees with what it yields, or else image by image."""
    lists = [getattr(data, name) for name in LABELS if hasattr(data, name)]
    for name in ROWS:
        rows: Any = getattr(data, name, ())
        lists += [[row[-1] for row in rows]] if len(rows) == len(data) and isinstance(rows[0], tuple) else []
    places = np.unique(np.linspace(0, len(data) - 1, COMPARED).round().astype(int)).tolist()
    targets = [_target(data, i, where) for i in places]
    for labels in lists:
        values = np.asarray(labels)
        if values.shape == (len(data),) and values.dtype.kind in "iu" and [int(values[i]) for i in places] == targets:
            return values.astype(np.int64)
    with bar(f"{where}: reading labels", len(data)) as advance:
        return np.array(list(_one_by_one(data, where, advance)), np.int64)


def _one_by_one(data: Any, where: str, advance: Callable[[int], None]) -> Iterator[int]:
    for i in range(len(data)):
        yield _target(data, i, where)
        advance(1)


def _classes(data: Any, labels: Sequence[np.ndarray]) -> list[str]:
    """Names of the classes as the set tells them, or else their numbers."""
    entries = next((getattr(data, name) for name in ("classes", "categories") if hasattr(data, name)), ())
    names = [name if isinstance(name, str) else ", ".join(map(str, name)) for name in entries]
    needed = 1 + max(int(part.max()) for part in labels)
    return names if len(names) >= needed and len(set(names)) == len(names) else [str(i) for i in range(needed)]


def _open(data: Any, index: int) -> Image.Image:
    image: Image.Image = data[index][0]
    return image


def _images(data: Any) -> Sequence[Callable[[], Image.Image]]:
    """Make functions that open the images of a set of torchvision, one each."""
    return Lazy(len(data), lambda i: partial(_open, data, i))


def _listing(root: Path, settings: Data, name: str, arguments: Mapping[str, Any]) -> Listing:
    where = f"torchvision:{name}"
    sets = _parts(name, arguments, root, download=False)
    labels = {part: _labels(data, where) for part, data in sets.items()}
    rows = {part: Rows(_images(data), labels[part].tolist()) for part, data in sets.items()}
    classes = _classes(next(iter(sets.values())), list(labels.values()))
    return listing_of(rows, settings, where, classes, f"{where} by torchvision {version('torchvision')}")


def _fetch(root: Path, settings: Data, name: str, arguments: Mapping[str, Any]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    _parts(name, arguments, root, download=True)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _stamp(root: Path, settings: Data, name: str) -> str:
    """Hash torchvision's version, and the names, sizes and times of the set's files.

    These are what is below folders and files named after the set, as most are; all of `root` but caches where none is.
    Where there are no files at all, the text is empty: the decoded images are used as they are.
    """
    caches = {root / CACHE, Path(settings.cache).expanduser()} if settings.cache else {root / CACHE}
    there = sorted(path for path in root.iterdir() if path.name[0] != "." and path not in caches)
    of_set = [path for path in there if _plain(path.name).startswith(_plain(name))] or there
    paths = (path for top in of_set for path in (top, *sorted(top.rglob("*"))) if path.is_file())
    files = [path for path in paths if not any(above in caches for above in path.parents)]
    return f"{stamp_of(files, root)}, torchvision {version('torchvision')}" if files else ""


@cache
def torchvision_set(text: str) -> Family:
    """Describe a set of torchvision, by its name and its arguments."""
    name, arguments = call(text, f'data.name = "torchvision:{text}"')
    if wrong := [argument for argument in arguments if argument in OURS]:
        raise ConfigError(f'data.name = "torchvision:{text}": {wrong[0]} is not to be given')
    return Family(
        name=f"torchvision:{text}",
        source=f"torchvision.datasets.{name}, in data.root as torchvision keeps it",
        listing=partial(_listing, name=name, arguments=arguments),
        fetch=partial(_fetch, name=name, arguments=arguments),
        stamp=partial(_stamp, name=name),
        own=True,
        shrunk=True,
        train_view=PROTOCOL_TEST,
        test_view=PROTOCOL_TEST,
    )
