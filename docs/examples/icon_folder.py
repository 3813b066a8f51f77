"""Make an image folder of desktop icons: a class for each icon name, training and test images from different themes.

`python docs/examples/icon_folder.py DIR` writes DIR/train/CLASS/FAMILY.png and DIR/test/CLASS/FAMILY.png, which
`data.name = "folder"` with `data.root = "DIR"` reads. The drawings are far from photographs, and no design is in both
parts: a family (themes that recolour or extend one another) is in training or in test as a whole and gives at most
one image a class; families that borrow from each other are all in training. Of images of a class that are alike
only the first stays, training before test, and no two classes hold the same pixels.

It needs the themes and `rsvg-convert`, nothing from the network. The data set was made on Debian 12 with librsvg2-bin
and the packages that are named beside the families in TRAIN and TEST: 103 classes, 1199 training and 298 test images
with the defaults. Other versions of the packages give other images.
"""

import argparse
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

TRAIN: dict[str, tuple[str, ...]] = {
    "Papirus": ("papirus-icon-theme", "Papirus", "Papirus-Light", "ePapirus", "Papirus-Dark", "ePapirus-Dark"),
    "Faenza": ("faenza-icon-theme", "Faenza", "Faenza-Dark", "Faenza-Darker", "Faenza-Darkest"),
    "Obsidian": ("obsidian-icon-theme", "Obsidian", "Obsidian-Light", "Obsidian-SemiLight"),
    "Numix": ("numix-icon-theme", "Numix", "Numix-Light"),
    "breeze": ("breeze-icon-theme", "breeze", "breeze-dark"),
    "elementary-xfce": ("elementary-xfce-icon-theme", "elementary-xfce", "elementary-xfce-dark"),
    "Moka": ("moka-icon-theme faba-icon-theme", "Faba", "Moka"),
    "gnome": ("gnome-icon-theme", "gnome"),
    "mate": ("mate-icon-theme", "mate", "menta"),
    "Adwaita": ("adwaita-icon-theme", "Adwaita"),
    "Tango": ("tango-icon-theme", "Tango"),
    "gnome-colors": ("gnome-colors-common gnome-brave-icon-theme", "gnome-colors-common", "gnome-brave"),
    "bloom": ("deepin-icon-theme", "bloom", "bloom-dark"),
    "bloom-classic": ("deepin-icon-theme", "bloom-classic", "bloom-classic-dark"),
    "Vintage": ("deepin-icon-theme", "Vintage"),
    "Sea": ("deepin-icon-theme", "Sea"),
}
"""Family -> its Debian packages and themes; a later theme gives an icon only where the earlier ones lack it."""
TEST: dict[str, tuple[str, ...]] = {
    "oxygen": ("oxygen-icon-theme", "oxygen"),
    "Yaru": ("yaru-theme-icon", "Yaru"),
    "nuoveXT2": ("lxde-icon-theme", "nuoveXT2"),
    "suru": ("suru-icon-theme", "suru"),
}
"""The same for the test part: glossy, rounded, early vector, and line drawings; none borrows from a training theme."""
SIZE_FOLDER = re.compile(r"(\d+)(?:x\d+)?(?:@(\d)x?)?|scalable(?:-(?:up-to|max)-(\d+))?")
LEAST_RASTER = 32
"""Pixels a side; smaller raster images would be blurred by enlarging them."""
LEAST_TEST = 2
"""Test families that must have drawn a class."""
ALIKE = 0.95
"""Correlation of grey values from which two images of a class are one design; unrelated themes stay below it."""


def _nominal_size(folders: Sequence[str]) -> int:
    """Read the pixels a side from `48x48`, `24x24@2x`, `64` or `scalable` in a path; 0 where there is no size."""
    for match in filter(None, map(SIZE_FOLDER.fullmatch, folders)):
        side, scale, most = match.groups()
        return int(side) * int(scale or 1) if side else int(most or 1024)
    return 0


def _sources(theme: Path, size: int) -> dict[str, list[Path]]:
    """List icon name -> its files in a theme, best first: at least `size` pixels, vector before raster, largest."""
    ranked: dict[str, list[tuple[tuple[int, bool, int, str], Path]]] = {}
    for folder, _, files in os.walk(theme):
        parts = Path(folder).relative_to(theme).parts
        side = 0 if "symbolic" in parts else _nominal_size(parts)
        for path in (Path(folder, file) for file in files if side):
            raster, real = path.suffix == ".png", path.resolve()
            wanted = path.suffix == ".svg" or (raster and side >= LEAST_RASTER)
            if wanted and real.is_file() and not any(p.stem.endswith("-symbolic") for p in (path, real)):
                ranked.setdefault(path.stem, []).append(((-min(side, size), raster, -side, str(path)), real))
    return {name: [real for _, real in sorted(files)] for name, files in ranked.items()}


