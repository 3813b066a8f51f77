"""Preview a run's data before anything runs: how classes are spread over clients, and what the model sees."""

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fcil.config import Config
from fcil.data import FAMILIES, load
from fcil.data.dataset import Dataset
from fcil.data.family import Family
from fcil.data.progress import moving, waiting
from fcil.data.sites import load_sites
from fcil.data.sources import SOURCES
from fcil.data.transforms import render
from fcil.data.views import in_words
from fcil.errors import ConfigError
from fcil.report.figure import SMALL, Target, draw, drawn_files
from fcil.report.form import form
from fcil.report.run import draw_holders
from fcil.scenario.census import Census
from fcil.scenario.scenario import Scenario, make_scenario
from fcil.seeding import generator
from fcil.words import counted

__all__ = ["Skew", "families_table", "preview", "samples_picture", "skew", "skew_table"]

CLIENTS, SAMPLES = "clients.png", "samples.png"
CLASSES, DRAWS = 10, 5
"""Most classes that the picture of samples shows, and number of augmented views of each image."""
HEADS = "as stored", "in tests", f"in training, {DRAWS} draws"
"""Heads of the columns of that picture."""


class Skew(NamedTuple):
    """Measures of how one task's training images are spread over the clients."""

    images: np.ndarray
    """(clients,) number of images of each client."""
    classes: np.ndarray
    """(clients,) number of classes of which a client holds any image."""
    effective: np.ndarray
    """(clients,) exp(entropy of the client's class shares): equal shares of c classes count as c, 0 without images."""


def skew(counts: np.ndarray) -> Skew:
    """Measure the skew of one task from its (clients, classes) counts of training images."""
    images = counts.sum(1)
    share = counts / np.maximum(images, 1)[:, None]
    entropy = -(share * np.log(np.where(share > 0, share, 1))).sum(1)
    return Skew(images, (counts > 0).sum(1), np.where(images > 0, np.exp(entropy), 0))


def _spread(values: np.ndarray, decimals: int = 0) -> str:
    low, middle, high = np.min(values), np.median(values), np.max(values)
    return f"{low:.{decimals}f} / {middle:.{decimals}f} / {high:.{decimals}f}"


def skew_table(census: Census) -> Table:
    """Make a table with one row per task: how its training images are spread over clients and classes."""
    by_class = census.by_class
    if by_class is None:
        raise ValueError("skew_table: this census has no counts by class")
    table = Table("task", "classes", "train", "test", "images a client", "classes a client", "effective classes",
                  box=None, title="per client: min / median / max", title_justify="left", title_style="")  # fmt: skip
    for task, test in zip(census.tasks, census.totals, strict=True):
        of_task = by_class[:, task.first : task.seen]
        measures = skew(of_task)
        table.add_row(
            str(task.index + 1), str(task.size), _images_of(census, task.index), f"{test:,}",
            _spread(measures.images), _spread(measures.classes), _spread(measures.effective, 1),
        )  # fmt: skip
    return table


def _images_of(census: Census, task: int) -> str:
    """The number of training images of a task; where clients share them, each counted once."""
    shared = census.shared(task)
    return f"{shared:,}, shared" if shared else f"{census.train[task].sum():,}"


def samples_picture(target: Target, rows: Sequence[tuple[str, np.ndarray]]) -> None:
    """Plot rows of images: the first of each as stored, the second as in testing, the others as in training.

    Args:
        target: the file to write.
        rows: (name, (columns, 3, h, w) in 0..1).
    """
    columns, side = rows[0][1].shape[0], rows[0][1].shape[-1]
    beside = 0.06 * max(len(name) for name, _ in rows) + 0.2
    gap, cell = 0.04, (form().inches(0.75 * columns + beside) - beside) / columns

    def paint(figure: Figure, axes: Axes) -> None:
        for i, (_, images) in enumerate(rows):
            for j, image in enumerate(images):
                extent = (j + gap, j + 1 - gap, i + 1 - gap, i + gap)
                axes.imshow(
                    image.transpose(1, 2, 0), extent=extent, interpolation="nearest" if side < 64 else "antialiased"
                )
                corner = (j + gap, i + gap)  # a frame, since many an image is as white as the paper
                axes.add_patch(Rectangle(corner, 1 - 2 * gap, 1 - 2 * gap, fill=False, edgecolor="0.75", linewidth=0.4))
        axes.set(xlim=(0, columns), ylim=(len(rows), 0))
        for edge in (1, 2):
            axes.axvline(edge, color="0.55", linewidth=0.6)
        axes.set_yticks(np.arange(len(rows)) + 0.5, [name for name, _ in rows], fontsize=SMALL)
        axes.set_xticks([0.5, 1.5, (2 + columns) / 2], HEADS, fontsize=SMALL)
        axes.tick_params(length=0, labeltop=True, labelbottom=False)
        axes.spines[:].set_visible(False)

    draw(target, (cell * columns + beside, cell * len(rows) + 0.3), paint)


