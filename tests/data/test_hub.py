"""Sets of Hugging Face by the real package, from local folders and from its cache, without a network."""

import shutil

import archives
import numpy as np
import pytest
from archives import encoded, picture

from fcil.cli.main import main
from fcil.data import Data, family, load
from fcil.errors import ConfigError

datasets = pytest.importorskip("datasets", reason="needs the extra `datasets`")
SIZE = 28
pytestmark = pytest.mark.filterwarnings("ignore")  # those of another package are not ours to mend


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """A cache of the package for each test, and no bars."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    datasets.disable_progress_bars()


def part_of(count, seed, kind=None):
    """`count` PNG images with labels 0, 1, 2, ... and domains, picture seed + i in row i."""
    rows = {
        "image": [{"bytes": encoded(picture(seed + i, (32, 32)), "PNG"), "path": None} for i in range(count)],
        "label": [i % 3 for i in range(count)],
        "domain": ["ab"[i // 3 % 2] for i in range(count)],
    }
    features = {
        "image": datasets.Image(), "label": kind or datasets.ClassLabel(names=["cat", "ant", "emu"]),
        "domain": datasets.Value("string"),
    }  # fmt: skip
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def loaded(name, root, **settings):
    return load(Data(name=name, root=str(root), **settings), SIZE)


def test_a_saved_set_has_its_parts_names_and_domains(tmp_path):
    saved = {"train": part_of(9, 0), "test": part_of(6, 20), "validation": part_of(3, 40), "extra": part_of(3, 60)}
    datasets.DatasetDict(saved).save_to_disk(tmp_path / "some")
    data = loaded("hf:some", tmp_path)
    assert (data.classes, data.domains) == (("cat", "ant", "emu"), ("a", "b"))
    assert (data.train.labels.tolist(), data.train.domains.tolist()) == ([0, 1, 2] * 3, [0, 0, 0, 1, 1, 1, 0, 0, 0])
    for i, image in enumerate(data.test.images):
        np.testing.assert_array_equal(image, picture(20 + i, (32, 32)))
    assert data.remarks[0] == "nothing uses its parts extra: a part is train, test or validation"
    assert data.files.startswith("hf:some, fingerprints train ")
    assert len(loaded("hf:some", tmp_path, evaluate_on="validation").test) == 3
    assert loaded("hf:some", tmp_path, columns=("domain=",)).domains == ()


def test_a_saved_part_alone_is_split_and_its_texts_are_classes(tmp_path):
    alone = part_of(15, 0, datasets.Value("int64"))
    alone.save_to_disk(tmp_path / "alone")
    data = loaded("hf:alone", tmp_path)
    assert data.classes == ("0", "1", "2")
    assert (len(data.train), len(data.test)) == (12, 3)
    assert "80/20 within each class" in data.files


def test_a_folder_of_images_is_read_as_the_package_reads_it(tmp_path):
    archives.folder(tmp_path / "tree")
    data = loaded("hf:tree", tmp_path)
    assert (data.classes, len(data.train), len(data.test)) == (("cats", "dogs"), 8, 4)


def test_parquet_files_are_read_by_the_package_and_as_a_table(tmp_path):
    (tmp_path / "files").mkdir()
    part_of(12, 0).to_parquet(tmp_path / "files" / "train.parquet")
    for name, root in (("hf:files", tmp_path), ("table:train.parquet", tmp_path / "files")):
        data = loaded(name, root)
        assert (len(data.train), len(data.test), data.domains) == (9, 3, ("a", "b"))


def test_a_set_of_the_cache_is_found_without_a_network_and_of_its_revision_only(tmp_path):
    """The cache of a set of the Hub, as the package lays it out: OWNER___NAME/CONFIG/VERSION/COMMIT."""
    commit, root = "0123456789" * 4, tmp_path / "root"
    (tmp_path / "set").mkdir()
    root.mkdir()
    for part, count in (("train", 9), ("test", 3)):
        part_of(count, 0).to_parquet(tmp_path / "set" / f"{part}.parquet")
    datasets.load_dataset(str(tmp_path / "set"))
    (version,) = (tmp_path / "hf-cache" / "set").glob("*/*")
    (made,) = (path for path in version.iterdir() if path.is_dir())
    made.rename(version / commit)
    (tmp_path / "hf-cache" / "set").rename(tmp_path / "hf-cache" / "owner___set")
    assert len(loaded("hf:owner/set", root).train) == 9
    data = loaded(f'hf:owner/set(revision = "{commit}")', root)
    assert f"hf:owner/set, revision {commit}, fingerprints" in data.files
    with pytest.raises(ConfigError, match="what is cached is not revision 9999"):
        loaded(f'hf:owner/set(revision = "{"9" * 40}")', root)


def test_a_set_that_is_nowhere_says_how_to_fetch_it_and_nothing_goes_out(tmp_path, monkeypatch, capsys):
    import socket

    def refused(*arguments, **more):
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    (tmp_path / "root").mkdir()
    before = datasets.config.HF_HUB_OFFLINE
    assert main(["data", "prepare", "hf:owner/absent", "--root", str(tmp_path / "root")]) == 2
    assert "`fcil data prepare 'hf:owner/absent' --root" in capsys.readouterr().err
    assert list((tmp_path / "root").iterdir()) == []
    assert before == datasets.config.HF_HUB_OFFLINE, "what others of the process load is not our business"


def test_what_could_not_be_fetched_is_not_answered_with_the_same_command(tmp_path, monkeypatch, capsys):
    def load_dataset(*_, **__):
        raise ConnectionError("no connection")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert main(["data", "prepare", "hf:somebody/set", "--root", str(tmp_path / "new"), "--download"]) == 2
    error = capsys.readouterr().err
    assert "could not be fetched (no connection)" in error
    assert "--download" not in error


def test_labels_that_are_none_are_refused(tmp_path):
    hidden = part_of(3, 0).map(lambda row: {"label": -1})
    datasets.DatasetDict({"train": part_of(3, 0), "test": hidden}).save_to_disk(tmp_path / "some")
    with pytest.raises(ConfigError, match="its test part has labels from -1 to -1"):
        loaded("hf:some", tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:x(subsett = 'a')", "Did you mean 'subset'"),
        ("hf:x(revision = 'main')", "revision must be a whole commit hash"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        family(name)


def test_each_parts_labels_go_by_its_own_names(tmp_path):
    swapped = part_of(6, 20, datasets.ClassLabel(names=["emu", "cat", "ant"]))
    datasets.DatasetDict({"train": part_of(9, 0), "test": swapped}).save_to_disk(tmp_path / "some")
    data = loaded("hf:some", tmp_path)
    assert (data.classes, data.train.labels.tolist()) == (("cat", "ant", "emu"), [0, 1, 2] * 3)
    assert data.test.labels.tolist() == [2, 0, 1] * 2
    datasets.DatasetDict({"train": part_of(9, 0), "training": part_of(3, 9)}).save_to_disk(tmp_path / "two")
    with pytest.raises(ConfigError, match="two parts are train: train and training"):
        loaded("hf:two", tmp_path)


def test_another_state_of_a_cached_set_is_noticed_and_a_cache_that_is_gone_is_not_needed(tmp_path):
    root, files, cache = tmp_path / "root", tmp_path / "set", tmp_path / "hf-cache"
    root.mkdir()
    for count in (9, 12):
        files.mkdir(exist_ok=True)
        for part in ("train", "test"):
            part_of(count, 0).to_parquet(files / f"{part}.parquet")
        datasets.load_dataset(str(files))
        (version,) = (cache / "set").glob("*/*")
        (made,) = (path for path in version.iterdir() if path.is_dir())
        made.rename(version / (str(count % 10) * 40))
        shutil.rmtree(cache / "owner___set", ignore_errors=True)
        (cache / "set").rename(cache / "owner___set")
        assert len(loaded("hf:owner/set", root).train) == count
    shutil.rmtree(cache)
    assert len(loaded("hf:owner/set", root).train) == 12


def test_a_folder_beside_the_root_is_not_taken_for_the_set(tmp_path, monkeypatch):
    archives.folder(tmp_path / "tree")
    (tmp_path / "root").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"hf:tree: is not in data.root = .*root"):
        loaded("hf:tree", tmp_path / "root")