@cache
def _draw(path: Path, size: int) -> Image.Image | None:
    """Draw an icon on white, size x size pixels; None where the file is broken or next to nothing is seen on white."""
    try:
        data = path.read_bytes()
        if path.suffix == ".svg":
            command = ["rsvg-convert", "--keep-aspect-ratio", f"--width={size}", f"--height={size}", str(path)]
            data = subprocess.run(command, capture_output=True, check=True).stdout
        icon = ImageOps.contain(Image.open(io.BytesIO(data)).convert("RGBA"), (size, size), Image.Resampling.LANCZOS)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"icon_folder: left out, cannot be drawn: {path}: {error}", file=sys.stderr)
        return None
    image = Image.new("RGBA", (size, size), "white")
    image.alpha_composite(icon, ((size - icon.width) // 2, (size - icon.height) // 2))
    seen = np.asarray(image.convert("RGB")).min(axis=2) < 208
    return image.convert("RGB") if seen.mean() >= 0.04 else None


def _alike(one: Image.Image, other: Image.Image) -> bool:
    a, b = (np.asarray(i.convert("L").resize((24, 24), Image.Resampling.BOX), np.float64).ravel() for i in (one, other))
    a, b = a - a.mean(), b - b.mean()
    return one.tobytes() == other.tobytes() or bool(a @ b >= ALIKE * np.linalg.norm(a) * np.linalg.norm(b) > 0)


def _images(name: str, icons: dict[str, dict[str, list[Path]]], size: int) -> dict[str, Image.Image]:
    """Draw an icon name once a family, without the images that are alike one before them."""
    kept: dict[str, Image.Image] = {}
    for family, sources in icons.items():
        image = next(filter(None, (_draw(path, size) for path in sources.get(name, []))), None)
        if image and not any(_alike(image, other) for other in kept.values()):
            kept[family] = image
    return kept


def _classes(
    icons: dict[str, dict[str, list[Path]]], size: int, least: int
) -> Iterator[tuple[str, dict[str, Image.Image]]]:
    """Yield class and family -> image; of names with the same pixels in two families or more the commonest is kept."""
    families = {name: [f for f in icons if name in icons[f]] for name in {n for icon in icons.values() for n in icon}}
    taken: set[str] = set()
    for name in sorted(families, key=lambda name: (-len(families[name]), name)):
        if len(families[name]) < least:
            return
        images = _images(name, icons, size)
        digests = {family: hashlib.sha256(image.tobytes()).hexdigest() for family, image in images.items()}
        shared = [family for family, digest in digests.items() if digest in taken]
        images = {family: image for family, image in images.items() if family not in shared}
        if len(shared) <= 1 and len(images) >= least and len(images.keys() & TEST.keys()) >= LEAST_TEST:
            taken.update(digests.values())
            yield name, images


def _find(themes: Path, size: int) -> dict[str, dict[str, list[Path]]]:
    """Find family -> icon name -> files, training families first; exits where what is needed is not installed."""
    icons: dict[str, dict[str, list[Path]]] = {}
    for family, (_, *names) in {**TRAIN, **TEST}.items():
        for sources in (_sources(themes / name, size) for name in names):
            for name, paths in sources.items():
                icons.setdefault(family, {}).setdefault(name, []).extend(paths)
    packages = sorted({p for f, (names, *_) in {**TRAIN, **TEST}.items() if f not in icons for p in names.split()})
    if packages:
        raise SystemExit(f"icon_folder: themes are missing under {themes}; Debian: apt install {' '.join(packages)}")
    vector = any(p.suffix == ".svg" for sources in icons.values() for paths in sources.values() for p in paths)
    if vector and not shutil.which("rsvg-convert"):
        raise SystemExit("icon_folder: rsvg-convert is missing; Debian: apt install librsvg2-bin")
    return icons


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the folder and print its counts."""
    parser = argparse.ArgumentParser(description="Make an image folder of desktop icons, split by theme.")
    parser.add_argument("dir", type=Path, help="folder to make; it must not hold train or test already")
    parser.add_argument("--themes", type=Path, default=Path("/usr/share/icons"), help="where the themes are")
    parser.add_argument("--size", type=int, default=64, help="pixels a side of the images")
    parser.add_argument("--least", type=int, default=13, help="families that must have drawn a class")
    options = parser.parse_args(arguments)
    if min(options.size, options.least) < 1:
        parser.error("--size and --least must be at least 1")
    if any((options.dir / part).exists() for part in ("train", "test")):
        raise SystemExit(f"icon_folder: {options.dir} already holds train or test; name a new folder")
    classes, used = 0, dict.fromkeys((*TRAIN, *TEST), 0)
    for name, images in _classes(_find(options.themes, options.size), options.size, options.least):
        classes += 1
        for family, image in images.items():
            folder = options.dir / ("test" if family in TEST else "train") / name
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{family}.png")
            used[family] += 1
    if not classes:
        raise SystemExit(f"icon_folder: no icon is drawn by {options.least} families; lower --least")
    for part, families in (("train", TRAIN), ("test", TEST)):
        print(f"{part}: {sum(used[f] for f in families)} images;", ", ".join(f"{f} {used[f]}" for f in families))
    print(f"{classes} classes of icons that at least {options.least} families draw, {options.size} pixels a side")


if __name__ == "__main__":
    main()
