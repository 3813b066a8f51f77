"""Images of a user's own: unusual files are read right, what is odd is named, and a wrong folder is answered."""

import shutil
import subprocess
import sys

import archives
import numpy as np
import pytest
from archives import encoded, picture, settings
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fcil.cli.main import main
from fcil.config import from_table
from fcil.data import Data, load
from fcil.data.dataset import Split, first_of_each
from fcil.data.decode import decode
from fcil.data.sites import load_sites
from fcil.errors import ConfigError

SIZE = 28
PIXELS = picture(3, (20, 12))
GREY = PIXELS[..., 0]


def read(tmp_path, image, kind="PNG", **how):
    path = tmp_path / f"image.{kind.lower()}"
    image.save(path, kind, **how)
    return decode(path, 0, own=True)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_camera_says(tmp_path, orientation):
    turned = {
        1: PIXELS, 2: PIXELS[:, ::-1], 3: PIXELS[::-1, ::-1], 4: PIXELS[::-1], 5: PIXELS.transpose(1, 0, 2),
        6: PIXELS.transpose(1, 0, 2)[:, ::-1], 7: PIXELS.transpose(1, 0, 2)[::-1, ::-1],
        8: PIXELS.transpose(1, 0, 2)[::-1],
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(read(tmp_path, Image.fromarray(PIXELS), exif=exif), turned[orientation])
    assert decode(tmp_path / "image.png", 0).shape == PIXELS.shape, "published sets are read as public code does"


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_brought_to_eight(tmp_path, kind):
    values = np.linspace(0, 65535, 240).astype(np.uint16).reshape(20, 12)
    wanted = np.rint(values / 257)
    got = read(tmp_path, Image.fromarray(values), kind)
    np.testing.assert_array_equal(got, np.repeat(wanted[..., None], 3, 2))


def test_grey_and_palette_images_have_their_colours(tmp_path):
    np.testing.assert_array_equal(read(tmp_path, Image.fromarray(GREY)), np.repeat(GREY[..., None], 3, 2))
    palette = Image.fromarray(PIXELS).quantize(8)
    np.testing.assert_array_equal(read(tmp_path, palette), np.asarray(palette.convert("RGB")))
    bits = Image.fromarray(GREY).convert("1")
    np.testing.assert_array_equal(read(tmp_path, bits)[..., 1], np.asarray(bits) * 255)


def test_what_is_transparent_is_white_and_the_rest_is_blended(tmp_path):
    alpha = np.linspace(0, 255, 240).astype(np.uint8).reshape(20, 12)
    wanted = 255 + (PIXELS.astype(float) - 255) * alpha[..., None] / 255
    with_alpha = Image.fromarray(np.dstack([PIXELS, alpha]))
    assert np.abs(read(tmp_path, with_alpha) - wanted).max() <= 1
    grey = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)])
    assert np.abs(read(tmp_path, grey)[..., 2] - (255 + (GREY.astype(float) - 255) * alpha / 255)).max() <= 1
    palette = Image.fromarray((np.arange(240) % 4).astype(np.uint8).reshape(20, 12)).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    got = read(tmp_path, palette, transparency=2)
    clear = np.asarray(palette) == 2
    assert (got[clear] == 255).all()
    np.testing.assert_array_equal(got[~clear], np.asarray(palette.convert("RGB"))[~clear])


def test_values_that_no_image_has_are_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "floats.tiff")
    with pytest.raises(ConfigError, match=r"floats.tiff: .*neither of 8 nor of 16 bits"):
        decode(tmp_path / "floats.tiff", 0, own=True)


def test_an_image_too_long_for_memory_is_refused_where_a_crop_would_enlarge_it(tmp_path):
    Image.new("RGB", (30_000, 2)).save(tmp_path / "line.png")
    with pytest.raises(ConfigError, match=r"line.png: 30000 x 2 .*would be 3,840,000 x 256; .*data.view = \"whole\""):
        decode(tmp_path / "line.png", 256, own=True)
    assert decode(tmp_path / "line.png", (28, 28), own=True).shape == (28, 28, 3)


