"""`fcil data preview`: counts, skew and pictures before anything runs."""

import archives
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fcil.cli.main import main
from fcil.report.preview import skew

CONFIG = """
data = {name = "digits", train_limit = 200}
model = {image_size = 16}
tasks = {count = 2}
partition = {clients = 3, min_samples = 1}
"""


@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 50))
def test_equal_shares_of_c_classes_count_as_c(clients, classes, images):
    result = skew(np.full((clients, classes), images))
    np.testing.assert_allclose(result.effective, classes)
    assert (result.images == classes * images).all()
    assert (result.classes == classes).all()


@given(st.lists(st.lists(st.integers(0, 40), min_size=3, max_size=3), min_size=1, max_size=6))
def test_effective_classes_are_between_one_and_the_classes_held(counts):
    result = skew(np.array(counts))
    some = result.images > 0
    assert (result.effective[some] >= 1 - 1e-9).all()
    assert (result.effective <= result.classes + 1e-9).all()
    assert (result.effective[~some] == 0).all()


def test_a_rare_second_class_counts_little():
    assert 1 < skew(np.array([[99, 1]])).effective[0] < 1.1


def test_preview_prints_counts_and_draws_both_pictures(tmp_path, capsys):
    config = tmp_path / "small.toml"
    config.write_text(CONFIG)
    out = tmp_path / "out"
    assert main(["data", "preview", str(config), "--output", str(out), "--set", "tasks.count=5"]) == 0
    output = capsys.readouterr().out
    assert {p.name for p in out.iterdir()} == {"clients.png", "samples.png"}
    for word in ("10 classes", "200 training", "450 test", "3 clients", "effective classes", "images a client",
                 "in training: random box of 70-100 % of the area", "in tests: all of it"):  # fmt: skip
        assert word in output
    lines = [line.split() for line in output.splitlines() if line.split()[:1] and line.split()[0] in "12345"]
    assert len(lines) == 5
    assert sum(int(line[2]) for line in lines) == 200
    assert sum(int(line[3]) for line in lines) == 450
    for picture in out.iterdir():
        pixels = np.asarray(Image.open(picture).convert("L"))
        assert pixels.std() > 10


def test_preview_counts_what_a_long_tail_leaves_to_the_clients(tmp_path, capsys):
    config = tmp_path / "small.toml"
    config.write_text(CONFIG.replace("count = 2", "count = 2, long_tail = 4"))
    assert main(["data", "preview", str(config), "--output", str(tmp_path / "out")]) == 0
    output = capsys.readouterr().out
    rows = [line.split() for line in output.splitlines() if line.split()[:1] and line.split()[0] in "12"]
    first, second = (int(row[2]) for row in rows)
    assert f"{first + second} of 200 training and 450 test images" in output
    assert 0 < second < first < 100
    assert sum(int(row[3]) for row in rows) == 450


def test_shared_images_are_counted_once_and_said_to_be_shared(tmp_path, capsys):
    config = tmp_path / "small.toml"
    config.write_text(CONFIG.replace("clients = 3,", 'clients = 3, kind = "shared_classes", classes_per_client = 4,'))
    assert main(["data", "preview", str(config), "--output", str(tmp_path / "out")]) == 0
    output = capsys.readouterr().out
    assert "10 classes, 200 training and 450 test images" in output
    assert output.count(", shared") == 2
    rows = [line.split() for line in output.splitlines() if line.split()[:1] and line.split()[0] in "12"]
    assert sum(int(row[2].rstrip(",")) for row in rows) == 200


def test_the_same_preview_is_the_same_bytes_and_another_seed_is_not(tmp_path):
    config = tmp_path / "small.toml"
    config.write_text(CONFIG)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert (
            main(["data", "preview", str(config), "--output", str(tmp_path / name), "--set", f"run.seed={seed}"]) == 0
        )
    for picture in ("clients.png", "samples.png"):
        a, b, c = ((tmp_path / name / picture).read_bytes() for name in "abc")
        assert a == b != c


def test_preview_of_a_decoded_set_and_of_one_that_is_missing(tmp_path, capsys):
    config = tmp_path / "birds.toml"
    config.write_text(CONFIG.replace('{name = "digits", train_limit = 200}', '{name = "cub200", unofficial = true}'))
    order = ["data", "preview", str(config), "--output", str(tmp_path / "out"), "--set", f"data.root={tmp_path}"]
    order += ["--set", "partition.clients=1"]
    assert main(order) == 2
    assert "CUB_200_2011.tgz" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    archives.cub(tmp_path)
    assert main(order) == 0
    assert "unofficial: MD5 of CUB_200_2011.tgz" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["cub200", "eurosat"])
def test_prepare_says_what_it_made_and_list_names_it(name, tmp_path, capsys):
    archives.WRITE[name](tmp_path)
    order = ["data", "prepare", name, "--root", str(tmp_path), "--size", "56"]
    assert main(order) == 2
    assert "not the official files" in capsys.readouterr().err
    assert main([*order, "--unofficial"]) == 0
    output = capsys.readouterr().out
    assert f"{name}: 2 classes, " in output
    assert "unofficial: " in output
    assert main(["data", "list"]) == 0
    assert name in capsys.readouterr().out
    assert main(["data", "prepare", "cub20"]) == 2
    assert "Did you mean 'cub200'" in capsys.readouterr().err


def test_doctor_tells_missing_from_there_from_ready(tmp_path, capsys):
    from fcil.data import FAMILIES, load
    from fcil.data.loading import readiness

    where = archives.settings("cub200", tmp_path)
    assert "missing: data.root: neither CUB_200_2011/" in readiness(FAMILIES["cub200"], where, 28)
    archives.cub(tmp_path)
    assert "files are there" in readiness(FAMILIES["cub200"], where, 28)
    assert not (tmp_path / "fcil-cache").exists()
    load(where, 28)
    assert readiness(FAMILIES["cub200"], where, 28) == "ready at 28 px"
    assert main(["doctor", "--root", str(tmp_path), "--size", "28"]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "data imagenet-r missing" in output
    assert "data digits ready" in output
