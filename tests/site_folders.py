"""Three sites with images of their own, of partly different classes and other names, and one folder of all."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

NAMES = ("zero", "one", "two", "three", "four", "five")
HELD = ((0, 1, 2, 3), (2, 3, 4, 5), (0, 4, 5))
"""[site] -> the digits that it has images of."""
COUNTS = ((12, 5), (16, 6), (9, 4))
"""[site] -> training and test images of each of its classes."""


def own_name(site, digit):
    """Site 1 has names of its own, whose order is another one than that of the common names."""
    return f"ziffer-{9 - digit}" if site == 1 else NAMES[digit]


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pixels * 15).astype(np.uint8)).save(path)


def write_sites(folder: Path):
    """Write the sites into folder/a, b, c, the class map of b beside them, and all images into folder/pooled."""
    digits = load_digits()
    left = {digit: list(digits.images[digits.target == digit]) for digit in range(len(NAMES))}
    for site, (held, counts) in enumerate(zip(HELD, COUNTS, strict=True)):
        letter = "abc"[site]
        for digit in held:
            for part, count in zip(("train", "test"), counts, strict=True):
                for i in range(count):
                    pixels = left[digit].pop()
                    write(folder / letter / part / own_name(site, digit) / f"{i:03d}.png", pixels)
                    write(folder / "pooled" / part / NAMES[digit] / f"{letter}{i:03d}.png", pixels)
    lines = [f'"{own_name(1, digit)}" = "{NAMES[digit]}"' for digit in HELD[1]]
    (folder / "b.toml").write_text("\n".join(lines) + "\n")
    return folder


def site_settings(folder, **sections):
    """Settings of a run of seconds on the sites, as a table."""
    table = {
        "data": {
            "name": "folder",
            "sites": [str(folder / s) for s in "abc"],
            "class_maps": ["", f"{folder}/b.toml", ""],
        },
        "tasks": {"count": 3},
        "partition": {"kind": "sites"},
        "model": {"image_size": 16},
        "train": {"rounds": 2, "epochs": 1},
        "run": {"device": "cpu", "evaluation_batch": 16},
    }
    return {name: {**table.get(name, {}), **sections.get(name, {})} for name in table | sections}
