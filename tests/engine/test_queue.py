"""The runs of a comparison shared among processes: each is carried out once, whoever fails, dies or joins."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console
from small import small_toml

from fcil.cli.main import main
from fcil.engine.comparison import Cell, cells
from fcil.engine.folder_lock import is_locked, open_locked
from fcil.engine.following import Follower, failure
from fcil.engine.grid import go_where_it_was_begun, read_grid, run_state, write_grid
from fcil.engine.jobs import Jobs, alive, in_process
from fcil.engine.queue import Queue, carry_out_free, forget_failure, note_failure
from fcil.engine.records import EVENTS, FAILED, SUMMARY, read_provenance
from fcil.engine.simulation import simulate
from fcil.errors import ConfigError, FolderInUse, RunError
from fcil.report.grid_view import GridView

BASE = (
    small_toml()
    + """\
[compare.ncm]
[compare.ridge]
"""
)
RAISES = '''
from dataclasses import dataclass
from fcil.method import Averaging

@dataclass(frozen=True, kw_only=True)
class Raises(Averaging):
    """Fails where it merges."""

    additive = False

    def merge(self, state, phase, updates):
        raise ZeroDivisionError("never merged")
'''


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "some.toml"
    file.write_text(BASE)
    return file


def planned(out, count=3, work=(1.0,)):
    """Runs without settings, for whom only their folders matter."""
    return [Cell("m", seed, out / f"m-seed{seed}", None, work=work) for seed in range(count)]


def fake(log, seconds=0.0):
    """Something that carries out a run as far as the folder shows: it holds the lock, and ends with a summary."""

    def run(cell):
        cell.folder.mkdir(parents=True, exist_ok=True)
        with open_locked(cell.folder / EVENTS):
            if (cell.folder / SUMMARY).exists():
                return {}
            time.sleep(seconds)
            log.append(cell.folder.name)
            (cell.folder / SUMMARY).write_text("{}")
        return {}

    return run


def test_a_lock_is_one_processes_and_ends_with_it(tmp_path):
    file = tmp_path / "file"
    assert not is_locked(file)
    with open_locked(file):
        assert is_locked(file)
        with pytest.raises(FolderInUse, match="another process is working on this run"):
            open_locked(file)
    assert not is_locked(file)


def test_whoever_looks_whether_a_run_is_locked_keeps_nobody_from_locking_it(tmp_path):
    file, over = tmp_path / "file", threading.Event()
    file.touch()

    def look():
        while not over.is_set():
            is_locked(file)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for _ in range(200):
            open_locked(file).close()
    finally:
        over.set()
        watcher.join()


def test_several_share_the_runs_and_none_is_carried_out_twice(tmp_path):
    log, runs = [], planned(tmp_path, 24)

    def work():
        list(carry_out_free(Queue.of(tmp_path, runs), fake(log, 0.002)))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(log) == sorted(cell.folder.name for cell in runs)


def test_long_runs_come_first_where_several_share_them(tmp_path):
    runs = [Cell("m", k, tmp_path / str(k), None, work=(w, 1.0)) for k, w in enumerate((2.0, 5.0, 3.0))]
    assert [cell.seed for cell in Queue.of(tmp_path, runs, longest_first=True).runs] == [1, 2, 0]
    assert list(Queue.of(tmp_path, runs).runs) == runs


def test_a_failed_run_is_told_and_the_others_go_on_and_it_is_tried_again_by_who_begins_later(tmp_path):
    runs, log = planned(tmp_path), []
    good = fake(log)

    def run(cell):
        if cell.seed == 1:
            raise RunError("no client sent anything")
        return good(cell)

    early, other = Queue.of(tmp_path, runs), Queue.of(tmp_path, runs)
    outcomes = list(carry_out_free(early, run))
    assert [(o.cell.seed, o.summary is None, o.reason) for o in outcomes] == [
        (0, False, ""), (1, True, "no client sent anything"), (2, False, ""),
    ]  # fmt: skip
    assert [run_state(cell.folder) for cell in runs] == ["finished", "failed", "finished"]
    assert other.next() is None, "it has failed since this one began"
    os.utime(runs[1].folder / FAILED, (1, 1))
    assert [o.cell.seed for o in carry_out_free(Queue.of(tmp_path, runs), good)] == [1]
    assert run_state(runs[1].folder) == "finished"
    assert not (runs[1].folder / FAILED).exists()


def test_a_failure_is_not_noted_in_a_run_that_another_process_has_taken_up(tmp_path):
    (tmp_path / "run").mkdir()
    with open_locked(tmp_path / "run" / EVENTS):
        note_failure(tmp_path / "run", "of the attempt before")
        assert not (tmp_path / "run" / FAILED).exists()
        (tmp_path / "run" / FAILED).write_text("of an attempt before that\n")
        with pytest.raises(FolderInUse):
            forget_failure(tmp_path / "run")
    forget_failure(tmp_path / "run")
    assert not (tmp_path / "run" / FAILED).exists()
    note_failure(tmp_path / "run", "of this one")
    assert (tmp_path / "run" / FAILED).read_text() == "of this one\n"


def test_processes_that_cannot_all_be_started_are_ended_and_logs_of_live_ones_stay(tmp_path, monkeypatch):
    def slow(*arguments, **more):
        return popen([sys.executable, "-c", "import time; time.sleep(60)"], **more)

    popen = subprocess.Popen
    monkeypatch.setattr("fcil.engine.jobs.subprocess.Popen", slow)
    with Jobs(tmp_path, 2) as first, Jobs(tmp_path, 1) as second:
        assert alive(tmp_path) == 3
        assert not first.running.keys() & second.running.keys()
        begun = list(first.running.values())

        def refused(*arguments, **more):
            raise OSError("no more processes")

        monkeypatch.setattr("fcil.engine.jobs.subprocess.Popen", refused)
        with pytest.raises(OSError, match="no more"), Jobs(tmp_path, 1):
            pass
        assert all(process.poll() is None for process in begun)
    assert alive(tmp_path) == 0


def test_a_mistake_in_code_is_told_with_its_traceback_and_an_interrupt_ends_the_process(tmp_path):
    runs = planned(tmp_path, 1)

    def wrong(cell):
        raise ZeroDivisionError("of mine")

    (outcome,) = carry_out_free(Queue.of(tmp_path, runs), wrong)
    assert "Traceback" in outcome.reason
    assert outcome.reason.endswith("ZeroDivisionError: of mine")

    def interrupted(cell):
        raise KeyboardInterrupt

    os.utime(runs[0].folder / FAILED, (1, 1))
    with pytest.raises(KeyboardInterrupt):
        list(carry_out_free(Queue.of(tmp_path, runs), interrupted))


def test_a_run_that_another_process_leaves_is_taken_over_by_one_that_waits(tmp_path, monkeypatch):
    monkeypatch.setattr("fcil.engine.queue.PAUSE", 0.01)
    runs, log = planned(tmp_path, 2), []
    runs[0].folder.mkdir()
    held = open_locked(runs[0].folder / EVENTS)
    queue = Queue.of(tmp_path, runs)
    assert [o.cell.seed for o in carry_out_free(queue, fake(log), wait=False)] == [1]
    assert queue.others() == [runs[0]]
    threading.Timer(0.1, held.close).start()
    assert [o.cell.seed for o in carry_out_free(Queue.of(tmp_path, runs), fake(log))] == [0]


def test_what_is_written_of_the_runs_is_read_back(path, tmp_path):
    out = tmp_path / "out"
    runs = cells(path, ["ridge(penalty=3.0)", "ncm"], [0, 4], ["train.epochs=1"], out, ["partition.beta=0.5,0.1"])
    write_grid(out, runs)
    assert read_grid(out) == runs
    assert all(sum(cell.work) > 0 for cell in runs)
    (out / "grid.json").write_text("{")
    with pytest.raises(ConfigError, match=r"grid.json: damaged .* delete it, and give"):
        read_grid(out)
    with pytest.raises(ConfigError, match="holds no comparison"):
        read_grid(tmp_path)


def finished(out):
    return {p.parent.name: json.loads(p.read_text())["sha256"] for p in out.glob("*/summary.json")}


def test_processes_end_in_the_bits_and_the_table_of_one(path, tmp_path, capsys):
    one, several = tmp_path / "one", tmp_path / "several"
    assert main(["compare", str(path), "--seeds", "1", "--output", str(one)]) == 0
    alone = capsys.readouterr().out
    assert main(["compare", str(path), "--seeds", "1", "--jobs", "2", "--output", str(several)]) == 0
    shared = capsys.readouterr().out
    assert finished(several) == finished(one)
    assert len(finished(one)) == 2
    table = [line for line in alone.splitlines() if line.startswith(("ncm ", "ridge "))]
    assert [line.split()[:5] for line in table] == [
        line.split()[:5] for line in shared.splitlines() if line.startswith(("ncm ", "ridge "))
    ]
    assert "ridge, seed 1: finished" in shared
    assert sorted(p.name for p in (several / "jobs").iterdir()) == ["1.log", "2.log"]
    assert main(["watch", str(several)]) == 0
    assert "2 runs: 2 finished" in capsys.readouterr().out
    assert main(["compare", str(several), "--join"]) == 0
    assert "carried out 0 runs; other processes work on 0" in capsys.readouterr().out
    assert main(["watch", str(several / "ncm-seed1")]) == 0
    assert "1 run: 1 finished" in capsys.readouterr().out


@pytest.mark.slow
def test_killed_processes_are_replaced_and_nothing_is_lost(path, tmp_path):
    one, several = tmp_path / "one", tmp_path / "several"
    longer = ["--methods", "lorm,fedavg", "--seeds", "0,1", "--set", "train.rounds=4"]
    assert main(["compare", str(path), *longer, "--output", str(one)]) == 0
    write_grid(several, in_process(cells(path, ["lorm", "fedavg"], [0, 1], ["train.rounds=4"], several)))
    killed, deadline = 0, time.monotonic() + 300
    with Jobs(several, 2) as jobs:
        while jobs.running and time.monotonic() < deadline:
            working = [folder for folder in several.glob("*/checkpoint") if any(folder.iterdir())]
            if killed < 2 and len(working) > killed:
                killed += 1
                next(iter(jobs.running.values())).send_signal(signal.SIGKILL)
            time.sleep(0.1)
            jobs.ended()
    assert killed == 2
    assert finished(several) == finished(one)
    assert len(finished(one)) == 4


def test_a_run_that_fails_is_missing_from_the_table_and_the_others_are_in_it(path, tmp_path, capsys):
    mine, out = tmp_path / "mine.py", tmp_path / "out"
    mine.write_text(RAISES)
    arguments = ["compare", str(path), "--methods", f"{mine}:Raises,ncm", "--seeds", "0", "--output", str(out)]
    assert main(arguments) == 1
    shown, told = capsys.readouterr()
    assert "ZeroDivisionError: never merged" in shown
    assert "Traceback" in shown
    assert any(line.startswith("ncm ") for line in shown.splitlines())
    assert "1 of 2 runs without figures" in told
    assert "failed: ZeroDivisionError: never merged" in told
    assert "never merged" in (out / "missing.md").read_text()
    assert "a run that had got beyond its first phase when a method's own file was mended" in told
    mended = RAISES.replace('raise ZeroDivisionError("never merged")', "return state")
    mine.write_text(mended)
    assert main(arguments) == 0, "nothing had been done with the file as it was"
    assert not (out / "missing.md").exists()
    (begun,) = (p for p in out.iterdir() if p.name.startswith("mine"))
    assert read_provenance(begun)["method_sources"] == {str(mine): hashlib.sha256(mended.encode()).hexdigest()}
    mine.write_text(RAISES)
    assert main(arguments) == 2, "now it is a run of that file"
    assert "the run began with another content of" in capsys.readouterr().err


def test_why_a_run_failed_is_the_line_of_its_message_or_the_last_of_a_traceback(tmp_path):
    (tmp_path / "failed.txt").write_text("task 1, round 1: client 0 raised ValueError: no\n\nTraceback\n\nMend it.\n")
    assert failure(tmp_path) == "task 1, round 1: client 0 raised ValueError: no"
    (tmp_path / "failed.txt").write_text("Traceback (most recent call last):\n  File\nZeroDivisionError: never\n")
    assert failure(tmp_path) == "ZeroDivisionError: never"
    (tmp_path / "failed.txt").write_text("")
    assert failure(tmp_path) == failure(tmp_path / "none") == ""


def test_a_comparison_does_not_go_on_top_of_a_single_run(path, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["run", str(path), "--set", "method.name=ncm", "--output", str(out)]) == 0
    there = sorted(out.rglob("*"))
    assert main(["compare", str(path), "--methods", "ncm", "--seeds", "0", "--output", str(out)]) == 2
    assert "holds a single run" in capsys.readouterr().err
    assert sorted(out.rglob("*")) == there


def test_another_comparisons_runs_are_never_taken_for_ones_own(path, tmp_path, capsys):
    """Neither finished ones, of which another process wrote the figures, nor those that go on."""
    out = tmp_path / "out"
    ours, theirs = (cells(path, ["ncm"], [0], [f"partition.beta={beta}"], out) for beta in (0.5, 0.1))
    write_grid(out, theirs)
    theirs[0].session()
    simulate(theirs[0].session(), theirs[0].folder)
    with pytest.raises(ConfigError, match=r"holds another run, which differs in partition\.beta"):
        Queue.of(out, ours).summaries()
    assert theirs[0].folder in Queue.of(out, theirs).summaries()
    with open_locked(theirs[0].folder / EVENTS):
        (theirs[0].folder / SUMMARY).unlink()
        with pytest.raises(
            ConfigError, match=r"another comparison goes on in this folder, whose ncm, seed 0 has other"
        ):
            write_grid(out, ours)
        write_grid(out, theirs)
    assert main(["compare", str(path), "--methods", "ridge", "--output", str(out), "--join"]) == 2
    assert "its comparison has no ridge, seed 0" in capsys.readouterr().err
    assert main(["compare", str(path), "--output", str(tmp_path / "nowhere"), "--join"]) == 2
    assert "holds no comparison to join" in capsys.readouterr().err


def test_a_process_that_lacks_a_file_ends_and_fails_nobodys_run(tmp_path):
    runs = planned(tmp_path, 2)

    def lacks(cell):
        raise ConfigError("model.weights: no such file")

    with pytest.raises(ConfigError, match="no such file"):
        list(carry_out_free(Queue.of(tmp_path, runs), lacks))
    assert [run_state(cell.folder) for cell in runs] == ["not begun", "not begun"]


def test_relative_paths_hold_where_the_comparison_was_begun(path, tmp_path, monkeypatch):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    write_grid(out, cells(path, ["ncm"], [0], [], out))
    monkeypatch.chdir(elsewhere)
    assert go_where_it_was_begun(Path("../out")).resolve() == out.resolve()
    assert Path.cwd() == tmp_path


def test_settings_beside_the_folder_of_a_comparison_are_refused(path, tmp_path, capsys):
    out = tmp_path / "out"
    write_grid(out, cells(path, [], [0], [], out))
    assert main(["compare", str(out), "--seeds", "1"]) == 2
    assert "was begun, with settings of its own" in capsys.readouterr().err
    assert main(["compare", str(path), "--jobs", "2", "--exchange", "ray"]) == 2
    assert "a Ray of its own" in capsys.readouterr().err


# ---- where runs stand --------------------------------------------------------------------------------------------


def write_events(folder, *events, end="\n"):
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / EVENTS, "a") as file:
        file.write("\n".join(json.dumps(event) for event in events) + end)


PHASE = {"event": "phase", "phase": 0, "kind": "train", "task": 0, "round": 1}
CLIENT = {"event": "client", "images": 40.0}
MERGED = {"event": "merged", "phase": 0, "seconds_clients": 3.0, "seconds_merge": 1.0}
TASK = {"event": "task", "accuracy": 0.5, "seconds": 2.0}


def test_a_run_is_followed_by_its_events_line_by_whole_line(tmp_path):
    (cell,) = planned(tmp_path, 1, work=(3.0, 1.0, 2.0))
    follower = Follower(cell)
    assert (follower.look().state, follower.look().share) == ("not begun", 0.0)
    write_events(cell.folder, PHASE, CLIENT, MERGED, end="")
    assert follower.look().share == 0.0, "the last line is not whole yet"
    write_events(cell.folder, end="\n")
    write_events(cell.folder, TASK)
    seen = follower.look()
    assert (seen.share, seen.place, seen.accuracy, seen.images) == (0.5, "task 1, round 1", 0.5, 40.0)
    assert seen.seconds == 6.0
    assert seen.seconds_left == 6.0
    (cell.folder / EVENTS).write_text("")  # as a run does that goes on from an earlier checkpoint
    assert follower.look().share == 0.0
    write_events(cell.folder, {**PHASE, "round": 7}, CLIENT, CLIENT, CLIENT, MERGED)
    assert follower.look().images == 120.0
    (cell.folder / EVENTS).write_text("")  # cut back, and longer than before at the next look
    write_events(cell.folder, *[{**CLIENT, "client": "a longer line"}] * 9, MERGED)
    assert (follower.look().images, follower.look().share) == (360.0, 0.5)


def test_the_time_left_is_that_of_the_work_left_at_the_pace_so_far_on_as_many_as_run(tmp_path):
    runs = planned(tmp_path, 4, work=(1.0, 1.0))
    for cell in runs[:2]:
        write_events(cell.folder, PHASE, MERGED)  # half of it in 4 seconds
    view = GridView(runs)
    assert view.seconds_left(view.look()) is None, "nobody works"
    with open_locked(runs[0].folder / EVENTS), open_locked(runs[1].folder / EVENTS):
        standings = view.look()
        assert view.seconds_left(standings) == pytest.approx((1 + 1 + 2 + 2) * 4 / 2)
        assert "4 runs: 2 running, 2 not begun; about 0:12 left" in str(view.headline(standings))
        console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
        console.print(view.draw(standings, lines=3))
        text = console.export_text()
    assert "50 %" in text
    assert "and 1 more" in text


def test_processes_that_work_on_no_run_yet_are_said_to_load(tmp_path):
    runs = planned(tmp_path, 3)
    (tmp_path / "jobs").mkdir()
    view = GridView(runs, tmp_path)

    def headline():
        return view.headline(view.look()).plain

    with open_locked(tmp_path / "jobs" / "1.log"), open_locked(tmp_path / "jobs" / "2.log"):
        assert headline() == "3 runs: 3 not begun, 2 processes loading"
        write_events(runs[0].folder, PHASE)
        with open_locked(runs[0].folder / EVENTS):
            assert headline() == "3 runs: 1 running, 2 not begun, 1 process loading"
    assert headline() == "3 runs: 3 not begun", "none of a command that has ended"
    with Jobs(tmp_path, 1) as processes:
        assert alive(tmp_path) == 1
        (log,) = processes.running
    assert not is_locked(log)
