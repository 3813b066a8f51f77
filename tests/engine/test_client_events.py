"""Events of single clients, summed up: the same run, and of every metric the sum."""

import json

import fcil
from fcil.cli.main import main
from fcil.engine.client_events import Summary
from fcil.engine.session import prepare
from fcil.engine.simulation import simulate


def events(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_writes_sums_in_place_of_lines_and_ends_the_same(digits_config, tmp_path):
    def run(name, **run):
        config = digits_config({"method": {"name": "fedavg", "rank": 2}, "train": {"rounds": 1}, "run": run})
        return simulate(prepare(config, tmp_path / name), tmp_path / name), events(tmp_path / name)

    whole, single = run("all")
    short, summed = run("summary", client_events="summary")
    assert short["sha256"] == whole["sha256"]
    assert (short["images"], short["upload_bytes"]) == (whole["images"], whole["upload_bytes"])
    assert not [e for e in summed if e["event"] == "client"]
    clients = [e for e in summed if e["event"] == "clients"]
    phases = {e["phase"] for e in single if e["event"] == "phase"}
    assert {e["phase"] for e in clients} == phases
    for event in clients:
        of_phase = [e for e in single if e["event"] == "client" and e["phase"] == event["phase"]]
        assert event["count"] == len(of_phase)
        assert event["sums"]["images"] == sum(e["images"] for e in of_phase)
        assert event["sums"]["bytes"] == sum(e["bytes"] for e in of_phase)
    assert [e["clients"] for e in summed if e["event"] == "phase"] == [
        len(e["clients"]) for e in single if e["event"] == "phase"
    ]


def test_pictures_pages_and_tables_are_made_of_sums_too(tmp_path, capsys):
    settings = {
        "data": {"train_limit": 60, "test_limit": 40}, "model": {"image_size": 16}, "tasks": {"count": 2},
        "partition": {"clients": 2, "min_samples": 1}, "train": {"rounds": 1, "epochs": 1},
        "method": {"name": "fedavg", "rank": 2}, "run": {"client_events": "summary", "diagnostics": True},
    }  # fmt: skip
    run = fcil.run(settings, output=tmp_path / "run", progress=True)
    assert "clients 2/2" in capsys.readouterr().out.replace("2/2 clients", "clients 2/2")
    assert main(["report", str(run.folder)]) == 0
    assert (run.folder / "plots" / "kinship_clients.png").exists()
    assert main(["report", str(run.folder), "--html", str(tmp_path / "run.html")]) == 0
    assert "2 of 2" in (tmp_path / "run.html").read_text()


def test_refusals_stay_single_and_what_a_stopped_phase_left_is_not_counted():
    seen = []
    emit = Summary(seen.append)
    place = {"phase": 0, "task": 0, "round": 1}
    emit({"event": "phase", "clients": [0, 1], **place})
    emit({"event": "client", "client": 0, "images": 5, **place})
    emit({"event": "phase", "clients": [0, 1], **place})  # gone on with
    emit({"event": "client", "client": 0, "images": 2, **place})
    emit({"event": "refused", "client": 1, "reason": "late", **place})
    emit({"event": "merged", "updates": 1, **place})
    assert [e["event"] for e in seen] == ["phase", "phase", "refused", "clients", "merged"]
    assert seen[3] == {"event": "clients", **place, "count": 1, "sums": {"images": 2}}
