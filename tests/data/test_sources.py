"""Data sets that are named by where they come from, each in its own format, written here."""

import csv
import itertools
import struct
from pathlib import Path

import archives
import numpy as np
import pytest
from archives import encoded, picture
from hypothesis import given
from hypothesis import strategies as st

from fcil.cli.main import main
from fcil.config import from_table
from fcil.data import Data, family, load
from fcil.data.families.hub import _check_local
from fcil.data.families.table import _full, _images
from fcil.data.labelled import Lazy, Rows, listing_of, named_parts, under_one_numbering
from fcil.data.sites import load_sites, of_site
from fcil.errors import ConfigError

SIZE = 28
SQUARE = (32, 32)


def loaded(name, root, **settings):
    return load(Data(name=name, root=str(root), **settings), SIZE)


def images_of(part):
    return list(part.images[np.arange(len(part))])


def write_table(root, rows, name="labels.csv", head=("path", "label", "split", "domain")):
    """A table and the images that its first column names, picture i in row i."""
    root.mkdir(parents=True, exist_ok=True)
    for i, row in enumerate(rows):
        (root / row[0]).parent.mkdir(parents=True, exist_ok=True)
        (root / row[0]).write_bytes(encoded(picture(i, SQUARE), "PNG"))
    with open(root / name, "w", newline="") as file:
        csv.writer(file, delimiter="\t" if name.endswith(".tsv") else ",").writerows([head[: len(rows[0])], *rows])


ROWS = [
    (
        f"images/{i}.png",
        ("owl, barn", "ant")[i % 2],
        ("train", "train", "Test", "val")[i // 2],
        ("day", "night")[i // 4],
    )
    for i in range(8)
]


@pytest.mark.parametrize("name", ["labels.csv", "labels.tsv"])
def test_a_table_has_its_parts_labels_and_domains(tmp_path, name):
    write_table(tmp_path, ROWS, name)
    data = loaded(f"table:{name}", tmp_path)
    assert data.classes == ("ant", "owl, barn")
    assert data.domains == ("day", "night")
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([1, 0, 1, 0], [1, 0])
    assert (data.train.domains.tolist(), data.test.domains.tolist()) == ([0, 0, 0, 0], [1, 1])
    for image, i in zip([*images_of(data.train), *images_of(data.test)], range(6), strict=True):
        assert np.abs(image.astype(int) - picture(i, SQUARE)).max() <= 0
    assert data.files.startswith(f"{name}, sha256 ")
    assert loaded(f"table:{name}", tmp_path, evaluate_on="validation").test.labels.tolist() == [1, 0]


def test_a_table_is_read_again_where_it_or_an_image_changed(tmp_path, capsys):
    write_table(tmp_path, ROWS)
    first = loaded("table:labels.csv", tmp_path)
    assert loaded("table:labels.csv", tmp_path).sha256() == first.sha256()
    (tmp_path / "images/0.png").write_bytes(encoded(picture(99, SQUARE), "PNG"))
    assert loaded("table:labels.csv", tmp_path).sha256() != first.sha256()
    assert "made again: content changed" in capsys.readouterr().err


def test_a_table_may_name_images_by_their_whole_path_and_beside_its_folder(tmp_path):
    write_table(tmp_path / "images", [("a.png", "x"), ("b.png", "x")])
    (tmp_path / "lists").mkdir()
    rows = f"path,label,split\n{tmp_path}/images/a.png,x,train\n../images/b.png,x,test\n"
    (tmp_path / "lists" / "labels.csv").write_text(rows)
    data = loaded("table:lists/labels.csv", tmp_path)
    assert (len(data.train), len(data.test)) == (1, 1)
    assert loaded("table:labels.csv", tmp_path / "lists").sha256() == data.sha256()


def test_columns_of_other_names_are_named_and_a_column_may_be_passed_over(tmp_path):
    write_table(tmp_path, ROWS, head=("photo", "species", "part", "domain"))
    with pytest.raises(ConfigError, match=r"no column for the image\. Name it, data\.columns = \[\"image=NAME\"\]"):
        loaded("table:labels.csv", tmp_path)
    columns = ("image=photo", "label=species", "domain=")
    data = loaded("table:labels.csv", tmp_path, columns=columns)
    assert (len(data.train), data.train.domains, data.domains) == (4, None, ())
    for wrong, message in (("image=foto", "Did you mean 'photo'"), ("images=photo", "Did you mean 'image'")):
        with pytest.raises(ConfigError, match=message):
            loaded("table:labels.csv", tmp_path, columns=(wrong, "label=species"))


def test_without_parts_a_fifth_of_each_class_is_drawn_for_tests_and_numbers_are_sorted_as_numbers(tmp_path):
    write_table(tmp_path, [(f"{i}.png", str(10 * (i % 2) + 1)) for i in range(20)])
    data, other = (loaded("table:labels.csv", tmp_path, split_seed=seed) for seed in (0, 1))
    assert data.classes == ("1", "11")
    assert (np.bincount(data.train.labels).tolist(), np.bincount(data.test.labels).tolist()) == ([8, 8], [2, 2])
    assert "80/20 within each class by seed 0, sha256 " in data.files
    assert data.sha256() != other.sha256()
    seen = {image.tobytes() for part in (data.train, data.test) for image in images_of(part)}
    assert len(seen) == 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\n", "has no rows below"),
        ("path;label\na.png;x\n", "separated by semicolons, those of a .csv file are by commas"),
        ("path,label\na.png,x\nb.png\n", "row 3 has 1 values, and there are 2 columns"),
        (
            "path,label\na.png,x\nmissing.png,y\n",
            r"1 of its 2 images are not there, the first is 'missing.png' \(row 3\)",
        ),
        ("path,label\na.png,\n", "row 2 has no label"),
        ("path,file,label\na.png,a.png,x\n", "several columns may hold the image: path, file"),
        ("path,label\na.png,x\na.png,y\n", "row 3 names 'a.png' a second time"),
        ("path,label,split\na.png,x,trian\n", "column 'split' has trian; a part is train, test or validation"),
        ("path,label,split\na.png,x,test\n", "has no training part; it has test"),
        ("path,label,split\na.png,x,train\nb.png,y,test\n", "its test part has classes that are not in training: y"),
    ],
)
def test_what_is_wrong_with_a_table_is_named_and_nothing_is_left_behind(tmp_path, text, message):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(encoded(picture(0, SQUARE), "PNG"))
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ConfigError, match=message):
        loaded("table:labels.csv", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "b.png", "labels.csv"}


