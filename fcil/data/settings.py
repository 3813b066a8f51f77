"""Settings under `[data]`: which images, where they are, and how they are split."""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from fcil.errors import ConfigError
from fcil.options import Option

__all__ = ["Data", "ViewName", "one_form", "sorted_names"]

ViewName = Literal["default", "whole", "centre", "crop", "squash", "identity"]
"""How images are shown (`fcil.data.family.Family.seen`)."""
Own = Literal["own"]
"""The value of a setting that leaves it to the data set or its view."""


def one_form(name: str) -> str:
    """Write a class name in the one of its Unicode forms that is compared (NFC): some systems write accents apart."""
    return unicodedata.normalize("NFC", name)


def sorted_names(names: Iterable[str]) -> list[str]:
    """Sort names of classes or domains: by their letters, or by their value where all of them are whole numbers.

    >>> sorted_names(["10", "9"]), sorted_names(["10", "9", "a"])
    (['9', '10'], ['10', '9', 'a'])
    """
    distinct = list(names)
    numbers = all(name.isdecimal() for name in distinct)
    return sorted(distinct, key=(lambda name: (int(name), name)) if numbers else None)


@dataclass(frozen=True, kw_only=True)
class Data:
    """`[data]`: which images, where they are, and how they are split."""

    name: Annotated[str, Option("data set; `fcil data list` names them")] = "digits"
    root: Annotated[str, Option("folder that holds its files, where it needs any")] = ""
    sites: Annotated[
        tuple[str, ...],
        Option('for partition.kind = "sites": the folder of each site\'s own images; "" for a site on another machine'),
    ] = ()
    class_maps: Annotated[
        tuple[str, ...],
        Option('for each of sites a TOML file of lines "own class name" = "common name"; "" where names are common'),
    ] = ()
    test_at: Annotated[
        Literal["sites", "server"],
        Option("for sites: accuracy on every site's own test images, or on those of data.root"),
    ] = "sites"
    class_counts: Annotated[
        bool, Option("sites tell how many images of each class they have; false: only how many of each task")
    ] = True
    columns: Annotated[
        tuple[str, ...],
        Option(
            'where a table or a Hugging Face set names them otherwise: "image=file", "label=species", "split=part", '
            '"domain=camera"; "domain=" for none'
        ),
    ] = ()
    cache: Annotated[str, Option("folder for decoded images; empty: fcil-cache in data.root")] = ""
    split_file: Annotated[
        str,
        Option("YAML or JSON with train and test lists, for sets without an official split; {part} stands for each"),
    ] = ""
    split_seed: Annotated[int, Option("draws 80 % of each class for training where no list is given", low=0)] = 0
    view: Annotated[
        ViewName,
        Option(
            '"default" of the set; "whole": everything, made square; "centre": central crops; "crop": boxes of random '
            'area in training; "squash": to a square first, then cropped; "identity": squashed only, in 0..1'
        ),
    ] = "default"
    flip: Annotated[
        bool | Own, Option('training images are mirrored half of the time; "own": as the set and its view have it')
    ] = "own"
    crop_scale: Annotated[
        tuple[float, ...],
        Option("least and largest share of the area in a random box, [0.08, 1.0]; empty: the view's", above=0, high=1),
    ] = ()
    resize: Annotated[
        int | Own, Option("shorter side before a crop, for a model of 224", "pixels", low=224, high=4096)
    ] = "own"
    mean: Annotated[
        tuple[float, ...], Option("of the channels, subtracted from values in 0..1; empty: the set's", low=0, high=1)
    ] = ()
    std: Annotated[
        tuple[float, ...], Option("of the channels, by which is divided; empty: the set's", above=0, high=10)
    ] = ()
    unofficial: Annotated[bool, Option("admit files that are not the official ones; the records say so")] = False
    stand_in: Annotated[
        bool, Option("noise in the official numbers in place of the files, for `fcil plan` alone: no run takes it")
    ] = False
    held_out: Annotated[
        float,
        Option(
            "share of each class's training images that stand in for the test images, to choose settings by; drawn "
            "from split_seed",
            low=0,
            high=0.9,
        ),
    ] = 0.0
    evaluate_on: Annotated[
        Literal["test", "validation"],
        Option("accuracy is measured on the test part, or on the set's own validation part, to choose settings by"),
    ] = "test"
    train_limit: Annotated[int, Option("use only the first so many training images of all; 0 for all", low=0)] = 0
    test_limit: Annotated[int, Option("use only the first so many test images of all; 0 for all", low=0)] = 0
    train_per_class: Annotated[
        int, Option("use only the first so many training images of each class; 0 for all", low=0)
    ] = 0
    test_per_class: Annotated[int, Option("use only the first so many test images of each class; 0 for all", low=0)] = 0

    def __post_init__(self) -> None:
        for key in ("mean", "std"):
            if (values := getattr(self, key)) and len(values) != 3:
                raise ConfigError(f"data.{key} = {list(values)}: must be three numbers, for red, green and blue")
        if self.crop_scale and (len(self.crop_scale) != 2 or self.crop_scale[0] > self.crop_scale[1]):
            raise ConfigError(f"data.crop_scale = {list(self.crop_scale)}: must be the least and the largest share")
        for part in ("train", "test"):
            of_all, of_each = (getattr(self, f"{part}_{end}") for end in ("limit", "per_class"))
            if of_all and of_each:
                raise ConfigError(
                    f"data.{part}_limit = {of_all}: is a number of all images, and data.{part}_per_class = {of_each} "
                    "one of each class; leave one of the two out"
                )
        if self.held_out and self.evaluate_on == "validation":
            raise ConfigError(
                f"data.held_out = {self.held_out:g}: takes training images in place of the test part, and "
                'data.evaluate_on = "validation" the set\'s own; leave one of the two out'
            )
