"""The cache of decoded images: whole or not there, noticed when it changes, made once, and never held in memory."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import archives
import numpy as np
import pytest
from archives import settings

import fcil.data.loading as loading
from fcil.data import Data, load
from fcil.errors import ConfigError

ROOT = Path(__file__).parents[2]
SIZE = 28


def only(folder, pattern="*-train-*"):
    (folder_of_part,) = (folder / "fcil-cache").glob(pattern)
    return folder_of_part


def python(code, *arguments):
    here = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=120,
        env=os.environ | {"PYTHONPATH": here},
    )  # fmt: skip


@pytest.fixture
def birds(tmp_path):
    archives.cub(tmp_path)
    return settings("cub200", tmp_path), load(settings("cub200", tmp_path), SIZE).sha256()


def test_images_are_memory_mapped_and_read_only(birds):
    images = load(birds[0], SIZE).train.images
    assert isinstance(images.pixels, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        images[np.array([0])][0][0, 0, 0] = 1


def test_a_good_cache_is_used_as_it_is(birds, tmp_path, capsys):
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "fcil-cache").rglob("*.*")}
    capsys.readouterr()
    assert load(birds[0], SIZE).sha256() == birds[1]
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "fcil-cache").rglob("*.*")} == before
    assert capsys.readouterr().err == ""


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def older(path):
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"version": 0}))


def cut_secretly(path):
    stat = path.stat()
    os.truncate(path, 100)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


DAMAGE = {
    "a byte of images.bin": lambda folder: flip(folder / "images.bin"),
    "the end of images.bin": lambda folder: os.truncate(folder / "images.bin", 100),
    "the end of images.bin, at its old time": lambda folder: cut_secretly(folder / "images.bin"),
    "all of images.bin": lambda folder: (folder / "images.bin").unlink(),
    "a byte of the index": lambda folder: flip(folder / "index.safetensors"),
    "the end of the manifest": lambda folder: os.truncate(folder / "manifest.json", 40),
    "the format": lambda folder: older(folder / "manifest.json"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_cache_is_made_again_and_one_line_says_so(what, birds, tmp_path, capsys):
    folder = only(tmp_path)
    DAMAGE[what](folder)
    capsys.readouterr()
    assert load(birds[0], SIZE).sha256() == birds[1]
    output = [line for line in capsys.readouterr().err.splitlines() if "made again" in line]
    assert len(output) == 1
    assert str(folder) in output[0]
    assert load(birds[0], SIZE).sha256() == birds[1]
    assert "made again" not in capsys.readouterr().err


def test_a_copy_with_other_times_is_read_once_and_kept(birds, tmp_path, capsys):
    folder = only(tmp_path)
    os.utime(folder / "images.bin", (1, 1))
    inode = (folder / "images.bin").stat().st_ino
    capsys.readouterr()
    assert load(birds[0], SIZE).sha256() == birds[1]
    assert (folder / "images.bin").stat().st_ino == inode
    assert json.loads((folder / "manifest.json").read_text())["mtime_ns"] == 10**9
    assert capsys.readouterr().err == ""


def test_a_copy_with_other_times_is_read_on_a_read_only_file_system(birds, tmp_path, monkeypatch, capsys):
    """There even unlinking a file that does not exist fails."""

    def refuse(path, *_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    os.utime(only(tmp_path) / "images.bin", (1, 1))
    capsys.readouterr()
    for name in ("write_bytes", "write_text", "unlink"):
        monkeypatch.setattr(Path, name, refuse)
    assert load(birds[0], SIZE).sha256() == birds[1]
    assert capsys.readouterr().err == ""


def test_replaced_source_files_are_noticed(tmp_path, capsys):
    archives.folder(tmp_path)
    first = load(settings("folder", tmp_path), SIZE).sha256()
    (tmp_path / "train" / "cats" / "more.jpg").write_bytes(archives.encoded(archives.picture(77)))
    data = load(settings("folder", tmp_path), SIZE)
    assert len(data.train) == 9
    assert data.sha256() != first
    archives.cub(tmp_path)
    load(settings("cub200", tmp_path), SIZE)
    os.utime(tmp_path / "CUB_200_2011.tgz", (5, 5))
    capsys.readouterr()
    load(settings("cub200", tmp_path), SIZE)
    assert "CUB_200_2011.tgz changed since" in capsys.readouterr().err


def test_each_size_and_split_has_a_cache_of_its_own(tmp_path):
    archives.imagenet(tmp_path)
    built = {
        tuple(load(settings("imagenet-r", tmp_path, split_seed=seed), size).test.images.shapes.ravel())
        for size in (28, 56)
        for seed in (0, 1)
    }
    assert len(built) == 4
    assert len(list((tmp_path / "fcil-cache").glob("imagenet-r-*"))) == 8


def test_the_cache_may_lie_elsewhere(tmp_path):
    archives.folder(tmp_path / "data")
    load(settings("folder", tmp_path / "data", cache=str(tmp_path / "cache")), SIZE)
    assert len(list((tmp_path / "cache").glob("folder-*"))) == 2
    assert not (tmp_path / "data" / "fcil-cache").exists()


def test_a_cache_that_cannot_be_written_is_a_message(tmp_path):
    archives.folder(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"data.cache: cannot be written"):
        load(settings("folder", tmp_path, cache=str(tmp_path / "file" / "cache")), SIZE)


def test_killed_in_the_middle_nothing_of_it_is_used(birds, tmp_path):
    shutil.rmtree(tmp_path / "fcil-cache")
    code = """