def test_files_that_are_not_there_or_of_another_kind_are_named(tmp_path):
    write_table(tmp_path / "right", ROWS)
    with pytest.raises(ConfigError, match=f"does not hold it. Did you mean {tmp_path}/right"):
        loaded("table:labels.csv", tmp_path)
    (tmp_path / "labels.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"a table must be a \.csv, \.tsv or \.parquet file"):
        loaded("table:labels.txt", tmp_path)


@pytest.mark.parametrize("names", [("{}_images", "{}_labels"), ("x_{}", "y_{}")])
def test_arrays_have_their_parts(tmp_path, names):
    rng, content = np.random.default_rng(0), {}
    for part, count in (("train", 6), ("test", 4), ("val", 2)):
        content[names[0].format(part)] = rng.integers(0, 256, (count, 12, 10), np.uint8)
        content[names[1].format(part)] = np.arange(count).reshape(-1, 1) % 2
    np.savez_compressed(tmp_path / "some.npz", **content)
    data = loaded("npz:some.npz", tmp_path)
    assert (data.classes, data.train.images.shape) == (("0", "1"), (6, 12, 10, 1))
    np.testing.assert_array_equal(data.train.images[..., 0], content[names[0].format("train")])
    assert data.test.labels.tolist() == [0, 1, 0, 1]
    assert len(loaded("npz:some.npz", tmp_path, evaluate_on="validation").test) == 2


def test_arrays_alone_are_split_and_may_name_classes_and_domains(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), np.uint8)
    told = {"classes": np.array(["zebra", "ape"]), "domains": np.array(["x", "y"])[np.arange(10) // 5]}
    np.savez(tmp_path / "a.npz", images=pixels, labels=np.arange(10) % 2, **told)
    data = loaded("npz:a.npz", tmp_path)
    assert (data.classes, data.domains) == (("zebra", "ape"), ("x", "y"))
    assert (len(data.train), len(data.test)) == (8, 2)
    for part in (data.train, data.test):
        for image, label, domain in zip(part.images, part.labels, part.domains, strict=True):
            place = int(np.flatnonzero((pixels == image).all((1, 2, 3)))[0])
            assert (label, domain) == (place % 2, place // 5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"images": np.zeros((2, 4, 4)), "labels": np.arange(2)},
            r"images is float64 \(2, 4, 4\); images must be uint8",
        ),
        ({"images": np.zeros((2, 4, 4), np.uint8)}, "has images and no labels"),
        ({"x": np.zeros(2)}, "has x; it must hold"),
        (
            {"images": np.zeros((2, 4, 4), np.uint8), "labels": np.arange(3)},
            "a whole number or a name for each of 2 images",
        ),
        (
            {"images": np.zeros((2, 4, 4), np.uint8), "labels": np.array([0, 2]), "classes": np.array(["a", "b"])},
            "labels from 0 to 2, and classes go from 0 to 1",
        ),
        (
            {"images": np.zeros((2, 4, 4), np.uint8), "labels": np.array(["a", "b"]), "classes": np.array(["a", "b"])},
            "labels must be their numbers",
        ),
        ({"images": np.array([{}], object)}, "cannot be read as an .npz file of plain arrays"),
    ],
)
def test_arrays_of_another_form_are_refused(tmp_path, content, message):
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(ConfigError, match=message):
        loaded("npz:a.npz", tmp_path)