def test_large_images_and_odd_metadata_are_read_without_a_warning(tmp_path):
    Image.new("1", (9_500, 9_500)).save(tmp_path / "large.png")
    Image.new("L", (9, 9)).save(tmp_path / "odd.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    code = "import sys, pathlib, fcil.data.decode as d; [d.decode(pathlib.Path(p), 28, own=True) for p in sys.argv[1:]]"
    command = [sys.executable, "-c", code, str(tmp_path / "large.png"), str(tmp_path / "odd.jpg")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # where no test changes what warnings do
    assert done.stderr == ""


def test_what_is_odd_is_named_in_one_line_each(tmp_path, capsys):
    archives.folder(tmp_path)
    (tmp_path / "train" / "birds").mkdir()
    (tmp_path / "train" / "cows").mkdir()
    (tmp_path / "train" / "cows" / "a.png").write_bytes(encoded(picture(5), "PNG"))
    (tmp_path / "test" / "dogs" / "dot.png").write_bytes(encoded(picture(5, (4, 6)), "PNG"))
    assert main(["data", "prepare", "folder", "--root", str(tmp_path), "--size", "28"]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert [note.split(":")[1].split(" (")[0].strip() for note in notes] == [
        "no images in train/birds", "no test images of cows",
        "2 of 9 training images are at least twice as long as wide",
        "2 of 9 training images are smaller than the model's 28 pixels and are enlarged",
        "1 of 5 test images are at least twice as long as wide",
        "2 of 5 test images are smaller than the model's 28 pixels and are enlarged",
    ]  # fmt: skip
    assert "dogs/dot.png, 6 x 4" in notes[-1]
    whole = load(settings("folder", tmp_path, view="whole"), SIZE)
    assert not any("wide" in remark for remark in whole.remarks), "nothing is cut off there"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("right/train", "Did you mean {}/right"),
        ("right/train/cats", "data.root"),
        ("rihgt", "Did you mean {}/right"),
        ("", "Did you mean {}/right"),
    ],
)
def test_a_wrong_root_leaves_nothing_behind_and_is_answered_with_a_guess(tmp_path, capsys, given, message):
    archives.folder(tmp_path / "right")
    before = sorted(tmp_path.rglob("*"))
    assert main(["data", "prepare", "folder", "--root", str(tmp_path / given)]) == 2
    assert message.format(tmp_path) in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_is_nearly_right_is_answered_with_what_it_lacks(tmp_path):
    for name in ("fork", "ring"):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.fromarray(PIXELS).save(tmp_path / "train" / name / "1.png")
    with pytest.raises(ConfigError, match=r'holds no test/ and no val/ .*"imagefolder" with data.root = ".*train"'):
        load(settings("folder", tmp_path), SIZE)
    shutil.copytree(tmp_path / "train", tmp_path / "test")
    (tmp_path / "train" / "ring" / "1.png").unlink()
    with pytest.raises(ConfigError, match="test has images of ring, and train/ has such folders without any"):
        load(settings("folder", tmp_path), SIZE)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("Train", "Test"), "rename Test/ to test/, Train/ to train/"),
        (("train", "valid"), "rename valid/ to val/"),
        (("training", "testing", "dev"), "rename dev/ to val/, testing/ to test/, training/ to train/"),
    ],
)
def test_parts_of_other_names_are_answered_with_those_that_are_read(tmp_path, names, message):
    archives.folder(tmp_path / "made")
    for name in names:
        shutil.copytree(tmp_path / "made" / "train", tmp_path / "root" / name)
    with pytest.raises(ConfigError, match=message):
        load(settings("folder", tmp_path / "root"), SIZE)


def test_a_part_that_is_not_read_is_told(tmp_path):
    archives.folder(tmp_path)
    shutil.copytree(tmp_path / "test", tmp_path / "valid")
    assert "to have it read, rename valid/ to val/" in load(settings("folder", tmp_path), SIZE).remarks


def test_hidden_files_are_no_images(tmp_path):
    archives.folder(tmp_path)
    before = len(load(settings("folder", tmp_path), SIZE).train)
    (tmp_path / "train" / "cats" / "._1.png").write_bytes(b"what a Mac keeps of a file, in an archive that it packed")
    assert len(load(settings("folder", tmp_path), SIZE).train) == before


def test_the_unpacked_folder_of_a_published_set_is_not_its_root(tmp_path):
    archives.cub(tmp_path)
    (tmp_path / "CUB_200_2011").mkdir()
    with pytest.raises(ConfigError, match=f"Did you mean {tmp_path}"):
        load(settings("cub200", tmp_path / "CUB_200_2011"), SIZE)


