"""Views against torchvision: the same pixels for the same boxes, and boxes from the same distribution."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import chi2_contingency, ks_2samp
from torchvision import transforms as T
from torchvision.transforms import functional as TF

from fcil.data.dataset import Dataset, Ragged, Split, model_inputs
from fcil.data.resampling import resample
from fcil.data.transforms import View, boxes, render, resized

SIZE = 224
BICUBIC = T.InterpolationMode.BICUBIC
SHAPES = [(224, 224), (224, 336), (600, 224), (32, 32), (64, 400)]
PROTOCOL = View(resize=224, crop="area", flip=True)
CENTRE = View(resize=256, crop="centre")


def smooth(shape):
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]] / max(shape)
    return np.stack([127 + 120 * np.sin(3 * x + c) * np.cos(4 * y) for c in range(3)], 2).astype(np.uint8)


def noisy(shape):
    return np.random.default_rng(shape[0]).integers(0, 256, (*shape, 3), np.uint8)


def by_torchvision(image, shorter, box, size=SIZE):
    """Pillow, stage by stage: (3, size, size) in bytes."""
    (top, left), (height, width) = (list(map(int, pair)) for pair in box)
    resized = TF.resize(Image.fromarray(image), shorter, BICUBIC)
    return TF.pil_to_tensor(TF.resized_crop(resized, top, left, height, width, [size, size], BICUBIC)).float()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("path", ["bytes", "products"])
def test_the_same_boxes_give_torchvisions_pixels(shape, path):
    whole = resized(np.array([shape]), SIZE)
    rng = np.random.default_rng(7)
    # on noise, clamping and rounding on the way matter, and which axis Pillow takes first
    for make, largest, mean in ((smooth, 2, 0.6), (noisy, 40, 1.5)):
        image = make(shape)
        for _ in range(3):
            state = rng.bit_generator.state
            corner, extent = boxes(PROTOCOL, whole, SIZE, rng)
            if path == "bytes":
                rng.bit_generator.state = state
                ours = 255 * render([image], View(resize=224, crop="area"), SIZE, rng)[0]
            else:
                ours = resample([image], whole, corner, extent, SIZE, torch.device("cpu"))[0].clamp(0, 255)
            far = (ours - by_torchvision(image, SIZE, (corner[0], extent[0]))).abs()
            assert far.max() <= largest
            assert far.mean() <= mean


def test_products_of_one_stage_are_pillows_to_a_rounding_also_in_a_batch_of_mixed_shapes():
    shapes = [(224, 224), (180, 336), (32, 32), (64, 400)]  # none is enlarged across and shrunk down: Pillow's order
    images = [noisy(shape) for shape in shapes]
    whole = np.array(shapes)
    corner, extent = boxes(View(crop="area"), whole, SIZE, np.random.default_rng(0))
    ours = resample(images, whole, corner, extent, SIZE, torch.device("cpu")).clamp(0, 255)
    for x, image, c, e in zip(ours, images, corner, extent, strict=True):
        crop = Image.fromarray(image).crop((c[1], c[0], c[1] + e[1], c[0] + e[0]))
        wanted = TF.pil_to_tensor(crop.resize((SIZE, SIZE), Image.Resampling.BICUBIC)).float()
        assert (x - wanted).abs().max() <= 1.6  # Pillow rounds after the first axis, and at the end


@pytest.mark.parametrize("shape", [(256, 341), (300, 256), (32, 32), (375, 500)])
@pytest.mark.parametrize("size", [224, 56])
def test_the_test_view_is_resize_and_centre_crop_scaled_with_the_model(shape, size):
    image = smooth(shape)
    wanted = T.Compose([T.Resize(256 * size // 224, BICUBIC), T.CenterCrop(size), T.ToTensor()])(Image.fromarray(image))
    assert (render([image], CENTRE, size)[0] - wanted).abs().max() <= 2 / 255


def test_a_whole_image_of_the_models_size_is_shown_as_it_is():
    image = noisy((SIZE, SIZE))
    assert torch.equal(
        render([image], View(), SIZE)[0], torch.from_numpy(image.copy()).permute(2, 0, 1).float().div(255)
    )


@given(st.integers(1, 900), st.integers(1, 900), st.integers(1, 300))
def test_resized_shapes_are_torchvisions(height, width, shorter):
    wanted = TF._compute_resized_output_size((height, width), [shorter])
    assert resized(np.array([[height, width]]), shorter).tolist() == [wanted]


@given(st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400)), min_size=1, max_size=20), st.integers(0, 2**32))
def test_boxes_lie_within_their_images_and_are_the_generators_alone(shapes, seed):
    shapes = np.array(shapes)
    corner, extent = boxes(PROTOCOL, shapes, SIZE, np.random.default_rng(seed))
    assert (corner >= 0).all()
    assert (extent >= 1).all()
    assert (corner + extent <= shapes).all()
    again = boxes(PROTOCOL, shapes, SIZE, np.random.default_rng(seed))
    assert all(np.array_equal(a, b) for a, b in zip((corner, extent), again, strict=True))


@pytest.mark.parametrize("shape", [(224, 224), (224, 299), (1000, 224), (40, 300)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.05, 1.0), (0.7, 1.0)])
def test_area_boxes_come_from_torchvisions_distribution(shape, scale):
    n, view = 3000, View(crop="area", scale=scale)
    corner, extent = boxes(view, np.tile(shape, (n, 1)), SIZE, np.random.default_rng(1))
    ours = np.concatenate([corner, extent], 1)
    image = torch.zeros(1, *shape)
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(1)
        theirs = np.array([T.RandomResizedCrop.get_params(image, list(scale), list(view.ratio)) for _ in range(n)])
    for column, what in enumerate(("top", "left", "height", "width")):
        assert ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-4, what
    products = [boxes_[:, 2] * boxes_[:, 3] for boxes_ in (ours, theirs)]
    assert ks_2samp(*products).pvalue > 1e-4


def test_the_ratio_is_width_over_height():
    _, extent = boxes(
        View(crop="area", scale=(0.1, 0.2), ratio=(2, 3)), np.tile((200, 200), (99, 1)), SIZE, np.random.default_rng(0)
    )
    assert ((extent[:, 1] / extent[:, 0] > 1.9) & (extent[:, 1] / extent[:, 0] < 3.1)).all()


def test_an_image_does_not_depend_on_the_others_of_its_batch():
    images = [smooth(shape) for shape in SHAPES]
    whole = resized(np.array(SHAPES), 64)
    corner, extent = boxes(View(crop="area"), whole, 56, np.random.default_rng(0))
    together = resample(images, whole, corner, extent, 56, torch.device("cpu"))
    for i, x in enumerate(together):
        one = slice(i, i + 1)
        alone = resample(images[one], whole[one], corner[one], extent[one], 56, torch.device("cpu"))[0]
        assert (x - alone).abs().max() < 1e-2


def test_where_no_draw_fits_the_box_is_torchvisions_central_one():
    for shape in [(20, 500), (500, 20), (7, 90)]:
        view = View(crop="area", scale=(0.99, 1.0))
        wanted = T.RandomResizedCrop.get_params(torch.zeros(1, *shape), list(view.scale), list(view.ratio))
        corner, extent = boxes(view, np.array([shape]), SIZE, np.random.default_rng(0))
        assert [*corner[0], *extent[0]] == list(wanted)


def test_random_crops_are_uniform_over_all_positions():
    n, view = 6000, View(resize=256, crop="random")
    corner, extent = boxes(view, np.tile((5 + 56, 3 + 56), (n, 1)), 56, np.random.default_rng(2))
    assert (extent == 56).all()
    counts = np.zeros((6, 4), int)
    np.add.at(counts, tuple(corner.T), 1)
    assert chi2_contingency(np.stack([counts.ravel(), np.full(24, n // 24)])).pvalue > 1e-4


def test_half_of_the_images_are_mirrored_and_each_by_itself():
    image = noisy((8, 8))
    shown = render([image] * 1000, View(flip=True), 8, np.random.default_rng(3))
    mirrored = torch.tensor([torch.equal(x, shown[0].flip(2)) for x in shown])
    plain = torch.tensor([torch.equal(x, shown[0]) for x in shown])
    assert (mirrored ^ plain).all()
    assert abs(int(mirrored.sum()) - 500) < 5 * np.sqrt(250)
    runs = 1 + sum(bool(a != b) for a, b in itertools.pairwise(mirrored))
    assert abs(runs - 500) < 5 * np.sqrt(250)


def test_draws_do_not_depend_on_the_path_that_computes():
    image, rng = smooth((40, 60)), np.random.default_rng(5)
    whole = np.tile((40, 60), (6, 1))
    corner, extent = boxes(View(crop="area"), whole, 32, np.random.default_rng(5))
    ours = render([image] * 6, View(crop="area"), 32, rng)
    products = resample([image] * 6, whole, corner, extent, 32, torch.device("cpu")).div(255).clamp(0, 1)
    assert (ours - products).abs().max() <= 2 / 255


def test_a_random_view_without_generator_and_a_crop_larger_than_the_image_are_refused():
    with pytest.raises(ValueError, match="generator"):
        render([noisy((8, 8))], View(crop="area"), 8)
    with pytest.raises(ValueError, match="resize >= 224"):
        View(crop="centre", resize=200)


def test_one_channel_is_shown_as_three_and_normalised_per_channel():
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), np.uint8)
    part = Split(images, np.zeros(4, np.int64))
    data = Dataset("grey", ("a",), part, part, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0))
    x = model_inputs(images, data, 8)
    assert x.shape == (4, 3, 8, 8)
    for channel, (mean, std) in enumerate(zip(data.mean, data.std, strict=True)):
        np.testing.assert_allclose(x[:, channel], (images[..., 0] / 255 - mean) / std, atol=1e-6)


def test_ragged_images_come_back_as_they_were_and_are_not_copied():
    images = [noisy(shape) for shape in [(4, 6), (8, 3), (1, 1), (5, 5)]]
    ragged = Ragged.of(np.concatenate([i.ravel() for i in images]), np.array([i.shape for i in images]))
    assert len(ragged) == 4
    for chosen in ([2, 0, 0], [3], []):
        got = ragged[np.array(chosen, int)]
        assert [np.array_equal(a, images[i]) for a, i in zip(got, chosen, strict=True)] == [True] * len(chosen)
        assert all(np.shares_memory(a, ragged.pixels) for a in got)
    assert np.array_equal(ragged[1:3][np.array([1])][0], images[2])


def test_digest_changes_with_any_pixel_or_label_and_not_with_the_storage():
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), np.uint8)
    labels = np.arange(6)
    ragged = Ragged.of(images.ravel(), np.tile((4, 4, 3), (6, 1)))

    def sha(i, y):
        return Dataset("x", ("a",), Split(i, y), Split(i[:2], y[:2])).sha256()

    assert sha(images, labels) == sha(ragged, labels)
    changed = images.copy()
    changed[5, 3, 3, 2] ^= 1
    assert len({sha(images, labels), sha(changed, labels), sha(images, labels[::-1])}) == 3


def test_batches_that_are_rendered_together_are_those_rendered_alone():
    images = np.random.default_rng(0).integers(0, 256, (7, 40, 30, 3), np.uint8)
    for view in (View(resize=256, crop="random", flip=True), View(crop="area", flip=True), View()):
        alone, together = np.random.default_rng(1), np.random.default_rng(1)
        each = [render(images[i : i + 3], view, SIZE, alone) for i in range(0, 7, 3)]
        assert torch.equal(render(images, view, SIZE, together, batch=3), torch.cat(each))


@pytest.mark.parametrize("view", [
    View(), View(flip=True), View(resize=224, crop="centre"), View(resize=256, crop="centre"),
    View(resize=224, crop="random", flip=True), View(resize=256, crop="random"), View(crop="area", flip=True),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("side", [5, 8, 11])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_array_of_images_is_shown_as_the_same_images_one_by_one(view, side, channels):
    """Of an array, images with one box are resized all at once."""
    images = np.random.default_rng(0).integers(0, 256, (40, side, side, channels), np.uint8)
    together = render(images, view, 8, np.random.default_rng(1))
    assert together.is_contiguous()
    assert torch.equal(together, render(list(images), view, 8, np.random.default_rng(1)))
