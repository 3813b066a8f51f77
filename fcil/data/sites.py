"""Join the images of several sites into one data set, in which every image keeps its site's number and its domain.

A site has a folder of its own, under class names of its own, which a class map translates into the common ones. Images
are ordered by their class's common name, then by site, then as the site's own data set orders them: in the same order
under any names, and as in a folder of the images of all sites together whose file names sort by site.
"""

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fcil.data import load
from fcil.data.dataset import Dataset, Pooled, Split, first_of_each
from fcil.data.settings import Data, one_form, sorted_names
from fcil.errors import ConfigError
from fcil.words import nearest_class

__all__ = ["Limit", "SiteData", "pool", "check_distinct", "load_sites", "of_site", "read_class_map", "renamed"]

ClassMap = Mapping[str, str]
"""A site's own name of a class -> the common name."""


@dataclass(frozen=True)
class SiteData:
    """A site's data set, with the common name of each of its classes."""

    data: Dataset
    names: tuple[str, ...]
    """[own label] -> the common name of that class."""
    place: str = ""
    """Its folder, and its class map where it has one, for messages."""

    def sha256(self) -> str:
        """SHA-256 of the site's images and labels, and of the common names of its classes."""
        content = f"{self.data.sha256()} {list(self.names)}"
        return hashlib.sha256(content.encode()).hexdigest()


