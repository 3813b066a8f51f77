"""An exception in a client's code: it stops the run, and says where; or it costs one update; it is never silent."""

import json

import pytest
import tomli_w

from fcil.cli.main import main
from fcil.config import to_table
from fcil.engine.records import read_summary
from fcil.engine.simulation import prepare, resume, simulate
from fcil.errors import RunError
from fcil.exchange import worker as worker_module
from fcil.server.replies import TRACEBACK, Failure, crashed
from strategies.fedavg import FedAvg

run_client = worker_module.run_client
SKIP = {"run": {"on_client_error": "skip"}}


@pytest.fixture
def config(digits_config):
    def make(**run):
        small = {"data": {"train_limit": 60, "test_limit": 20}, "method": {"name": "fedavg", "rank": 2}}
        return digits_config(small, {"run": run})

    return make


@pytest.fixture
def faulty(monkeypatch):
    """Client 1 raises in phase 1."""

    def a_line_of_the_method(phase, client):
        if (phase.index, client) == (1, 1):
            raise RuntimeError("boom\x1b[2J")

    def run(method, model, data, train, phase, broadcast, client, kept):
        a_line_of_the_method(phase, client)
        return run_client(method, model, data, train, phase, broadcast, client, kept)

    monkeypatch.setattr(worker_module, "run_client", run)


def refused(folder):
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [e for e in events if e["event"] == "refused"]


@pytest.mark.parametrize("groups", [False, True])
def test_it_stops_the_run_with_phase_client_traceback_and_a_way_on(config, faulty, tmp_path, groups, monkeypatch):
    session = prepare(config(aggregate_on_worker=groups), tmp_path / "run")
    with pytest.raises(RunError) as error:
        simulate(session, tmp_path / "run")
    text = str(error.value)
    assert text.startswith("task 1, round 2: client 1 raised RuntimeError: boom")
    for part in ("Traceback", "test_client_errors.py", "in a_line_of_the_method", "last checkpoint is good",
                 "fcil resume", "--set run.on_client_error=skip", "--output"):  # fmt: skip
        assert part in text
    assert "\x1b" not in text, "a client may not write on the terminal"
    (event,) = refused(tmp_path / "run")
    assert (event["client"], event["phase"]) == (1, 1)
    assert event["reason"].startswith("RuntimeError: boom")
    assert "in a_line_of_the_method" in event["traceback"]
    assert read_summary(tmp_path / "run") is None

    monkeypatch.undo()
    mended = simulate(resume(tmp_path / "run"), tmp_path / "run")
    whole = simulate(prepare(config(aggregate_on_worker=groups), tmp_path / "whole"), tmp_path / "whole")
    assert mended["sha256"] == whole["sha256"]
    assert not mended["refused"]


@pytest.mark.parametrize("groups", [False, True])
def test_it_costs_one_update_where_that_is_asked_for_also_in_a_run_that_it_stopped(config, faulty, tmp_path, groups):
    skipping = config(aggregate_on_worker=groups, on_client_error="skip")
    through = simulate(prepare(skipping, tmp_path / "through"), tmp_path / "through")
    (event,) = refused(tmp_path / "through")
    assert "in a_line_of_the_method" in event["traceback"]
    assert through["refused"] == 1
    with pytest.raises(RunError, match="client 1 raised"):
        simulate(prepare(config(aggregate_on_worker=groups), tmp_path / "run"), tmp_path / "run")
    assert simulate(prepare(skipping, tmp_path / "run"), tmp_path / "run")["sha256"] == through["sha256"]


def test_the_command_line_prints_it_and_ends_with_1(config, faulty, tmp_path, capsys):
    path = tmp_path / "some.toml"
    path.write_text(tomli_w.dumps(to_table(config())))
    assert main(["run", str(path), "--output", str(tmp_path / "run")]) == 1
    output = capsys.readouterr().err
    assert output.startswith("fcil: task 1, round 2: client 1 raised RuntimeError: boom")
    assert "in a_line_of_the_method" in output
    skip = ["--set", "run.on_client_error=skip"]
    assert main(["run", str(path), "--output", str(tmp_path / "run"), *skip]) == 0


@pytest.mark.parametrize("on_client_error", ["stop", "skip"])
def test_sums_that_raise_are_an_exception_in_the_clients_code_of_all_the_group(
    config, tmp_path, monkeypatch, on_client_error
):
    def sums(self, phase, broadcast, updates):
        if {u.client for u in updates} == {0, 1}:
            raise ZeroDivisionError("no sums")
        return theirs(self, phase, broadcast, updates)

    theirs = FedAvg.sums
    monkeypatch.setattr(FedAvg, "sums", sums)
    session = prepare(config(aggregate_on_worker=True, on_client_error=on_client_error), tmp_path / "run")
    if on_client_error == "stop":
        with pytest.raises(RunError, match="client 0 raised ZeroDivisionError: no sums"):
            simulate(session, tmp_path / "run")
    else:
        assert simulate(session, tmp_path / "run")["refused"] == 2 * len(session.plan.phases)
    assert {e["client"] for e in refused(tmp_path / "run")} == {0, 1}
    assert all("in sums" in e["traceback"] for e in refused(tmp_path / "run"))


def test_other_losses_cost_one_update_in_both_settings(config, tmp_path, monkeypatch):
    from fcil.exchange.inline import Inline

    class Losing(Inline):
        def __call__(self, request):
            for reply in super().__call__(request):
                yield Failure(1, "no reply within 3 seconds") if reply.client == 1 else reply

    for setting in ("stop", "skip"):
        session = prepare(config(on_client_error=setting), tmp_path / setting)
        done = simulate(session, tmp_path / setting, exchange=Losing(session.worker))
        assert done["refused"] == len(session.plan.phases)
        assert not any("traceback" in e for e in refused(tmp_path / setting))


def test_a_traceback_keeps_its_end():
    def deeper(n):
        if n:
            return deeper(n - 1)
        raise ValueError("x" * TRACEBACK + "the end")

    try:
        deeper(50)
    except ValueError as error:
        failure = crashed(7, error)
    assert failure.client == 7
    assert len(failure.traceback) == TRACEBACK
    assert failure.traceback.rstrip().endswith("the end")
