"""The named views against a literal transcription with Pillow and torchvision, from files in the original formats.

`SHOWN` is what LoRM's public code does to each data set, as its specification lists it: every image is squashed to
224 x 224 by Pillow's bicubic filter, then cropped from that.
"""

import archives
import numpy as np
import pytest
import torch
from archives import settings
from PIL import Image
from scipy.stats import ks_2samp
from torchvision import transforms as T
from torchvision.transforms import functional as TF

from fcil.config import load_config
from fcil.data import FAMILIES, Data, load
from fcil.data.dataset import model_inputs
from fcil.data.loading import readiness
from fcil.data.transforms import View, boxes, render
from fcil.errors import ConfigError

SIZE, BICUBIC = 224, T.InterpolationMode.BICUBIC
HALF = ((0.5,) * 3, (0.5,) * 3)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NONE = ((0.0,) * 3, (1.0,) * 3)
# data set -> data.view of its paper config, crop in training (least area of a box, or pixels before a random crop, or
# nothing), flip, pixels before the central crop of the test view, mean and std
SHOWN = {
    "cifar100": ("squash", ("area", 0.08), True, 256, HALF),
    "imagenet-r": ("squash", ("area", 0.08), True, 256, HALF),
    "imagenet-a": ("squash", ("area", 0.05), True, 256, IMAGENET),
    "cub200": ("squash", ("random", 256), True, 256, IMAGENET),
    "cars196": ("squash", None, True, 0, NONE),
    "eurosat": ("identity", None, False, 0, NONE),
}


@pytest.fixture(params=SHOWN)
def shown(request, tmp_path, monkeypatch):
    """A data set, its photographs 427 x 640 or upright, loaded under its view, and the files it was loaded from."""
    name = request.param
    monkeypatch.setattr(archives, "SHAPES", [(427, 640), (640, 427), (300, 224)])
    archives.WRITE[name](tmp_path)
    chosen = settings(name, tmp_path, view=SHOWN[name][0])
    data = load(chosen, SIZE)
    return name, data, FAMILIES[name].listing(tmp_path, chosen)


def opened(item):
    return Image.fromarray(item) if isinstance(item, np.ndarray) else Image.open(item).convert("RGB")


def normalised(name, pixels):
    mean, std = SHOWN[name][4]
    return TF.normalize(TF.pil_to_tensor(pixels).float() / 255, mean, std)


def close(name, ours, theirs, levels=2):
    """Within some levels of a byte, after normalisation."""
    spread = torch.tensor(SHOWN[name][4][1]).view(3, 1, 1)
    assert ((ours - theirs).abs() * spread * 255).max() <= levels + 1e-3


def squared(item):
    return TF.resize(opened(item), [SIZE, SIZE], BICUBIC)


def test_test_images_are_squashed_then_enlarged_and_cropped_in_the_centre(shown):
    name, data, listing = shown
    ours = model_inputs(data.test.images[np.arange(len(data.test))], data, SIZE)
    for x, item in zip(ours, listing.test.images, strict=True):
        square, before = squared(item), SHOWN[name][3]
        theirs = TF.center_crop(TF.resize(square, [before, before], BICUBIC), [SIZE, SIZE]) if before else square
        close(name, x, normalised(name, theirs))
        if not before:
            close(name, x, normalised(name, theirs), 0)


def test_training_images_are_cropped_from_the_squashed_ones(shown):
    """Boxes are our own draws; that they come from torchvision's distribution is tested below and beside `boxes`."""
    name, data, listing = shown
    _, crop, flip, _, _ = SHOWN[name]
    ours = model_inputs(data.train.images[np.arange(len(data.train))], data, SIZE, np.random.default_rng(3))
    rng, n = np.random.default_rng(3), len(listing.train)
    before = crop[1] if crop and crop[0] == "random" else SIZE
    corner, extent = boxes(data.train_view, np.tile((before, before), (n, 1)), SIZE, rng)
    flips = rng.random(n) < 0.5 if flip else np.zeros(n, bool)
    for i, (x, item) in enumerate(zip(ours, listing.train.images, strict=True)):
        pixels = squared(item)
        if crop:
            pixels = TF.resize(pixels, [before, before], BICUBIC)
            pixels = TF.resized_crop(pixels, *map(int, (*corner[i], *extent[i])), [SIZE, SIZE], BICUBIC)
        theirs = TF.hflip(pixels) if flips[i] else pixels
        close(name, x, normalised(name, theirs), 2 if crop else 0)