def read_class_map(path: str) -> dict[str, str]:
    """Read a class map: a TOML file of lines `"own name" = "common name"`; an empty path is an empty map.

    Raises:
        ConfigError: no such file, not TOML, or a value that is no text.
    """
    if not path:
        return {}
    try:
        table = tomllib.loads(Path(path).expanduser().read_text())
    except OSError as error:
        raise ConfigError(f"class map {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"class map {path}: {error}") from None
    for name, common in table.items():
        if not isinstance(common, str) or not common:
            raise ConfigError(f'class map {path}: {name} = {common!r}: write "own name" = "common name"')
    return {one_form(name): one_form(common) for name, common in table.items()}


def renamed(data: Dataset, class_map: ClassMap, place: str = "the class map") -> SiteData:
    """Give a site's classes their common names.

    Args:
        place: how to point at the class map in a message.

    Raises:
        ConfigError: the map names a class that the site does not have.
    """
    names = [one_form(name) for name in data.classes]
    for own_name in class_map:
        if own_name not in names:
            raise ConfigError(f"{place} names {own_name!r}, a class without images. {nearest_class(own_name, names)}")
    return SiteData(data, tuple(class_map.get(own_name, own_name) for own_name in names))


@dataclass(frozen=True)
class Limit:
    """A limit on the images of each site that are kept, the first in the order of common names; 0 for all."""

    of_all: int = 0
    of_each_class: int = 0

    def kept(self, labels: np.ndarray) -> np.ndarray:
        """The samples that are kept, (n,) indices in the order of their common labels."""
        order: np.ndarray = np.argsort(labels, kind="stable")[: self.of_all or None]
        positions: np.ndarray = order[first_of_each(labels[order], self.of_each_class)]
        return positions


ALL = Limit()


@dataclass(frozen=True)
class Names:
    """The common names of classes and domains, sorted; no domains where not every site tells those of its images."""

    classes: Sequence[str]
    domains: Sequence[str]

    def codes(self, site: SiteData, part: Split) -> np.ndarray:
        """The domain of each sample of a site's part, (n,) places in `domains`; zeros where there are none."""
        if part.domains is None or not self.domains:
            return np.zeros(len(part), np.int64)
        common: np.ndarray = np.array([self.domains.index(name) for name in site.data.domains], np.int64)[part.domains]
        return common


def _part(sites: Mapping[int, SiteData], parts: Mapping[int, Split], names: Names, limit: Limit) -> Split:
    """Join one part of all sites, ordered by class, then by site."""
    classes, labels, arrays, places, owners, domains = names.classes, [], [], [], [], []
    for position, (number, part) in enumerate(parts.items()):
        common = np.array([classes.index(name) for name in sites[number].names], np.int64)[part.labels]
        order = limit.kept(common)
        labels.append(common[order])
        places.append(order)
        arrays.append(np.full(len(order), position, np.int64))
        owners.append(np.full(len(order), number, np.int64))
        domains.append(names.codes(sites[number], part)[order])
    columns = (labels, arrays, places, owners, domains)
    joined = [np.concatenate([np.empty(0, np.int64), *column]) for column in columns]
    by_class = np.argsort(joined[0], kind="stable")
    joined = [column[by_class] for column in joined]
    images = Pooled(tuple(part.images for part in parts.values()), *joined[1:3])
    return Split(images, joined[0], owners=joined[3], domains=joined[4] if names.domains else None)


def _domains(sites: Sequence[SiteData]) -> list[str]:
    """The domains of all sites; none where any site does not tell those of its images."""
    domains_by_site = [site.data.domains for site in sites]
    return sorted_names({name for domains in domains_by_site for name in domains}) if all(domains_by_site) else []


def _check_known(where: str, site: SiteData, names: Sequence[str]) -> None:
    if strange := sorted(set(site.names) - set(names)):
        raise ConfigError(
            f"{where}: has images of {strange[0]!r}, which is not in tasks.classes. {nearest_class(strange[0], names)} "
            "A class map gives a site's own names their common ones"
        )


def pool(
    sites: Mapping[int, SiteData],
    classes: Sequence[str] = (),
    test: SiteData | None = None,
    limits: tuple[Limit, Limit] = (ALL, ALL),
) -> Dataset:
    """Join sites into one data set, whose classes are sorted by their common names, as `sorted_names` does.

    Args:
        sites: number of the site -> its data; they may be some of a run's sites only, or none where there is `test`.
        classes: the common names of all classes; by default all those that the sites have.
        test: the test part for all, in place of the sites' own.
        limits: of training and test images.

    Raises:
        ConfigError: a site has a class that is not among `classes`; two sites have the same images; or nothing is to be
            joined.
    """
    if not sites and test is None:
        raise ConfigError(
            'partition.kind = "sites": data.sites names no folder. Name one for each client to simulate the sites; '
            "across machines a run is started with `fcil deploy`, and each node names its own (docs/deployment.md)"
        )
    names_of_classes = sorted_names(
        map(one_form, classes) if classes else {n for site in sites.values() for n in site.names}
    )
    names = Names(names_of_classes, _domains([*sites.values(), *([test] if test else [])]))
    for number, site in sites.items():
        _check_known(f"site {number} ({site.place})" if site.place else f"site {number}", site, names_of_classes)
    train = _part(sites, {number: site.data.train for number, site in sites.items()}, names, limits[0])
    if test is None:
        tests = _part(sites, {number: site.data.test for number, site in sites.items()}, names, limits[1])
    else:
        _check_known("data.root", test, names_of_classes)
        tests = replace(_part({0: test}, {0: test.data.test}, names, limits[1]), owners=None)
    digests = {f"site {number}": site.sha256() for number, site in sites.items()}
    check_distinct(digests)
    if test is not None:
        digests["test"] = test.sha256()
    like = next(iter(sites.values()), test) if test is None else test
    assert like is not None  # one of the two is there
    return replace(
        like.data, classes=tuple(names_of_classes), train=train, test=tests, files=_files(sites, test),
        digests=digests, domains=tuple(names.domains), remarks=_remarks(sites, test),
    )  # fmt: skip


def check_distinct(digests: Mapping[str, str]) -> None:
    """Raise ConfigError where two sites have the same images: a folder was named twice."""
    first: dict[str, str] = {}
    for name, digest in digests.items():
        if digest in first:
            raise ConfigError(f"{first[digest]} and {name} have the same images; give each site a folder of its own")
        first[digest] = name


def _files(sites: Mapping[int, SiteData], test: SiteData | None) -> str:
    """Describe in words for the records where every site's files come from."""
    remarks = [f"site {number}: {site.data.files}" for number, site in sites.items() if site.data.files]
    return "; ".join([*remarks, *([f"test images: {test.data.files}"] if test and test.data.files else [])])


def _remarks(sites: Mapping[int, SiteData], test: SiteData | None) -> tuple[str, ...]:
    """Collect what is odd about the files of each site, a sentence each."""
    named = [(f"site {number}", site) for number, site in sites.items()] + ([("data.root", test)] if test else [])
    silent = [name for name, site in named if not site.data.domains]
    some = f"{', '.join(silent)}: no domains of images, so that those of others are not used"
    odd = [f"{name}: {remark}" for name, site in named for remark in site.data.remarks]
    return (*odd, *([some] if 0 < len(silent) < len(named) else []))


def load_sites(settings: Data, size: int, classes: Sequence[str] = ()) -> Dataset:
    """Load the sites whose folders `data.sites` names here, for a model of `size` pixels; "" is a site elsewhere.

    Limits on the numbers of images hold for every site.

    Raises:
        ConfigError: as `fcil.data.load` and `pool`; it names the site.
    """
    maps = settings.class_maps or ("",) * len(settings.sites)
    sites = {}
    for number, (root, class_map) in enumerate(zip(settings.sites, maps, strict=True)):
        if root:
            sites[number] = _load(settings, size, root, class_map, f"site {number}")
    on_server = settings.test_at == "server" and settings.root
    test = _load(settings, size, settings.root, "", "data.root") if on_server else None
    limits = [
        Limit(settings.train_limit, settings.train_per_class),
        Limit(settings.test_limit, settings.test_per_class),
    ]
    return pool(sites, classes, test, (limits[0], limits[1]))


def of_site(data: Dataset, site: int) -> Dataset:
    """Reduce the data of several sites to those of one of them, which are what its own node has."""
    test = data.test if data.test.owners is None else data.test.of_site(site)
    return replace(data, train=data.train.of_site(site), test=test)


def _load(settings: Data, size: int, root: str, class_map: str, where: str) -> SiteData:
    try:
        data = load(
            replace(
                settings, root=root, sites=(), class_maps=(), train_limit=0, test_limit=0, train_per_class=0,
                test_per_class=0,
            ),
            size,
        )  # fmt: skip
        names = read_class_map(class_map)
        place = f"{root}, class map {class_map}" if class_map else root
        return replace(renamed(data, names, f"class map {class_map}"), place=place)
    except ConfigError as error:
        raise ConfigError(f"{where} ({root}): {error}") from None