def test_class_folders_are_split_and_parts_of_a_folder_are_not_taken_for_classes(tmp_path):
    archives.folder(tmp_path / "both")
    (tmp_path / "both" / "train" / "fcil").mkdir()
    with pytest.raises(ConfigError, match=r'is one part of .*both; data.name = "folder"'):
        loaded("imagefolder", tmp_path / "both" / "train")
    with pytest.raises(ConfigError, match=r'holds test, train: data.name = "folder"'):
        loaded("imagefolder", tmp_path / "both")
    with pytest.raises(ConfigError, match=f"Did you mean {tmp_path}/both/test"):
        loaded("imagefolder", tmp_path / "both" / "test" / "cats")
    (tmp_path / "both" / "train").rename(tmp_path / "alone")
    data = loaded("imagefolder", tmp_path / "alone")
    assert data.classes == ("cats", "dogs")
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([0, 0, 0, 1, 1, 1], [0, 1])
    assert "no images in fcil: left out" in data.remarks
    assert loaded("imagefolder", tmp_path / "alone").sha256() == data.sha256()


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    head = bytes([0, 0, 8, array.ndim]) + b"".join(struct.pack(">i", n) for n in array.shape)
    path.write_bytes(head + array.astype(np.uint8).tobytes())


def write_dtd(root):
    """The Describable Textures in torchvision's layout: three parts, by lists of files."""
    folder = root / "dtd" / "dtd"
    for name, seed in (("banded", 0), ("dotted", 10)):
        for i in range(6):
            path = folder / "images" / name / f"{name}_{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(picture(seed + i, (30, 60) if i else SQUARE)))
    (folder / "labels").mkdir()
    for k, part in enumerate(("train", "val", "test")):
        lines = [f"{name}/{name}_{i}.jpg\n" for name in ("banded", "dotted") for i in (2 * k, 2 * k + 1)]
        (folder / "labels" / f"{part}1.txt").write_text("".join(lines))


def test_a_set_of_torchvision_with_train_and_test(tmp_path):
    pixels = {part: np.random.default_rng(0).integers(0, 256, (n, 28, 28)) for part, n in (("train", 12), ("t10k", 6))}
    for part, images in pixels.items():
        write_idx(tmp_path / "MNIST/raw" / f"{part}-images-idx3-ubyte", images)
        write_idx(tmp_path / "MNIST/raw" / f"{part}-labels-idx1-ubyte", np.arange(len(images)) % 3)
    data = loaded("torchvision:MNIST", tmp_path, view="whole")
    assert (data.classes[2], len(data.classes)) == ("2 - two", 10)
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([0, 1, 2] * 4, [0, 1, 2] * 2)
    np.testing.assert_array_equal(data.test.images[..., 1], pixels["t10k"])
    assert data.files.startswith("torchvision:MNIST by torchvision ")


