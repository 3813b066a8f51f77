"""Every data set from small archives in its authors' own layout. No real file of theirs was seen."""

import io
import os
import pickle
import subprocess

import archives
import numpy as np
import pytest
from archives import encoded, picture, settings
from PIL import Image
from torchvision import transforms as T

from fcil.data import FAMILIES, Data, load
from fcil.data.decode import decoded
from fcil.data.family import File
from fcil.data.files import ensure
from fcil.errors import ConfigError

SIZE = 28
CLASSES = {
    "cifar100": ("apple", "aquarium_fish", "baby", "bear"),
    "imagenet-r": tuple(archives.WNIDS),
    "imagenet-a": tuple(archives.WNIDS),
    "cub200": ("Black footed Albatross", "Laysan Albatross"),
    "cars196": tuple(archives.CARS),
    "eurosat": ("AnnualCrop", "Forest"),
    "folder": ("cats", "dogs"),
}
LABELS = {
    "cifar100": ([0, 1, 2, 3] * 3, [0, 1, 2, 3] * 3),
    "imagenet-r": ([0] * 4 + [1] * 4 + [2] * 4, [0, 1, 2]),
    "imagenet-a": ([0] * 4 + [1] * 4 + [2] * 4, [0, 1, 2]),
    "cub200": ([0, 0, 1, 1], [0, 1]),
    "cars196": ([1, 0, 1], [0, 1]),
    "eurosat": ([0] * 4 + [1] * 4, [0, 1]),
    "folder": ([0] * 4 + [1] * 4, [0, 0, 1, 1]),
}


def everything(part):
    return part.images[np.arange(len(part))]


@pytest.mark.parametrize("name", archives.WRITE)
def test_archives_are_unpacked_listed_and_decoded(name, tmp_path):
    archives.WRITE[name](tmp_path)
    data = load(settings(name, tmp_path), SIZE)
    assert data.classes == CLASSES[name]
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == LABELS[name]
    assert len(data.train.images) == len(data.train)
    family = FAMILIES[name]
    if family.files:
        assert data.files.startswith("unofficial: MD5 of ")
        assert "images, not" in data.files
    for part, view in ((data.train, family.train_view), (data.test, family.test_view)):
        for image in everything(part):
            assert image.dtype == np.uint8
            assert min(image.shape[:2]) == (view.shorter(SIZE) if family.shrunk else {"cifar100": 32}.get(name, 64))


@pytest.mark.parametrize("name", archives.WRITE)
def test_a_loaded_set_needs_its_files_no_more_and_is_the_same(name, tmp_path):
    archives.WRITE[name](tmp_path)
    first = load(settings(name, tmp_path), SIZE)
    for path in tmp_path.iterdir():
        if path.name != "fcil-cache":
            path.rename(tmp_path.parent / f"{tmp_path.name}-{path.name}")
    again = load(settings(name, tmp_path), SIZE) if FAMILIES[name].files else first
    assert again.sha256() == first.sha256()
    assert again.classes == first.classes


def test_cifars_pixels_are_in_their_places(tmp_path):
    archives.cifar100(tmp_path)
    data = load(settings("cifar100", tmp_path), SIZE)
    for part, first in ((data.train, 0), (data.test, 12)):
        np.testing.assert_array_equal(part.images, np.stack([picture(first + i, (32, 32)) for i in range(12)]))


def test_stored_images_are_torchvisions_resize_of_the_file(tmp_path):
    archives.cub(tmp_path)
    data = load(settings("cub200", tmp_path), 56)
    files = sorted((tmp_path / "CUB_200_2011" / "images").rglob("*.jpg"))
    for image, i in zip(everything(data.train), (0, 1, 3, 4), strict=True):
        opened = Image.open(io.BytesIO(files[i].read_bytes())).convert("RGB")
        wanted = T.Resize(64, T.InterpolationMode.BICUBIC)(opened)
        np.testing.assert_array_equal(image, np.asarray(wanted))


def test_files_that_are_not_the_authors_are_refused_unless_admitted_and_nothing_is_left(tmp_path):
    archives.imagenet(tmp_path)
    with pytest.raises(ConfigError, match=r"not the official files: MD5 of imagenet-r.tar.*unofficial = true"):
        load(Data(name="imagenet-r", root=str(tmp_path)), SIZE)
    assert not list((tmp_path / "fcil-cache").glob("imagenet*"))
    assert not (tmp_path / "imagenet-r").exists()
    load(settings("imagenet-r", tmp_path), SIZE)
    (tmp_path / "imagenet-r.tar").unlink()  # nor by way of the unpacked folder and the cache
    with pytest.raises(ConfigError, match=r"3 classes, not 200; 15 images, not 30,000"):
        load(Data(name="imagenet-r", root=str(tmp_path)), SIZE)


@pytest.mark.parametrize("name", [n for n, f in FAMILIES.items() if f.files])
def test_missing_files_are_named_with_where_they_come_from(name, tmp_path):
    with pytest.raises(ConfigError) as error:
        load(Data(name=name, root=str(tmp_path)), SIZE)
    for file in FAMILIES[name].files:
        assert file.name in str(error.value)
        assert file.url in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_that_needs_a_folder_says_so():
    with pytest.raises(ConfigError, match=r"data.root: cars196 needs the folder .*car_devkit.tgz"):
        load(Data(name="cars196"), SIZE)