import os, signal, sys
import fcil.data.cache as cache
from archives import settings
from fcil.data import load
original = cache.decoded
def two(*arguments):
    for i, image in enumerate(original(*arguments)):
        if i == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        yield image
cache.decoded = two
load(settings("cub200", sys.argv[1]), 28)
"""
    assert python(code, tmp_path).returncode == -signal.SIGKILL
    assert [p.name for p in (tmp_path / "fcil-cache").glob(".*.building")]
    assert not list((tmp_path / "fcil-cache").glob("cub200*"))
    assert load(birds[0], SIZE).sha256() == birds[1]
    assert not list((tmp_path / "fcil-cache").glob(".*.building"))


def test_an_interrupt_leaves_nothing_behind(birds, tmp_path, monkeypatch):
    shutil.rmtree(tmp_path / "fcil-cache")

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("fcil.data.cache.decoded", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load(birds[0], SIZE)
    assert not (tmp_path / "fcil-cache").exists()


def test_several_at_once_make_it_once_and_share_it(birds, tmp_path, monkeypatch):
    shutil.rmtree(tmp_path / "fcil-cache")
    built = []
    original = loading.write_part

    def counted(folder, *arguments):
        built.append(folder.name)
        original(folder, *arguments)

    monkeypatch.setattr(loading, "write_part", counted)
    with ThreadPoolExecutor(4) as pool:
        hashes = set(pool.map(lambda _: load(birds[0], SIZE).sha256(), range(4)))
    assert hashes == {birds[1]}
    assert len(built) == len(set(built)) == 2


LARGE = """
import json, resource, sys
from pathlib import Path
import numpy as np
from safetensors.numpy import save
import hashlib
resource.setrlimit(resource.RLIMIT_DATA, (2 * 2**30, 2 * 2**30))
from fcil.data import Data, load
from fcil.client.data import ClientData
import torch
torch.set_num_threads(1)

root, n = Path(sys.argv[1]), 50_000
settings = Data(name="imagenet-r", root=str(root), unofficial=True)
import fcil.data.loading as loading
from fcil.data import FAMILIES
shapes = np.tile((224, 224, 3), (n, 1))
shapes[::2, 1] = 225  # ragged, as photographs are
for part, (folder, side) in loading._folders(FAMILIES["imagenet-r"], settings, 224, root).items():
    folder.mkdir(parents=True)
    count = n if part == "train" else 10
    index = save({"shapes": shapes[:count], "labels": np.arange(count) % 200})
    (folder / "index.safetensors").write_bytes(index)
    total = int(shapes[:count].prod(1).sum())
    with open(folder / "images.bin", "wb") as file:
        file.truncate(total)  # a hole: reads as zeros, takes no disk
    told = (folder / "images.bin").stat()
    (folder / "manifest.json").write_text(json.dumps({
        "version": 1, "shorter": side, "count": count, "bytes": total, "mtime_ns": told.st_mtime_ns,
        "pixels_sha256": "", "index_sha256": hashlib.sha256(index).hexdigest(), "sources": {}, "files": "",
        "split": "", "classes": [str(i) for i in range(200)],
    }))