def test_a_set_of_torchvision_with_named_parts_and_arguments(tmp_path):
    write_dtd(tmp_path)
    data = loaded("torchvision:DTD", tmp_path)
    assert (data.classes, data.train.labels.tolist()) == (("banded", "dotted"), [0, 0, 1, 1])
    assert len(loaded("torchvision:DTD(partition = 1)", tmp_path, evaluate_on="validation").test) == 4
    with pytest.raises(ConfigError, match=r"prepare 'torchvision:DTD' --root .* --download"):
        loaded("torchvision:DTD(partition = 2)", tmp_path)


def test_a_set_of_torchvision_without_parts_is_split(tmp_path):
    folder = tmp_path / "caltech101"
    for name in ("anchor", "crab"):
        for i in range(1, 6):
            path = folder / "101_ObjectCategories" / name / f"image_{i:04d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(picture(i)))
    for empty in ("101_ObjectCategories/BACKGROUND_Google", "Annotations"):
        (folder / empty).mkdir()
    data = loaded("torchvision:Caltech101", tmp_path)
    assert (data.classes, data.train.labels.tolist()) == (("anchor", "crab"), [0] * 4 + [1] * 4)
    assert data.test.labels.tolist() == [0, 1]
    assert "80/20 within each class by seed 0" in data.files


