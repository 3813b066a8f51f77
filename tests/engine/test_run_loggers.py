"""Loggers are told of every saved phase once, whatever happens to the run or to one of them."""

import csv
import json
from collections import Counter
from dataclasses import replace

import pytest

from fcil.config import to_table
from fcil.engine.comparison import cells
from fcil.engine.reading import read_events
from fcil.engine.records import Recorder
from fcil.engine.run_loggers import LOGGERS, RunLoggers
from fcil.engine.simulation import prepare, simulate
from fcil.errors import ConfigError
from fcil.loggers import Logger, RunInfo, build_loggers
from fcil.report.grid_running import carry_out_grid
from fcil.server import loop

PHASES = 2


class Listener(Logger):
    """Notes what it is told; raises where it is asked to."""

    def __init__(self, fails=()):
        self.calls, self.fails = [], fails

    def note(self, name, *told):
        self.calls.append((name, *told))
        if name in self.fails:
            raise OSError(f"no service at {name}")

    def started(self, run):
        self.run = run
        self.note("started", run.done)

    def event(self, event):
        self.note("event", event["event"])

    def figures(self, step, figures):
        self.note("figures", step)
        self.last = figures

    def finished(self, figures):
        self.note("finished", figures["final_accuracy"])

    def closed(self, reason):
        self.note("closed", reason)

    def steps(self):
        return [step for name, step in self.calls if name == "figures"]


@pytest.fixture
def config(digits_config):
    sections = {"train": {"rounds": 1}, "method": {"name": "fedavg", "rank": 2}, "model": {"image_size": 16}}
    return digits_config(sections, {"data": {"train_limit": 60, "test_limit": 40}})


def run(config, folder, *loggers):
    return simulate(prepare(config, folder), folder, loggers=loggers)


@pytest.fixture
def stopped_after(monkeypatch):
    """Make runs stop in the middle of the phase after this many: clients have answered, nothing is saved."""
    receive = loop.receive

    def stop(phases):
        def interrupted(plan, progress, request, gathered):
            if request.phase.index >= phases:
                raise KeyboardInterrupt
            return receive(plan, progress, request, gathered)

        monkeypatch.setattr(loop, "receive", interrupted)

    return stop


def test_a_run_is_told_once_and_its_result_is_the_same(config, tmp_path):
    listener = Listener()
    alone, told = run(config, tmp_path / "alone"), run(config, tmp_path / "told", listener)
    assert alone["sha256"] == told["sha256"]
    assert not (tmp_path / "alone" / LOGGERS).exists()
    assert listener.calls[0] == ("started", 0)
    assert listener.steps() == [1, 2]
    assert listener.calls[-2:] == [("finished", told["final_accuracy"]), ("closed", "")]
    events = [name for call, name in listener.calls if call == "event"]
    assert events == [event["event"] for event in read_events(tmp_path / "told")]
    assert listener.last["accuracy/all"] == told["final_accuracy"]
    assert (listener.run.name, listener.run.group, listener.run.phases) == ("told", "", PHASES)
    assert listener.run.config["partition.clients"] == 3
    assert listener.run.config["method.rank"] == 2
    assert "provenance.versions.torch" in listener.run.config
    again = Listener()
    assert run(config, tmp_path / "told", again)["sha256"] == told["sha256"]
    assert again.calls == []  # an object of the same class has been told all


def test_a_resumed_run_is_told_from_where_it_was_saved(config, tmp_path, stopped_after, monkeypatch):
    first, second = Listener(), Listener()
    stopped_after(1)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path, first)
    assert (first.steps(), first.calls[-1]) == ([1], ("closed", "KeyboardInterrupt"))
    monkeypatch.undo()
    run(config, tmp_path, second)
    assert (second.calls[0], second.steps()) == (("started", 1), [2])
    assert first.run.id == second.run.id
    told = [name for listener in (first, second) for call, name in listener.calls if call == "event"]
    assert Counter(told) == Counter(event["event"] for event in read_events(tmp_path))


