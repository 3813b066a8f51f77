"""Your own images in one folder for each class, `CLASS/*.jpg` in data.root, as torchvision's ImageFolder has them."""

from dataclasses import replace
from pathlib import Path

from fcil.data.families.folder import FOLDER
from fcil.data.family import Listing
from fcil.data.settings import Data
from fcil.data.splits import SUFFIXES, empty_folders, some, split_classes, stamp_of
from fcil.errors import ConfigError

__all__ = ["CLASS_FOLDERS"]

PARTS = {"train", "test", "val"}


def _listing(root: Path, settings: Data) -> Listing:
    """List the images, and split them as `data.split_file` says or by `data.split_seed`."""
    here = root.resolve()
    inside, beside = ({path.name for path in where.iterdir() if path.is_dir()} & PARTS for where in (here, here.parent))
    if inside:
        raise ConfigError(f'data.root: {root} holds {some(sorted(inside))}: data.name = "folder" reads these as parts')
    if here.name in beside and len(beside) > 1:
        raise ConfigError(
            f'data.root: {root} is one part of {here.parent}; data.name = "folder" with that one as data.root reads '
            "them all, as they are split"
        )
    listing, empty = split_classes(root, settings), empty_folders(root)
    return replace(listing, remarks=(f"no images in {some(empty)}: left out",) if empty else ())


def _stamp(root: Path, settings: Data) -> str:
    """Hash the names, sizes and modification times of all images."""
    return stamp_of(sorted(p for p in root.glob("*/*") if p.suffix.lower() in SUFFIXES), root)


def _fits(root: Path) -> bool:
    """Tell whether a folder holds folders with images, or parts, about which the listing has more to say."""
    folders = [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    images = (path.suffix.lower() in SUFFIXES for folder in folders for path in folder.iterdir())
    return bool(PARTS & {path.name for path in folders}) or any(images)


CLASS_FOLDERS = replace(
    FOLDER,
    name="imagefolder",
    source="CLASS/ folders of images in data.root, a fifth of each for tests (data.split_seed, data.split_file)",
    listing=_listing,
    fits=_fits,
    stamp=_stamp,
)