def test_labels_that_a_set_keeps_otherwise_are_read_one_by_one(tmp_path, monkeypatch):
    """Where what a set keeps does not agree with what it yields, nothing but the latter counts."""
    from torchvision.datasets import DTD

    write_dtd(tmp_path)
    monkeypatch.setattr(DTD, "targets", [1, 1, 1, 1], raising=False)
    monkeypatch.setattr(DTD, "labels", property(lambda self: [7] * len(self)), raising=False)
    original = DTD.__getitem__
    monkeypatch.setattr(DTD, "__getitem__", lambda self, i: (original(self, i)[0], 1 - original(self, i)[1]))
    assert loaded("torchvision:DTD", tmp_path).train.labels.tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:Flower102", "Did you mean 'Flowers102'"),
        ("torchvision:ImageFolder", 'For images of your own, data.name = "imagefolder"'),
        ("torchvision:DTD(root = 1)", "root is not to be given"),
        ("torchvision:DTD(partitions = 1)", "its arguments are split, partition"),
        ("torchvision:EMNIST(split = 'letter')", "Valid values are .*letters"),
        ("torchvision:DTD(partition", "write NAME"),
        ("torchvison:DTD", "Did you mean 'torchvision'"),
        ("npz:", "write what to read behind the colon, npz:FILE"),
    ],
)
def test_names_that_say_nothing_are_refused(tmp_path, name, message):
    with pytest.raises(ConfigError, match=message):
        loaded(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_missing_sets_are_fetched_only_where_that_is_asked_for(tmp_path, monkeypatch, capsys):
    from torchvision.datasets import DTD

    fetched = []

    def download(self):
        fetched.append(self._split)
        if not (tmp_path / "dtd").exists():
            write_dtd(tmp_path)

    monkeypatch.setattr(DTD, "_download", download)
    order = ["data", "prepare", "torchvision:DTD", "--root", str(tmp_path), "--size", "28"]
    assert main(order) == 2
    assert fetched == []
    assert list(tmp_path.iterdir()) == []
    assert main([*order, "--download"]) == 0
    assert sorted(fetched) == ["test", "train", "val"]
    assert "torchvision:DTD: 2 classes, 4 training and 4 test images" in capsys.readouterr().out


def test_what_could_not_be_fetched_is_not_answered_with_the_same_command(tmp_path, monkeypatch, capsys):
    from torchvision.datasets import DTD

    def download(self):
        raise OSError("no connection")

    monkeypatch.setattr(DTD, "_download", download)
    assert main(["data", "prepare", "torchvision:DTD", "--root", str(tmp_path / "new"), "--download"]) == 2
    error = capsys.readouterr().err
    assert "could not fetch it" in error
    assert "no connection" in error
    assert "--download" not in error
    assert list(tmp_path.iterdir()) == []


def test_the_list_names_the_sources(capsys):
    assert main(["data", "list"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("torchvision:", "hf:NAME", "table:FILE", "npz:FILE", "imagefolder"))


def test_sites_may_have_tables(tmp_path):
    for i, site in enumerate("ab"):
        rows = [(f"{site}{k}.png", name, part) for k, (name, part) in enumerate([("x", "train"), ("x", "test")])]
        write_table(tmp_path / site, [*rows, (f"{site}9.png", f"only {site}", "train")])
        (tmp_path / site / f"{site}9.png").write_bytes(encoded(picture(40 + i, SQUARE), "PNG"))
        (tmp_path / site / f"{site}0.png").write_bytes(encoded(picture(50 + i, SQUARE), "PNG"))
    settings = {"name": "table:labels.csv", "sites": [str(tmp_path / s) for s in "ab"]}
    config = from_table([("table", {"data": settings, "partition": {"kind": "sites"}})])
    data = load_sites(config.data, SIZE)
    assert data.classes == ("only a", "only b", "x")
    assert (data.train.labels.tolist(), data.train.owners.tolist()) == ([0, 1, 2, 2], [0, 1, 0, 1])


NUMBERS = ("10", "9", "2", "100")


@pytest.mark.parametrize("name", ["folder", "imagefolder", "table:labels.csv", "sites", "other words"])
def test_classes_named_by_numbers_are_sorted_as_numbers_wherever_they_lie(tmp_path, name):
    words = (*NUMBERS, "cat") if name == "other words" else NUMBERS
    parts = ["train/", "test/"] if name != "imagefolder" else [""]
    for i, (word, part) in enumerate(itertools.product(words, parts)):
        for k in range(2):
            path = tmp_path / f"{part}{word}/{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(picture(10 * i + k, SQUARE), "PNG"))
    if name.startswith("table"):
        rows = [f"{part}{word}/{k}.png,{word},{part[:-1]}" for word in words for part in parts for k in range(2)]
        (tmp_path / "labels.csv").write_text("\n".join(["path,label,split", *rows]))
    if name == "sites":
        data = load_sites(Data(name="folder", sites=(str(tmp_path),)), SIZE)
    else:
        data = loaded("folder" if name == "other words" else name, tmp_path)
    assert data.classes == (tuple(sorted(words)) if name == "other words" else ("2", "9", "10", "100"))


def test_sites_tell_the_domains_of_their_images_or_say_that_some_do_not(tmp_path):
    held = {"a": ["9", "10"], "b": ["10", "11"]}
    for i, (site, domains) in enumerate(held.items()):
        rows = [(f"{site}{k}.png", f"class {k % 2}", "train", domain) for k, domain in enumerate(domains)]
        write_table(tmp_path / site, [*rows, (f"{site}t.png", "class 0", "test", domains[1])])
        for k, row in enumerate(sorted((tmp_path / site).glob("*.png"))):
            row.write_bytes(encoded(picture(20 * i + k, SQUARE), "PNG"))
    settings = Data(name="table:labels.csv", sites=tuple(str(tmp_path / site) for site in held))
    data = load_sites(settings, SIZE)
    assert data.domains == ("9", "10", "11")
    for part in (data.train, data.test):
        for owner, label, domain in zip(part.owners, part.labels, part.domains, strict=True):
            place = label if part is data.train else 1
            assert data.domains[domain] == held["ab"[owner]][place]
    assert of_site(data, 1).train.domains.tolist() == [1, 2]
    table = (tmp_path / "b" / "labels.csv").read_text().splitlines()
    (tmp_path / "b" / "labels.csv").write_text("\n".join(line.rpartition(",")[0] for line in table))
    data = load_sites(settings, SIZE)
    assert (data.domains, data.train.domains) == ((), None)
    assert data.remarks[-1] == "site 1: no domains of images, so that those of others are not used"


def test_one_shared_cache_holds_sets_of_equal_names_apart(tmp_path):
    for name, seed in (("a", 0), ("b", 7)):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "x.npz", images=np.full((4, 5, 5), seed, np.uint8), labels=np.arange(4) % 2)
    shared = str(tmp_path / "cache")
    hashes = {loaded("npz:x.npz", tmp_path / name, cache=shared).sha256() for name in "ab"}
    assert len(hashes) == 2
    assert loaded("npz:x.npz", tmp_path / "a", cache=shared).sha256() in hashes


@given(st.lists(st.integers(), max_size=20), st.slices(20), st.integers(-25, 25))
def test_a_lazy_sequence_is_the_list_of_its_items(items, part, place):
    lazy = Lazy(len(items), lambda i: items[i])
    assert list(lazy) == items
    assert list(lazy[part]) == items[part]
    if -len(items) <= place < len(items):
        assert lazy[place] == items[place]
    else:
        with pytest.raises(IndexError):
            lazy[place]


def test_a_server_has_test_images_only_and_its_sites_training_images_only():
    rows = Rows([Path("a.png")], ["x"])
    for part in ("train", "test"):
        listing = listing_of({part: rows}, Data(name="table:x.csv", test_at="server"), "here")
        assert (len(listing.train), len(listing.test)) == ((1, 0) if part == "train" else (0, 1))
    telling = Rows([Path("b.png")], ["x"], ["sea"])
    with pytest.raises(ConfigError, match="only its test part tells domains"):
        listing_of({"train": rows, "test": telling}, Data(name="table:x.csv"), "here")


def test_a_family_is_described_without_a_look_at_files():
    assert family("torchvision:Flowers102").own
    assert family("table:a.csv").name == "table:a.csv"
    assert family("npz:a.npz") is family("npz:a.npz")


def test_labels_are_read_by_the_names_of_their_own_part():
    parts = {"test": Rows([b"", b""], [0, 1]), "train": Rows([b""] * 3, [0, 1, 1])}
    rows, classes = under_one_numbering(parts, {"train": ["cat", "dog"], "test": ["dog", "cat"]}, "set")
    assert (classes, rows["train"].labels, rows["test"].labels) == (["cat", "dog"], [0, 1, 1], [1, 0])
    rows, classes = under_one_numbering(parts, {"train": ["cat", "dog"], "test": ["dog", "eel"]}, "set")
    assert (classes, rows["test"].labels) == (["cat", "dog", "eel"], [1, 2])
    texts = {"train": Rows([b""] * 3, ["cat", "dog", "dog"]), "test": parts["test"]}
    rows, classes = under_one_numbering(texts, {"train": [], "test": ["dog", "cat"]}, "set")
    assert (classes, rows["test"].labels) == ([], ["dog", "cat"])
    same = under_one_numbering(parts, {"train": ["a", "b"], "test": ["a", "b"]}, "set")
    assert same == (parts, ["a", "b"])
    with pytest.raises(ConfigError, match="its test part has numbers without names"):
        under_one_numbering(parts, {"train": ["cat", "dog"], "test": []}, "set")
    with pytest.raises(ConfigError, match="its test part has labels from 0 to 1, and classes go from 0 to 0"):
        under_one_numbering(parts, {"train": ["cat", "dog"], "test": ["cat"]}, "set")


def test_two_names_of_one_part_are_refused(tmp_path):
    assert named_parts(["Train", "extra", "val"], "set") == {"train": "Train", "validation": "val"}
    with pytest.raises(ConfigError, match="set: two parts are validation: val and validation"):
        named_parts(["train", "val", "validation"], "set")
    images, labels = np.zeros((4, 8, 8), np.uint8), np.arange(4) % 2
    np.savez(tmp_path / "two.npz", train_images=images, train_labels=labels, x_train=images, y_train=labels)
    with pytest.raises(ConfigError, match="two parts are train: train_images and x_train"):
        loaded("npz:two.npz", tmp_path)


@pytest.mark.parametrize("file", ["README.md", ".huggingface.yaml"])
def test_a_local_folder_whose_card_names_files_elsewhere_is_refused(tmp_path, file):
    pytest.importorskip("huggingface_hub")
    folder = tmp_path / "some"
    folder.mkdir()
    for path, good in (("train.parquet", True), ("http://example.org/a.parquet", False), ("hf://b/c", False)):
        text = f"configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {path}\n"
        head = f"---\nhomepage: https://example.org\n{text}---\n" if file == "README.md" else text
        (folder / file).write_text(head)
        if good:
            _check_local(folder, "hf:some")
        else:
            with pytest.raises(ConfigError, match=f"hf:some: `configs` in .*{file} names files elsewhere, '{path}'"):
                _check_local(folder, "hf:some")
    (folder / "some.py").write_text("raise AssertionError")
    with pytest.raises(ConfigError, match=r"some.py is a script that loads the set, which is never run"):
        _check_local(folder, "hf:some")


def test_replaced_files_of_a_torchvision_set_are_noticed_and_those_of_others_are_not(tmp_path):
    def fill(value):
        for name in "AB":
            for i in range(5):
                path = tmp_path / "eurosat" / "2750" / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encoded(np.full((32, 32, 3), value, np.uint8), "PNG"))

    fill(10)
    assert images_of(loaded("torchvision:EuroSAT", tmp_path).train)[0].max() == 10
    made = [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("fcil-cache/*/manifest.json"))]
    (tmp_path / "other.txt").write_text("of another set")
    loaded("torchvision:EuroSAT", tmp_path)
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("fcil-cache/*/manifest.json"))] == made
    fill(200)
    assert images_of(loaded("torchvision:EuroSAT", tmp_path).train)[0].min() == 200


