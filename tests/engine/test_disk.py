"""A disk that is full, read-only or taken away, and a clock that is set: one message, and nothing is lost."""

import ast
import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from fcil import files
from fcil.cli.main import main
from fcil.client import store
from fcil.config import MethodChoice, from_table, to_table
from fcil.engine import checkpoints, records
from fcil.engine.checkpoints import CHECKPOINTS
from fcil.engine.records import EVENTS, Recorder, read_summary
from fcil.engine.simulation import prepare, resume, simulate
from fcil.errors import ConfigError, RunError

ROOT = Path(__file__).parents[2]
CONFIG = from_table([(
    "small",
    {
        "data": {"train_limit": 100, "test_limit": 60},
        "model": {"image_size": 16},
        "tasks": {"count": 2},
        "partition": {"clients": 2, "min_samples": 1},
        "train": {"rounds": 2, "epochs": 1},
        "method": {"name": "fedavg", "rank": 2},
        "run": {"device": "cpu"},
    },
)])  # fmt: skip


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    return simulate(prepare(CONFIG, folder), folder)


def when(count, kind, action):
    """Listen for events, and act at the `count`-th of a kind."""
    seen = []

    def listen(emit, progress):
        def tell(event):
            emit(event)
            seen.append(event["event"])
            if seen.count(kind) == count and event["event"] == kind:
                action()

        return tell

    return listen


def gone_on_with(folder):
    return simulate(resume(folder), folder)


def left_aside(folder):
    return [path for path in folder.rglob(".*") if path.is_file()]


@pytest.mark.parametrize(("count", "event"), [(1, "phase"), (2, "merged")])
def test_a_file_that_may_not_grow_any_more_stops_the_run_and_loses_nothing(unbroken, tmp_path, count, event):
    """The limit on the size of files fails as a full disk does, in the middle of a write."""
    folder = tmp_path / "run"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))

    try:
        with pytest.raises(RunError, match=r"cannot be written \(.*too large.*fcil resume") as error:
            simulate(prepare(CONFIG, folder), folder, when(count, event, limit))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(folder) in str(error.value)
    assert not left_aside(folder)
    assert len(list((folder / CHECKPOINTS).iterdir())) == count - 1
    assert gone_on_with(folder)["sha256"] == unbroken["sha256"]


def test_a_full_disk_under_the_events(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / EVENTS).symlink_to("/dev/full")
    recorder = Recorder.create(folder, CONFIG, {})
    with pytest.raises(RunError, match=r"run: cannot be written \(No space left on device\)"):
        recorder.emit({"event": "phase"})
    recorder.close()  # says nothing more


@pytest.mark.parametrize(
    ("module", "step"), [(checkpoints, "save_file"), (files, "sync_folder"), (records, "write_atomic")]
)
def test_every_step_of_writing_may_fail(unbroken, tmp_path, monkeypatch, module, step):
    folder = tmp_path / "run"

    def fails(*args):
        raise OSError(28, "No space left on device", "somewhere")

    def break_it():
        monkeypatch.setattr(module, step, fails)

    with pytest.raises(RunError, match="No space left on device"):
        simulate(prepare(CONFIG, folder), folder, when(2, "merged", break_it))
    monkeypatch.undo()
    assert gone_on_with(folder)["sha256"] == unbroken["sha256"]


def test_a_folder_that_is_moved_while_it_runs_is_gone_on_with_in_its_new_place(unbroken, tmp_path):
    folder, moved = tmp_path / "run", tmp_path / "moved"
    with pytest.raises(RunError, match="moved or deleted"):
        simulate(prepare(CONFIG, folder), folder, when(2, "merged", lambda: folder.rename(moved)))
    assert not folder.exists()
    assert not left_aside(moved)
    assert gone_on_with(moved)["sha256"] == unbroken["sha256"]