@pytest.mark.parametrize("payload", [os.system, subprocess.Popen, eval])
def test_a_pickle_that_asks_for_anything_else_builds_nothing(payload, tmp_path):
    class Evil:
        def __reduce__(self):
            return payload, (f"open({str(tmp_path / 'harm')!r}, 'w')" if payload is eval else f"touch {tmp_path}/harm",)

    (tmp_path / "cifar-100-python").mkdir()
    for name in ("meta", "train", "test"):
        (tmp_path / "cifar-100-python" / name).write_bytes(pickle.dumps({"fine_label_names": Evil()}, 2))
    with pytest.raises(ConfigError, match="which no CIFAR batch holds"):
        load(settings("cifar100", tmp_path), SIZE)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("absolute", [False, True])
def test_archives_cannot_write_outside_their_folder(absolute, tmp_path):
    import zipfile

    root, name = tmp_path / "root", str(tmp_path / "outside.jpg") if absolute else "../../outside.jpg"
    root.mkdir()
    with zipfile.ZipFile(root / "EuroSAT.zip", "w") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(ConfigError, match="leads out of its folder"):
        load(settings("eurosat", root), SIZE)
    archives.in_tar(root / "imagenet-r.tar", {name: b"x"}, "w")
    with pytest.raises(ConfigError):
        load(settings("imagenet-r", root), SIZE)
    assert not (tmp_path / "outside.jpg").exists()
    assert {p.name for p in root.iterdir()} <= {"EuroSAT.zip", "imagenet-r.tar", "fcil-cache"}


def test_damaged_archives_and_images_are_named(tmp_path):
    (tmp_path / "CUB_200_2011.tgz").write_bytes(b"\x1f\x8b no archive")
    with pytest.raises(ConfigError, match=r"CUB_200_2011.tgz: cannot be unpacked"):
        load(settings("cub200", tmp_path), SIZE)
    archives.folder(tmp_path)
    broken = tmp_path / "train" / "dogs" / "dogs_2.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(ConfigError, match=r"dogs_2.jpg: cannot be read as an image"):
        load(settings("folder", tmp_path), SIZE)
    assert not list((tmp_path / "fcil-cache").glob("*folder*"))


def test_test_classes_of_a_folder_must_be_training_classes(tmp_path):
    archives.folder(tmp_path)
    (tmp_path / "test" / "cats").rename(tmp_path / "test" / "birds")
    with pytest.raises(ConfigError, match="birds"):
        load(settings("folder", tmp_path), SIZE)


def test_png_palette_and_grey_images_are_read_as_three_channels(tmp_path):
    archives.folder(tmp_path)
    Image.fromarray(picture(0)[..., 0]).save(tmp_path / "train" / "cats" / "grey.png")
    Image.fromarray(picture(1)).quantize(8).save(tmp_path / "train" / "cats" / "palette.gif")
    assert {i.shape[2] for i in everything(load(settings("folder", tmp_path), SIZE).train)} == {3}


def test_images_come_in_order_whatever_the_number_of_threads(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(40)]
    for i, path in enumerate(paths):
        path.write_bytes(encoded(picture(i, (9, 9)), "PNG"))
    for threads in (1, 3):
        got = list(decoded(paths, 0, threads))
        np.testing.assert_array_equal(got, [picture(i, (9, 9)) for i in range(40)])


def test_a_checksum_inside_an_unpacked_folder_is_compared_where_the_archive_is_gone(tmp_path):
    import hashlib
    from dataclasses import replace

    (tmp_path / "it").mkdir()
    (tmp_path / "it" / "a").write_bytes(b"right")
    right = hashlib.md5(b"right").hexdigest()
    for digest, wrong in ((right, []), ("0" * 32, ["MD5 of it/a is not " + "0" * 32])):
        family = replace(FAMILIES["cifar100"], files=(File("it.tgz", "", "f" * 32, "it", {"a": digest}),))
        differences, checked = ensure(family, tmp_path, download=False, admit=True)
        assert (differences, checked) == (wrong, [] if wrong else ["it.tgz"])


def test_official_figures_are_those_of_the_papers():
    """Of the data sets' own pages; checksums as in torchvision and other public code, see docs/data.md."""
    figures = {
        "cifar100": (100, (50000, 10000), 10),
        "imagenet-r": (200, (30000,), 10),
        "imagenet-a": (200, (7500,), 10),
        "cub200": (200, (5994, 5794), 10),
        "cars196": (196, (8144, 8041), 10),
        "eurosat": (10, (27000,), 5),
        "fashion-mnist": (10, (60000, 10000), 5),
        "digits": (10, (1347, 450), 5),
    }
    assert {n: (f.classes, f.counts, f.tasks) for n, f in FAMILIES.items() if f.counts} == figures
    for family in FAMILIES.values():
        assert all(len(file.md5) == 32 and (not file.url or file.url.startswith("https://")) for file in family.files)
