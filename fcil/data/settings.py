"""Settings under `[data]`: which images, where they are, and how they are split."""

import unicodedata
from dataclasses import dataclass
from typing import Annotated, Literal

from fcil.options import Option

__all__ = ["Data", "ViewName", "one_form"]

ViewName = Literal["default", "squash", "identity"]
"""How images are shown (`fcil.data.family.Family.seen`)."""


def one_form(name: str) -> str:
    """Write a class name in the one of its Unicode forms that is compared (NFC): some systems write accents apart."""
    return unicodedata.normalize("NFC", name)


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
    cache: Annotated[str, Option("folder for decoded images; empty: fcil-cache in data.root")] = ""
    split_file: Annotated[
        str,
        Option("YAML or JSON with train and test lists, for sets without an official split; {part} stands for each"),
    ] = ""
    split_seed: Annotated[int, Option("draws 80 % of each class for training where no list is given", low=0)] = 0
    view: Annotated[
        ViewName,
        Option('"default" of the set; "squash": to a square first, then cropped; "identity": squashed only, in 0..1'),
    ] = "default"
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
    train_limit: Annotated[int, Option("use only the first so many training images; 0 for all", low=0)] = 0
    test_limit: Annotated[int, Option("use only the first so many test images; 0 for all", low=0)] = 0