def _as_stored(image: np.ndarray, size: int) -> np.ndarray:
    """The whole image in its own ratio on grey, (1, 3, size, size) in 0..1; of a squashing view that is a square."""
    picture = Image.fromarray(np.broadcast_to(image, (*image.shape[:2], 3)))
    padded = ImageOps.pad(picture, (size, size), Image.Resampling.BICUBIC, color=(217, 217, 217))
    return np.asarray(padded, np.float32).transpose(2, 0, 1)[None] / 255


def _samples(data: Dataset, scenario: Scenario, size: int, seed: int) -> list[tuple[str, np.ndarray]]:
    """Render one training image of each of some classes: as in testing, then augmented as in training."""
    rows = []
    present = [int(label) for label in scenario.order if (data.train.labels == label).any()]  # sites may lack a class
    for position in np.unique(np.linspace(0, len(present) - 1, CLASSES).round().astype(int)):
        label = present[position]
        image = data.train.images[np.flatnonzero(data.train.labels == label)[:1].repeat(DRAWS)]
        augmented = render(image, data.train_view, size, generator(seed, "preview", label))
        in_tests = render(image[:1], data.test_view, size).numpy()
        columns = (_as_stored(image[0], size), in_tests, augmented.numpy())
        rgb = [np.broadcast_to(column, (len(column), 3, size, size)) for column in columns]
        rows.append((textwrap.shorten(data.classes[label], 24, placeholder="…"), np.concatenate(rgb)))
    return rows


def preview(config: Config, folder: Path, console: Console) -> None:
    """Write clients.png and samples.png into `folder` and print counts and skew.

    Raises:
        ConfigError: data or partition that could not run, or a folder that cannot be written.
    """
    size = config.model.image_size
    sites = config.partition.kind == "sites"
    with waiting(console, f"reading {config.data.name}"):
        data = load_sites(config.data, size, config.tasks.classes) if sites else load(config.data, size)
    with moving(console, "sharing images among clients") as step:
        scenario = make_scenario(data, config.tasks, config.partition, config.run.seed)
        census = scenario.census(data)
        if not config.data.class_counts:
            census = replace(census, by_class=None)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            step("drawing who holds what", 0.3)
            draw_holders(folder / CLIENTS, census)
            step("drawing what the model sees", 0.6)
            samples_picture(folder / SAMPLES, _samples(data, scenario, size, config.run.seed))
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be written ({error.strerror}); choose another --output") from None
    _tell_sizes(console, data, census, config.run.seed)
    _tell_images(console, data, size)
    if census.by_class is not None:
        console.print(skew_table(census))
    holders, views = (", ".join(map(str, drawn_files(folder / name))) for name in (CLIENTS, SAMPLES))
    console.print(f"who holds what: {holders}   what the model sees: {views}", soft_wrap=True)


def _tell_sizes(console: Console, data: Dataset, census: Census, seed: int) -> None:
    """Print how many classes, images and clients there are, and from which files."""
    used = int(census.train.sum() if census.distinct is None else census.distinct.sum())
    share = f"{used:,} of " if used < len(data.train) else ""  # where tasks.long_tail leaves out some
    train = f"{share}{len(data.train):,} training"
    classes, tests = counted(len(data.classes), "class", "classes"), counted(len(data.test), "test image")
    sizes = f"{data.name}: {classes}, {train} and {tests}"
    console.print(f"{sizes}, {counted(census.clients, 'client')}, seed {seed}", soft_wrap=True)
    if data.files:
        console.print(data.files, soft_wrap=True, markup=False)
    if data.train.domains is not None:
        images = np.bincount(data.train.domains, minlength=len(data.domains))
        counts = ", ".join(f"{name} {count:,}" for name, count in zip(data.domains, images, strict=True))
        console.print(f"training images by domain: {counts}", soft_wrap=True, markup=False)


def _tell_images(console: Console, data: Dataset, size: int) -> None:
    """Print what a reader has to know of the images, and how the model is shown them."""
    for remark in data.remarks:
        console.print(f"note: {remark}", soft_wrap=True, markup=False)
    for part, view in (("training", data.train_view), ("tests", data.test_view)):
        console.print(f"in {part}: {in_words(view, size)}", soft_wrap=True)
    statistics = (", ".join(f"{value:g}" for value in values) for values in (data.mean, data.std))
    console.print("values 0 to 1, less the mean ({}), over the std ({})".format(*statistics), soft_wrap=True)


def _images(family: Family) -> str:
    if not family.counts:
        return "as found"
    return " + ".join(f"{n:,}" for n in family.counts) + ("" if len(family.counts) == 2 else ", no split")


def families_table() -> Table:
    """List all data sets: classes, official numbers of images, usual number of tasks, source."""
    table = Table("data set", "classes", "train + test", "tasks", "source", box=None)
    for name, family in FAMILIES.items():
        table.add_row(name, str(family.classes or "-"), _images(family), str(family.tasks or "-"), Text(family.source))
    for source in SOURCES.values():
        table.add_row(source.example, "-", "as found", "-", Text(source.text))
    return table