def test_a_folder_that_is_deleted_while_it_runs_stops_the_run(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(RunError, match="moved or deleted"):
        simulate(prepare(CONFIG, folder), folder, when(2, "merged", lambda: shutil.rmtree(folder)))


def test_a_folder_that_cannot_be_made_or_opened_is_a_mistake_of_the_user(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made"):
        simulate(prepare(CONFIG), tmp_path / "file" / "run")
    folder = tmp_path / "run"
    (folder / EVENTS).mkdir(parents=True)  # cannot be opened, whoever asks
    (folder / "config.toml").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        Recorder(folder)


KEEPING = replace(CONFIG, method=MethodChoice("er", {"rank": 2, "size": 6}))


@contextmanager
def filled(client, phase):
    """A disk that is full halfway through what a client writes of a phase."""
    save = store.save_file

    def full(arrays, path):
        if (path.parent.name, path.name.split(".")[1]) != (str(client), f"{phase:06d}"):
            return save(arrays, path)
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "save_file", full)
        yield


def test_a_disk_that_is_full_under_what_a_client_keeps_stops_the_run_which_goes_on_to_the_same_bits(tmp_path):
    whole = simulate(prepare(KEEPING, tmp_path / "whole"), tmp_path / "whole")
    folder = tmp_path / "run"
    with filled(1, 1), pytest.raises(RunError) as error:
        simulate(prepare(KEEPING, folder), folder)
    text = str(error.value)
    assert text.startswith(f"task 1, round 2: client 1: {folder}/clients/1: cannot be written (")
    assert "No space left on device" in text
    assert "last checkpoint is good" in text
    assert "Traceback" not in text
    assert not left_aside(folder)
    assert gone_on_with(folder)["sha256"] == whole["sha256"]


def test_or_costs_that_clients_update_where_that_is_asked_for(tmp_path):
    folder = tmp_path / "run"
    skipping = replace(KEEPING, run=replace(KEEPING.run, on_client_error="skip"))
    with filled(1, 1):
        summary = simulate(prepare(skipping, folder), folder)
    assert summary["refused"] == 1
    events = map(json.loads, (folder / EVENTS).read_text().splitlines())
    (lost,) = [event for event in events if event["event"] == "refused"]
    assert (lost["client"], lost["phase"]) == (1, 1)
    assert "cannot be written" in lost["reason"]
    assert "traceback" not in lost


def test_the_command_says_one_line_and_exits_by_it(tmp_path, monkeypatch, capsys):
    """Also where a plot or a cache, not the recorder, meets the full disk."""
    import fcil.report.run

    config = tmp_path / "small.toml"
    import tomli_w

    config.write_text(tomli_w.dumps({k: v for k, v in to_table(CONFIG).items() if k != "method"}
                                    | {"method": {"name": "fedavg", "rank": 2}}))  # fmt: skip

    def fails(*args):
        raise OSError(28, "No space left on device", "plots/accuracy.png")

    with monkeypatch.context() as broken:
        broken.setattr(fcil.report.run, "draw_run", fails)
        broken.setattr(checkpoints, "save_file", fails)
        assert main(["run", str(config), "--output", str(tmp_path / "run")]) == 1
        said = capsys.readouterr().err
        assert "cannot be written (No space left on device)" in said
        assert "Traceback" not in said
        broken.undo()
        broken.setattr(fcil.report.run, "draw_run", fails)
        assert main(["run", str(config), "--output", str(tmp_path / "run")]) == 1
        said = capsys.readouterr().err
        assert said == "fcil: plots/accuracy.png: No space left on device\n"
    assert main(["run", str(config), "--output", str(tmp_path / "run")]) == 0


def test_a_clock_that_is_set_changes_no_duration_and_no_result(unbroken, tmp_path, monkeypatch):
    folder, hour = tmp_path / "run", [0.0]
    real = time.time

    def turned_back():
        hour[0] -= 3600
        return real() + hour[0]

    monkeypatch.setattr(time, "time", turned_back)
    summary = simulate(prepare(CONFIG, folder), folder)
    assert summary["sha256"] == unbroken["sha256"]
    assert all(0 <= seconds < 600 for seconds in summary["seconds"].values())


def test_durations_are_taken_from_clocks_that_nobody_sets():
    """The wall clock is compared with files' dates, and told to MLflow, which wants it beside every number."""
    users = [
        str(path.relative_to(ROOT))
        for folder in ("fcil", "strategies")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("time.time", "time.time_ns")
    ]
    assert users == ["fcil/exchange/flower/resident_start.py", "fcil/files.py", "fcil/loggers/to_mlflow.py"]


IN_A_SMALL_DISK = """
import os, subprocess, sys
from pathlib import Path
sys.path[:0] = {path!r}
from fcil.cli.main import main
from fcil.client import store
from fcil.engine.records import read_summary
place = Path({place!r})
def mount(*options):
    subprocess.run(["mount", *options, str(place)], check=True)
mount("-t", "tmpfs", "-o", "size=3m", "none")
filler = place / "filler"
filler.write_bytes(bytes({filler}))
print("code", main(["run", {config!r}, "--output", str(place / "run")]), flush=True)
assert not [p for p in place.rglob(".*") if p.is_file()]
mount("-o", "remount,ro")
print("code", main(["run", {config!r}, "--output", str(place / "other")]), flush=True)
print("code", main(["resume", str(place / "run")]), flush=True)
mount("-o", "remount,rw")
filler.unlink()
print("code", main(["resume", str(place / "run")]), flush=True)
print("sha", read_summary(place / "run")["sha256"], flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("left", [8_000, 60_000, 150_000])
def test_a_disk_that_is_really_full_and_then_read_only(unbroken, tmp_path, left):
    """A file system of its own in a name space of its own, which ends with the process."""
    if subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", tmp_path], capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    import tomli_w

    config, place = tmp_path / "small.toml", tmp_path / "disk"
    place.mkdir()
    config.write_text(tomli_w.dumps({k: v for k, v in to_table(CONFIG).items() if k != "method"}
                                    | {"method": {"name": "fedavg", "rank": 2}}))  # fmt: skip
    code = IN_A_SMALL_DISK.format(
        path=[p for p in sys.path if p], place=str(place), config=str(config), filler=3 * (1 << 20) - left
    )
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    codes = [line for line in lines if line.startswith("code")]
    assert codes[1:] == ["code 2", "code 2", "code 0"]
    assert codes[0] in ("code 1", "code 2")  # 2: not even the settings could be written
    assert f"sha {unbroken['sha256']}" in lines
    assert "No space left on device" in done.stderr
    assert "Read-only file system" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_finished_run_says_so(unbroken, tmp_path):
    folder = tmp_path / "run"
    simulate(prepare(CONFIG, folder), folder)
    assert read_summary(folder)["sha256"] == unbroken["sha256"]
