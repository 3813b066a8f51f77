"""Splits of sets without one: by seed within each class, or as listed in the files that public code uses."""

import json

import archives
import numpy as np
import pytest
import yaml
from archives import WNIDS, settings
from hypothesis import given
from hypothesis import strategies as st

from fcil.data.splits import _draw_split, split_classes
from fcil.errors import ConfigError


@pytest.fixture
def renditions(tmp_path):
    """A folder of three classes with five images each."""
    archives.imagenet(tmp_path)
    import tarfile

    with tarfile.open(tmp_path / "imagenet-r.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "imagenet-r"


def names(part):
    return [f"{p.parent.name}/{p.name}" for p in part.images]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(0, 100))
def test_a_fifth_of_each_class_is_held_out(sizes, seed):
    folders = {f"c{i:02d}": [f"{j:03d}.jpg" for j in range(n)] for i, n in enumerate(sizes)}
    train, test = _draw_split(folders, settings("imagenet-r", "x", split_seed=seed))
    assert sorted(train + test) == sorted((f"{c}/{f}", i) for i, (c, fs) in enumerate(folders.items()) for f in fs)
    for label, n in enumerate(sizes):
        held_out = sum(y == label for _, y in test)
        assert abs(held_out - n / 5) <= 0.5 or (held_out, n) == (1, 2)
        assert held_out < n
        assert (held_out > 0) == (n > 1)


def test_another_class_or_another_seed_changes_only_what_it_must():
    folders = {c: [f"{j}.jpg" for j in range(50)] for c in "abc"}
    one = _draw_split(folders, settings("imagenet-r", "x"))
    assert one == _draw_split(dict(folders), settings("imagenet-r", "x"))
    less = _draw_split({c: folders[c] for c in "ab"}, settings("imagenet-r", "x"))
    assert [row for row in one[1] if row[1] < 2] == less[1]
    assert _draw_split(folders, settings("imagenet-r", "x", split_seed=1)) != one
    assert _draw_split(folders, settings("imagenet-a", "x")) != one


LISTS = {  # class 1 comes before class 0 by name: the list numbers the classes
    "train": {"data": [f"data/imagenet-r/{WNIDS[k]}/{WNIDS[k]}_{i}.jpg" for k in (1, 0, 2) for i in range(4)],
              "targets": [0] * 4 + [1] * 4 + [2] * 4},
    "test": {"data": [f"data/imagenet-r/{WNIDS[k]}/{WNIDS[k]}_4.jpg" for k in (1, 0, 2)], "targets": [0, 1, 2]},
}  # fmt: skip


def rows(part):
    return [[path, label, "name"] for path, label in zip(part["data"], part["targets"], strict=True)]


WAYS = {
    "two yaml files": lambda f: (
        [(f / f"r_{p}.yaml").write_text(yaml.dump(LISTS[p])) for p in LISTS] and "r_{part}.yaml"
    ),
    "one yaml file": lambda f: (f / "r.yaml").write_text(yaml.dump(LISTS)) and "r.yaml",
    "one json file": lambda f: (f / "r.json").write_text(json.dumps(LISTS)) and "r.json",
    "rows in json": lambda f: (f / "r.json").write_text(json.dumps({p: rows(LISTS[p]) for p in LISTS})) and "r.json",
}


@pytest.mark.parametrize("way", WAYS)
def test_lists_are_followed_in_every_form_in_use(way, renditions, tmp_path):
    file = tmp_path / WAYS[way](tmp_path)
    listing = split_classes(renditions, settings("imagenet-r", tmp_path, split_file=str(file)))
    assert listing.classes == (WNIDS[1], WNIDS[0], WNIDS[2])
    for part, wanted in ((listing.train, LISTS["train"]), (listing.test, LISTS["test"])):
        assert [f"data/imagenet-r/{name}" for name in names(part)] == wanted["data"]
        assert part.labels.tolist() == wanted["targets"]
    assert file.name in listing.split


def changed(part, **entries):
    return {**LISTS, part: {**LISTS[part], **entries}}


WRONG = {
    "missing": (
        changed("test", data=["n0/none.jpg", *LISTS["test"]["data"][1:]]),
        "1 of its images are not there.*none",
    ),
    "twice": (changed("test", data=[LISTS["train"]["data"][0], *LISTS["test"]["data"][1:]]), "twice"),
    "mixed": (changed("test", targets=[1, 0, 2]), "class 1 is"),
    "gap": ({p: {**LISTS[p], "targets": [2 * t for t in LISTS[p]["targets"]]} for p in LISTS}, "without gaps"),
    "lengths": (changed("train", targets=[0]), "equal length"),
    "no section": ({"train": LISTS["train"]}, "no section `test`"),
    "no lists": ({"train": 3, "test": 3}, "must be lists"),
}


@pytest.mark.parametrize("what", WRONG)
def test_lists_that_cannot_be_followed_are_refused_with_the_reason(what, renditions, tmp_path):
    content, message = WRONG[what]
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=f"data.split_file.*{message}"):
        split_classes(renditions, settings("imagenet-r", tmp_path, split_file=str(tmp_path / "r.json")))


def test_files_that_are_no_lists_are_named(renditions, tmp_path):
    (tmp_path / "r.yaml").write_text("a: [")
    (tmp_path / "evil.yaml").write_text("!!python/object/apply:os.system ['true']")
    for name, message in (("r.yaml", "r.yaml"), ("evil.yaml", "constructor"), ("none.json", "No such file")):
        with pytest.raises(ConfigError, match=message):
            split_classes(renditions, settings("imagenet-r", tmp_path, split_file=str(tmp_path / name)))


def test_the_split_is_in_the_records_and_a_list_for_a_split_set_is_refused(renditions, tmp_path):
    from fcil.data import load

    result = {seed: load(settings("imagenet-r", tmp_path, split_seed=seed), 28).files for seed in (0, 1)}
    assert "by seed 0, sha256" in result[0]
    assert result[0].split("sha256")[1] != result[1].split("sha256")[1]
    archives.cub(tmp_path)
    (tmp_path / "r.json").write_text("{}")
    with pytest.raises(ConfigError, match="cub200 has its authors' split"):
        load(settings("cub200", tmp_path, split_file=str(tmp_path / "r.json")), 28)


def test_class_folders_without_images_do_not_count(renditions):
    (renditions / "empty").mkdir()
    (renditions / ".hidden").mkdir()
    assert split_classes(renditions, settings("imagenet-r", "x")).classes == tuple(WNIDS)
    assert np.bincount(split_classes(renditions, settings("imagenet-r", "x")).train.labels).tolist() == [4, 4, 4]
