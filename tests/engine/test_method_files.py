"""Runs of a method in a user's own file: recorded with its hash, resumed from anywhere, refused when it has changed."""

import hashlib
import tomllib

import pytest
from own_methods import MINE, write

from fcil.cli.main import main
from fcil.engine.comparison import folder_name
from fcil.engine.records import read_config, read_provenance
from fcil.engine.simulation import prepare, resume, simulate
from fcil.errors import ConfigError

SMALL = """
data = {train_limit = 60, test_limit = 40}
model = {image_size = 16}
tasks = {count = 2}
partition = {clients = 2, min_samples = 1}
train = {rounds = 1, epochs = 1}
run = {device = "cpu"}
method = {name = "fedavg", rank = 2}
"""


@pytest.fixture
def begun(tmp_path, digits_config, monkeypatch):
    """A finished run of a method in a file; (folder, the file)."""
    path = write(tmp_path / "methods")
    monkeypatch.chdir(tmp_path)
    small = {"data": {"train_limit": 60, "test_limit": 40}, "partition": {"clients": 2}, "train": {"rounds": 1}}
    session = prepare(digits_config(small, {"method": {"name": "methods/mine.py:Mine", "rank": 2}}))
    summary = simulate(session, tmp_path / "run")
    assert summary["method"] == "mine.py:Mine"
    monkeypatch.chdir("/")
    return tmp_path / "run", path


def test_the_hash_of_a_methods_file_is_recorded_and_the_path_is_absolute(begun, tmp_path, digits_config):
    folder, path = begun
    assert read_config(folder).method.name == f"{path}:Mine"
    result = read_provenance(folder)
    assert result["method_sources"] == {str(path): hashlib.sha256(MINE.encode()).hexdigest()}
    assert result["method"] == {"rank": 2, "pull": 0.5}
    session = prepare(digits_config({"method": {"name": "fedavg", "rank": 2}}, {"train": {"rounds": 1}}))
    simulate(session, tmp_path / "shipped")
    assert "method_sources" not in read_provenance(tmp_path / "shipped")


def test_a_run_goes_on_with_the_same_file_only(begun):
    folder, path = begun
    finished = simulate(resume(folder), folder)
    path.write_text(MINE + "\n# another comment\n")
    with pytest.raises(ConfigError, match=rf"another content of {path}.*To go on, put back.*another --output"):
        simulate(resume(folder), folder)
    path.unlink()
    with pytest.raises(ConfigError, match=f"no such file: {path}"):
        resume(folder)
    path.write_text(MINE)
    assert simulate(resume(folder), folder) == finished


def test_methods_in_files_are_compared_with_shipped_ones(tmp_path, monkeypatch, capsys):
    (tmp_path / "small.toml").write_text(SMALL)
    write(tmp_path / "a")
    write(tmp_path / "b", source=MINE.replace("= 0.5", "= 0.7"))
    monkeypatch.chdir(tmp_path)
    labels = ["fedavg", "a/mine.py:Mine", "b/mine.py"]
    command = ["compare", "small.toml", "--methods", ",".join(labels), "--seeds", "0", "--output", "out"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert all(label in shown for label in labels)
    folders = sorted(path.parent.name for path in (tmp_path / "out").glob("*/config.toml"))
    assert folders == sorted(f"{folder_name(label)}-seed0" for label in labels)
    assert folder_name("a/mine.py:Mine").startswith("mine.py-Mine-")
    own = tmp_path / "out" / f"{folder_name('b/mine.py')}-seed0" / "config.toml"
    assert tomllib.loads(own.read_text())["provenance"]["method"]["pull"] == 0.7
    assert main(command) == 0


def test_names_of_folders_of_labels():
    for plain in ("fedavg", "lorm+ranpac", "my own", "low rank=4"):
        assert folder_name(plain) == plain
    odd = ["a/b.py:C", "a/b.py", "x/b.py:C", "pkg.mod:C", "a:b", "../b.py:C", "/"]
    names = {folder_name(label) for label in odd}
    assert len(names) == len(odd)
    assert not any(set(name) & set("/:\\") for name in names)


def test_the_page_of_a_method_in_a_file(tmp_path, monkeypatch, capsys):
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["methods", "mine.py"]) == 0
    shown = capsys.readouterr().out
    assert "Averages pairs, like many others." in shown
    assert "strength of nothing" in shown
    assert main(["methods", "mine.py:Mina"]) == 2
    assert "Did you mean 'Mine'" in capsys.readouterr().err