def test_boxes_of_the_squashed_view_are_those_of_torchvision_on_a_square(shown):
    name, data, _ = shown
    crop, n = SHOWN[name][1], 2000
    before = crop[1] if crop and crop[0] == "random" else SIZE
    corner, extent = boxes(data.train_view, np.tile((before, before), (n, 1)), SIZE, np.random.default_rng(0))
    if crop is None or crop[0] == "random":
        assert (extent == SIZE).all()
        assert corner.max() == before - SIZE
        return
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        square = torch.zeros(1, SIZE, SIZE)
        theirs = np.array([T.RandomResizedCrop.get_params(square, [crop[1], 1.0], [3 / 4, 4 / 3]) for _ in range(n)])
    for ours, column in zip((*corner.T, *extent.T), theirs.T, strict=True):
        assert ks_2samp(ours, column).pvalue > 1e-4
    assert (extent.prod(1) / SIZE**2).min() < 1.25 * crop[1]


def test_a_photograph_differs_from_the_default_view_by_much_and_on_a_gpus_path_by_nothing(tmp_path, monkeypatch):
    """427 x 640 keeps two thirds of its width under the default test view; on a square there is no difference."""
    monkeypatch.setattr(archives, "SHAPES", [(427, 640)])
    archives.imagenet(tmp_path)
    default, squash = (load(settings("imagenet-r", tmp_path, view=v), SIZE) for v in ("default", "squash"))
    x, y = (model_inputs(d.test.images[np.arange(3)], d, SIZE) for d in (default, squash))
    assert (x - y).square().mean().sqrt() > 0.2
    from fcil.data.resampling import resample

    images = squash.test.images[np.arange(3)]
    whole, corner, extent = (np.full((3, 2), v) for v in (256, 16, SIZE))
    products = resample(images, whole, corner, extent, SIZE, torch.device("cpu")).div(255).clamp(0, 1)
    assert (render(images, squash.test_view, SIZE) - products).abs().max() <= 2 / 255


def test_images_without_a_cache_and_of_one_channel_are_squashed_on_the_way():
    rng = np.random.default_rng(0)
    for shape in ((20, 33, 1), (20, 33, 3), (40, 40, 3)):
        image = rng.integers(0, 256, shape, np.uint8)
        theirs = opened(image[..., 0] if shape[2] == 1 else image).resize((32, 32), Image.Resampling.BICUBIC)
        ours = render([image], View(squash=True), 32)[0]
        np.testing.assert_array_equal(ours * 255, TF.pil_to_tensor(theirs).float())


def test_caches_of_two_views_stand_beside_each_other(tmp_path):
    archives.cifar100(tmp_path)
    first = {v: load(settings("cifar100", tmp_path, view=v), 28) for v in ("default", "squash")}
    assert first["default"].train.images.shape[1:3] == (32, 32)
    assert first["squash"].train.images.shape[1:3] == (28, 28)
    (tmp_path / "cifar-100-python.tar.gz").unlink()
    for view, data in first.items():
        chosen = settings("cifar100", tmp_path, view=view)
        assert load(chosen, 28).sha256() == data.sha256()
        assert readiness(FAMILIES["cifar100"], chosen, 28) == "ready at 28 px"


def test_the_default_view_is_the_sets_own_and_others_are_refused():
    assert Data().view == "default"
    for family in FAMILIES.values():
        assert family.seen("default") is family
    with pytest.raises(ConfigError, match=r"data\.view"):
        load_config({}, ['data.view="square"'])


def test_the_papers_configs_name_these_views():
    from pathlib import Path

    for name, (view, *_) in SHOWN.items():
        files = sorted((Path(__file__).parents[2] / "configs" / "paper").glob(f"{name}_beta*.toml"))
        assert [load_config(path).data.view for path in files] == [view] * 3
