"""The settings of a view, `data.flip` and its neighbours: for any data set, and refused where they have no meaning."""

import archives
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as T
from torchvision.transforms import functional as TF

from fcil.config import load_config
from fcil.data import FAMILIES, Data, load
from fcil.data.dataset import model_inputs
from fcil.data.family import PROTOCOL_TEST, PROTOCOL_TRAIN
from fcil.data.transforms import View, boxes
from fcil.data.views import in_words, shown
from fcil.errors import ConfigError

SIZE = 56


@pytest.mark.parametrize("name", FAMILIES)
def test_without_settings_every_set_has_its_own_view(name):
    assert shown(FAMILIES[name], Data(name=name)) == FAMILIES[name]


def test_own_images_are_neither_mirrored_nor_cut_to_small_boxes_unless_asked():
    folder = FAMILIES["folder"]
    assert folder.train_view == folder.test_view == PROTOCOL_TEST
    asked = shown(folder, Data(name="folder", view="crop", flip=True))
    assert (asked.train_view, asked.test_view) == (PROTOCOL_TRAIN, PROTOCOL_TEST)
    assert shown(folder, Data(name="folder", view="crop")).train_view == View(224, "area")


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("view", ["whole", "centre", "crop", "squash"])
def test_named_views_keep_flip_and_statistics_of_the_set(name, view):
    own, seen = FAMILIES[name], shown(FAMILIES[name], Data(name=name, view=view))
    assert (seen.mean, seen.std, seen.train_view.flip) == (own.mean, own.std, own.train_view.flip)
    assert not seen.test_view.flip
    for chosen in (True, False):
        assert shown(own, Data(name=name, view=view, flip=chosen)).train_view.flip is chosen


def loaded(root, **settings):
    return load(archives.settings("folder", root, **settings), SIZE)


@pytest.fixture
def pictures(tmp_path):
    archives.folder(tmp_path)
    return tmp_path, [Image.open(path) for path in sorted((tmp_path / "test").glob("*/*"))]


def test_each_setting_changes_what_it_says_and_nothing_else(pictures):
    """Against torchvision's transforms of the files themselves, to two levels of a byte."""
    root, files = pictures
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    data = loaded(root, view="centre", resize=320, mean=list(mean), std=list(std))
    ours = model_inputs(data.test.images[np.arange(len(files))], data, SIZE)
    for x, file in zip(ours, files, strict=True):
        pixels = TF.center_crop(TF.resize(file, 320 * SIZE // 224, T.InterpolationMode.BICUBIC), [SIZE, SIZE])
        theirs = TF.normalize(TF.pil_to_tensor(pixels).float() / 255, mean, std)
        assert ((x - theirs).abs() * torch.tensor(std).view(3, 1, 1) * 255).max() <= 2


def test_whole_shows_everything_and_is_stored_no_larger_than_the_model(pictures):
    root, files = pictures
    data = loaded(root, view="whole", flip=True)
    assert data.train.images.shape[1:] == (SIZE, SIZE, 3)
    ours = model_inputs(data.test.images[np.arange(len(files))], data, SIZE)
    for x, file in zip(ours, files, strict=True):
        square = file.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        assert torch.equal(x, TF.normalize(TF.pil_to_tensor(square).float() / 255, [0.5] * 3, [0.5] * 3))
    some = data.train.images[np.arange(8)]
    still, drawn = model_inputs(some, data, SIZE), model_inputs(some, data, SIZE, np.random.default_rng(0))
    mirrored = [torch.equal(x, y.flip(2)) for x, y in zip(still, drawn, strict=True)]
    assert 0 < sum(mirrored) < 8
    assert all(torch.equal(x, y) or torch.equal(x, y.flip(2)) for x, y in zip(still, drawn, strict=True))


def test_boxes_have_the_areas_that_were_asked_for():
    view = shown(FAMILIES["cifar100"], Data(name="cifar100", view="crop", crop_scale=(0.5, 0.6))).train_view
    _, extent = boxes(view, np.tile((100, 100), (500, 1)), 100, np.random.default_rng(0))
    share = extent.prod(1) / 100**2
    assert 0.48 < share.min() < 0.52 < 0.58 < share.max() < 0.62


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.crop_scale=[0.2, 1]", "data.view=whole"], r"data.crop_scale = \[0.2, 1.0\]: the view \"whole\""),
        (["data.resize=300", "data.view=identity"], r'data.resize = 300: the view "identity" of digits crops nothing'),
        (["data.crop_scale=[0.9, 0.2]"], "data.crop_scale"),
        (["data.crop_scale=[0.0, 0.2]"], "must be greater than 0"),
        (["data.mean=[0.5]"], r"data.mean = \[0.5\]: must be three numbers"),
        (["data.std=[0.5, 0, 1]"], "must be greater than 0"),
        (["data.flip=yes"], r'must be true or false or "own"|must be "own"'),
        (["data.view=hole"], "Did you mean 'whole'"),
    ],
)
def test_what_has_no_meaning_is_refused_before_anything_is_read(settings, message):
    from fcil.engine.checks import check_settings

    with pytest.raises(ConfigError, match=message):
        check_settings(load_config({}, settings))


def test_a_view_is_told_in_words():
    assert in_words(View(), 32) == "all of it, made 32 x 32"
    words = in_words(View(224, "area", (0.5, 1.0), flip=True), 112)
    assert words == "shorter side 112 px, random box of 50-100 % of the area, made 112 x 112, mirrored half of the time"
    assert in_words(View(256, "centre", squash=True), 224) == (
        "squashed to 224 x 224, shorter side 256 px, central 224 x 224"
    )