def test_one_that_fails_costs_one_warning_and_is_told_the_rest_the_next_time(config, tmp_path):
    bad, good = Listener(fails=("figures",)), Listener()
    good.__class__ = type("Other", (Listener,), {})
    run(config, tmp_path, bad, good)
    assert bad.steps() == [1]
    assert bad.calls[-1] == ("closed", "OSError: no service at figures")
    assert good.steps() == [1, 2]
    warnings = [event["reason"] for event in read_events(tmp_path) if event["event"] == "warning"]
    assert warnings == [
        "logger Listener failed, and the run goes on without it: OSError: no service at figures",
    ]
    mended = Listener()
    run(config, tmp_path, mended)  # the run is finished
    assert (mended.calls[0], mended.steps()) == (("started", 0), [1, 2])
    assert [name for name, *_ in mended.calls[-2:]] == ["finished", "closed"]


def test_what_is_no_logger_is_refused_before_anything_is_written(config, tmp_path):
    with pytest.raises(ConfigError, match="'tensorboard' is no logger; make its class a subclass"):
        run(config, tmp_path / "run", "tensorboard")
    assert not (tmp_path / "run" / "config.toml").exists()


@pytest.mark.parametrize("fails", ["started", "finished", "closed"])
def test_wherever_it_fails_the_run_ends_well(fails, config, tmp_path):
    recorder = Recorder.create(tmp_path / "run", config, {})
    warnings = []
    with RunLoggers(tmp_path / "run", {"mine": Listener(fails=(fails,))}, warnings.append, 0, 1) as log:
        recorder.emit({"event": "phase", "phase": 0, "task": 0, "round": 1, "clients": [], "download_bytes": 0})
        log.follow(1)
        log.finish({"final_accuracy": 0.5})
    recorder.close()
    assert warnings == [f"logger mine failed, and the run goes on without it: OSError: no service at {fails}"]


def test_a_log_that_was_cut_back_further_than_what_was_told_is_followed_from_its_end(config, tmp_path):
    recorder = Recorder.create(tmp_path, config, {})

    def phase(index):
        recorder.emit({"event": "phase", "phase": index, "task": 0, "round": 1, "clients": [], "download_bytes": 0})

    for index in range(3):
        phase(index)
    with RunLoggers(tmp_path, {"mine": Listener()}, pytest.fail, 3, 4) as log:
        log.follow(3)
    size = (tmp_path / "metrics.jsonl").stat().st_size // 3
    recorder._events.truncate(2 * size)  # as after a damaged checkpoint
    again = Listener()
    with RunLoggers(tmp_path, {"mine": again}, pytest.fail, 2, 4) as log:
        for index in (2, 3):
            phase(index)
            log.follow(index + 1)
    recorder.close()
    assert (again.calls[0], again.steps()) == (("started", 2), [3, 4])


def test_a_comparison_tells_of_each_run_with_its_group_and_csv_is_written(config, tmp_path, monkeypatch):
    for drawn in ("fcil.report.run.draw_run", "fcil.report.comparison.write_comparison"):
        monkeypatch.setattr(drawn, lambda *_: {})  # which takes longer than the run
    told = replace(config, run=replace(config.run, log=("csv",)))
    runs = cells(to_table(told), ["fedavg"], [1], {}, tmp_path / "pair")
    listener = Listener()
    with pytest.raises(ConfigError, match="objects of this process cannot be told of runs in others; use one job"):
        carry_out_grid(tmp_path / "pair", runs, 2, loggers=[listener])
    carry_out_grid(tmp_path / "pair", runs, loggers=[listener])
    assert (listener.run.name, listener.run.group) == ("fedavg-seed1", "pair")
    for cell in runs:
        rows = list(csv.DictReader((cell.folder / "log.csv").read_text().splitlines()))
        final = [float(row["value"]) for row in rows if row["name"] == "final/final_accuracy"]
        assert final == [json.loads((cell.folder / "summary.json").read_text())["final_accuracy"]]
        accuracies = {(row["step"], row["task"]): float(row["value"]) for row in rows if row["name"] == "accuracy/all"}
        expected = {
            (str(event["phase"] + 1), str(event["task"] + 1)): event["accuracy"]
            for event in read_events(cell.folder)
            if event["event"] == "task"
        }
        assert accuracies == expected


def test_csv_keeps_of_a_resumed_run_what_was_saved(tmp_path):
    for done in (0, 2, 1):
        logger = build_loggers(["csv"])["csv"]
        logger.started(RunInfo(tmp_path, "run", done=done))
        for step in range(done + 1, 4):
            logger.figures(step, {"task": 1, "round": step, "a": done})
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [(row["step"], row["value"]) for row in rows] == [("1", "0"), ("2", "1"), ("3", "1")]