def test_prepare_makes_what_each_row_of_a_config_needs(tmp_path, capsys):
    archives.folder(tmp_path / "images")
    config = tmp_path / "study.toml"
    config.write_text(f"""
data = {{name = "folder", root = "{tmp_path}/images"}}
model = {{image_size = 28}}
[compare.lorm]
[compare.fedavg]
[compare.large]
model = {{image_size = 56}}
method = {{name = "fedavg"}}
""")
    assert main(["data", "prepare", str(config), "--view", "whole"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition("for models of ")[2] for line in lines if "classes" in line] == ["28 px", "56 px"]
    made = {path.name.rpartition("-")[0] for path in (tmp_path / "images" / "fcil-cache").iterdir() if path.is_dir()}
    assert made == {f"folder-{part}-{side}" for part in ("train", "test") for side in ("28x28", "56x56")}


@given(st.lists(st.integers(0, 4), max_size=30), st.integers(1, 5))
def test_the_first_of_each_class_are_chosen(labels, count):
    seen, wanted = {}, []
    for i, label in enumerate(labels):
        seen[label] = seen.get(label, 0) + 1
        if seen[label] <= count:
            wanted.append(i)
    assert first_of_each(np.array(labels, np.int64), count).tolist() == wanted


def test_a_limit_by_class_keeps_every_class_and_has_a_hash_of_its_own(tmp_path):
    archives.folder(tmp_path)
    chosen = load(settings("folder", tmp_path, train_per_class=2, test_per_class=1), SIZE)
    assert chosen.train.labels.tolist() == [0, 0, 1, 1]
    assert chosen.test.labels.tolist() == [0, 1]
    whole = load(settings("folder", tmp_path), SIZE)
    for ours, i in zip(range(4), (0, 1, 4, 5), strict=True):
        np.testing.assert_array_equal(chosen.train.images[np.array([ours])][0], whole.train.images[np.array([i])][0])
    other = load(settings("folder", tmp_path, train_per_class=3), SIZE)
    assert len({chosen.sha256(), whole.sha256(), other.sha256()}) == 3
    with pytest.raises(ConfigError, match=r"data.train_limit = 2: .*leave one of the two out"):
        Data(train_limit=2, train_per_class=2)


def test_a_part_without_a_hash_is_cut_by_class_too():
    part = Split(np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1), np.array([0, 0, 0, 1, 1, 1]), domains=np.arange(6))
    assert part.first_of_each(1).labels.tolist() == [0, 1]
    assert part.first_of_each(1).domains.tolist() == [0, 3]
    assert part.first_of_each(0) is part


def test_accuracy_may_be_measured_on_the_validation_part(tmp_path):
    archives.folder(tmp_path)
    with pytest.raises(ConfigError, match=r"folder has no validation part of its own; data.held_out"):
        load(settings("folder", tmp_path, evaluate_on="validation"), SIZE)
    for name in ("cats", "dogs"):
        (tmp_path / "val" / name).mkdir(parents=True)
    (tmp_path / "val" / "dogs" / "a.png").write_bytes(encoded(picture(50, (30, 30)), "PNG"))
    data = load(settings("folder", tmp_path, evaluate_on="validation"), SIZE)
    assert (data.test.labels.tolist(), len(data.train)) == ([1], 8)
    assert data.files == "the validation part in place of the test part"
    plain = load(settings("folder", tmp_path), SIZE)
    assert (len(plain.test), plain.files) == (4, "")
    assert plain.sha256() != data.sha256()
    with pytest.raises(ConfigError, match="leave one of the two out"):
        Data(evaluate_on="validation", held_out=0.1)
    (tmp_path / "test").rename(tmp_path / "tests")
    instead = load(settings("folder", tmp_path), SIZE)
    assert len(instead.test) == 1
    assert "there is no test/: val/ takes its place" in instead.remarks


def test_limits_and_held_out_images_hold_at_each_site(tmp_path):
    for i, name in enumerate("ab"):
        archives.folder(tmp_path / name)
        more = tmp_path / name / "train" / "cats" / "more.png"
        more.write_bytes(encoded(picture(70 + i), "PNG"))
    table = {"name": "folder", "sites": [str(tmp_path / "a"), str(tmp_path / "b")]}

    def sites(**settings):
        config = from_table([("table", {"data": {**table, **settings}, "partition": {"kind": "sites"}})])
        return load_sites(config.data, SIZE)

    assert np.bincount(sites(train_per_class=2).train.labels).tolist() == [4, 4]
    held = sites(held_out=0.25)
    assert (np.bincount(held.train.labels).tolist(), np.bincount(held.test.labels).tolist()) == ([8, 6], [2, 2])
    assert len(held.train.images[np.arange(14)]) == 14
    assert [remark.partition(":")[0] for remark in held.remarks] == ["site 0"] * 4 + ["site 1"] * 4


def test_download_is_refused_where_images_lie_at_sites(tmp_path, capsys):
    config = tmp_path / "sites.toml"
    config.write_text(f'data = {{name = "folder", sites = ["{tmp_path}/a"]}}\npartition = {{kind = "sites"}}\n')
    assert main(["data", "prepare", str(config), "--download"]) == 2
    assert "--download: " in (told := capsys.readouterr().err)
    assert "data.sites" in told