def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) * 1024
# the files are not there: the cache suffices
data = load(settings, 224)
client = ClientData(data, np.arange(n), np.arange(200), 224, torch.device("cpu"))
rng = np.random.default_rng(0)
order = rng.permutation(n)[:640]
sizes = []
for images, labels, _ in client.batches(16, order, rng):
    assert images.shape == (16, 3, 224, 224)
    sizes.append(anonymous())
from fcil.client.settings import Train
from fcil.client.training import run_client
from fcil.model.adapted import AdaptedModel
from fcil.model.backbone import Model, describe_backbone, load_backbone
from fcil.method import Phase
from fcil.registry import build_method
from fcil.method import Task
method, phase = build_method("lorm", {"rank": 4}), Phase(0, "train", Task(0, 0, 200), 1, 0)
small = Model(backbone="vit_tiny_patch16_224", weights="random", image_size=224)
backbone = describe_backbone(small)
state = method.begin(method.init(backbone, 200, 0), phase, backbone)
model = AdaptedModel(load_backbone(small), method.adapter)
mine = ClientData(data, order[:48], np.arange(200), 224, torch.device("cpu"))
update = run_client(method, model, mine, Train(epochs=1, batch=4), phase, method.broadcast(state, phase), 0, {})
assert update.metrics["images"] == 48
sizes.append(anonymous())
print(data.train.images.pixels.nbytes, max(sizes), sizes[-2] - sizes[2])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_fifty_thousand_images_at_224_train_with_two_gigabytes_of_heap(tmp_path):
    """At full scale: 7.5 GB of pixels (a hole in a file), 640 of them in random order and a client on 48, all under
    RLIMIT_DATA."""
    ran = python(LARGE, tmp_path)
    assert ran.returncode == 0, ran.stderr[-2000:]
    pixels, largest, growth = map(int, ran.stdout.split())
    assert pixels > 7.5e9
    assert largest < 2e9
    assert growth < 50e6


def test_a_run_on_images_of_different_shapes_is_the_same_inline_and_after_the_files_are_gone(tmp_path, digits_config):
    from fcil.engine.simulation import prepare, simulate

    archives.imagenet(tmp_path, each=10)
    config = digits_config(
        {"data": {"name": "imagenet-r", "root": str(tmp_path), "unofficial": True, "train_limit": 0, "test_limit": 0}},
        {"tasks": {"count": 1}, "partition": {"clients": 2, "min_samples": 1}, "train": {"rounds": 1}},
    )
    first = simulate(prepare(config), tmp_path / "first")
    shutil.rmtree(tmp_path / "imagenet-r")
    (tmp_path / "imagenet-r.tar").unlink()
    assert simulate(prepare(config), tmp_path / "second")["sha256"] == first["sha256"]
    text = (tmp_path / "first" / "config.toml").read_text()
    assert 'data_files = "unofficial: MD5 of imagenet-r.tar' in text
    assert "80/20 within each class by seed 0, sha256 " in text


def test_limits_cut_a_memory_mapped_part(birds, tmp_path):
    data = load(Data(name="cub200", root=str(tmp_path), unofficial=True, train_limit=2, test_limit=1), SIZE)
    assert (len(data.train), len(data.test)) == (2, 1)
    whole = load(birds[0], SIZE)
    for i in range(2):
        chosen = np.array([i])
        np.testing.assert_array_equal(data.train.images[chosen][0], whole.train.images[chosen][0])
    assert data.sha256() != birds[1]
