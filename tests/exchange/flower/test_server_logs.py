"""The ServerApp tells the loggers of `run.log`, as a run in one process does."""

import csv
import json

from flower_runs import TABLE, InProcess
from flwr.app import Context, RecordDict

from fcil.cli import server_app
from fcil.exchange.flower.client_app import app


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