def test_a_table_that_says_two_things_is_refused(tmp_path):
    write_table(tmp_path, ROWS)
    text = (tmp_path / "labels.csv").read_text()
    (tmp_path / "two.csv").write_text(text.replace("domain", "label", 1))
    with pytest.raises(ConfigError, match=r"two.csv: has two columns 'label'"):
        loaded("table:two.csv", tmp_path)
    (tmp_path / "again.csv").write_text(text + f"../{tmp_path.name}/images/0.png,ant,test,day\n")
    with pytest.raises(ConfigError, match=r"row 10 names '.*' a second time, as 'images/0.png' in row 2"):
        loaded("table:again.csv", tmp_path)


def test_labels_that_differ_in_their_unicode_form_alone_are_one_class():
    parts = {"train": Rows([b""] * 2, ["caf\u00e9", "tea"]), "test": Rows([b""], ["cafe\u0301"])}
    listing = listing_of(parts, Data(), "set")
    assert (listing.classes, listing.test.labels.tolist()) == (("caf\u00e9", "tea"), [0])


def test_a_label_that_is_no_number_is_missing():
    with pytest.raises(ConfigError, match="row 3 has no label"):
        _full("label", [1.0, float("nan")], Path("table.parquet"))


def test_a_pair_of_contents_and_path_gives_the_one_that_is_there(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    assert _images([{"bytes": None, "path": "a.png"}], tmp_path, tmp_path) == [tmp_path / "a.png"]
    assert _images([{"bytes": b"x", "path": "a.png"}], tmp_path, tmp_path) == [b"x"]
    with pytest.raises(ConfigError, match="neither paths nor contents"):
        _images([{"height": 3}], tmp_path, tmp_path)


def test_arrays_that_are_no_set_are_refused(tmp_path):
    with open(tmp_path / "x.npz", "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ConfigError, match=r"it is one array, an \.npy file"):
        loaded("npz:x.npz", tmp_path)
    np.savez(tmp_path / "x.npz", images=np.zeros((4, 0, 8), np.uint8), labels=np.arange(4) % 2)
    with pytest.raises(ConfigError, match=r"\(4, 0, 8\); images must be .* of one pixel or more"):
        loaded("npz:x.npz", tmp_path)
    arrays = {"images": np.zeros((4, 8, 8), np.uint8), "labels": np.arange(4) % 2}
    np.savez(tmp_path / "x.npz", **arrays, classes=["a", "a"])
    with pytest.raises(ConfigError, match="names classes twice: a"):
        loaded("npz:x.npz", tmp_path)
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ConfigError, match=r"data.columns: npz:x.npz has no columns; leave it empty"):
        loaded("npz:x.npz", tmp_path, columns=("label=species",))
