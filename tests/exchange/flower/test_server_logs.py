"""The ServerApp tells the loggers of `run.log`, as a run in one process does."""

import csv
import json
import logging

import pytest
from flower_runs import TABLE, InProcess
from flwr.app import Context, RecordDict

from fcil.cli import server_app
from fcil.cli.server_errors import Stopped
from fcil.exchange.flower.client_app import app


def test_what_a_person_waits_for_is_told_with_its_place(caplog):
    told, log = [], logging.getLogger("flwr")
    tell = server_app._listen(told.append, tasks=2)
    at = {"phase": 3, "task": 0, "round": 4}
    events = [
        {"event": "warning", "reason": "no network"},
        {"event": "phase", "kind": "train", **at},
        {"event": "refused", "client": 1, "reason": "NaN", **at},
        {"event": "merged", "updates": 2, "seconds_clients": 5.0, **at},
        {"event": "round", "accuracy": 0.25, **at},
        {"event": "phase", "kind": "report", **(at | {"phase": 4, "round": 5})},
        {"event": "merged", "updates": 3, "seconds_clients": 1.0, **(at | {"phase": 4, "round": 5})},
        {"event": "task", "accuracy": 0.5, **(at | {"phase": 4, "round": 5})},
    ]
    log.propagate, was = True, log.propagate
    try:
        with caplog.at_level(logging.INFO, "flwr"):
            for event in events:
                tell(event)
    finally:
        log.propagate = was
    assert told == events
    assert caplog.messages == [
        "no network",
        "task 1, round 4: client 1: NaN",
        "task 1, round 4: 2 updates in 5.0 s",
        "task 1, round 4: accuracy 0.2500",
        "task 1, report: 3 updates in 1.0 s",
        "after task 1/2: accuracy 0.5000",
    ]


def test_the_server_app_writes_what_run_log_names(tmp_path, monkeypatch):
    monkeypatch.setattr(server_app, "draw_run", lambda *_: None)  # which takes longer than the run
    table = TABLE | {"method": {"name": "ridge"}, "model": {"image_size": 16}, "run": TABLE["run"] | {"log": ["csv"]}}
    run_config = {"settings": json.dumps([["test", table]]), "output": str(tmp_path / "run")}
    server_app.main(InProcess(app), Context(1, 1, {}, RecordDict(), run_config))
    rows = list(csv.DictReader((tmp_path / "run" / "log.csv").read_text().splitlines()))
    final = json.loads((tmp_path / "run" / "summary.json").read_text())["final_accuracy"]
    assert [float(row["value"]) for row in rows if row["name"] == "final/final_accuracy"] == [final]
    assert [float(row["value"]) for row in rows if row["name"] == "accuracy/after_task"][-1] == final
    assert len({row["step"] for row in rows} - {""}) == 2


def test_what_nodes_cannot_carry_out_is_told_before_any_is_asked(tmp_path):
    table = TABLE | {"method": {"name": "fedavg"}, "run": TABLE["run"] | {"aggregate_on_worker": True}}
    run_config = {"settings": json.dumps([["test", table]]), "output": str(tmp_path / "run")}
    grid = InProcess(app)
    with pytest.raises(Stopped, match="every node works for one client"):
        server_app.main(grid, Context(1, 1, {}, RecordDict(), run_config))
    assert grid.sent == []
