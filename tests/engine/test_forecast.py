"""`fcil plan`: counts and traffic are those of the run, to the byte; time and memory are near (slow)."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import mostly_slow, representatives
from toys import Anchored, NearestMean, Replay

import fcil.engine.dry_run as rehearsal
from fcil.cli.main import main
from fcil.client.store import ClientStore
from fcil.config import load_config
from fcil.engine.comparison import cells
from fcil.engine.dry_run import Cost, between
from fcil.engine.forecast import forecast, spread
from fcil.engine.simulation import Session, prepare, simulate
from fcil.engine.table_forecast import forecast_rows
from fcil.errors import ConfigError
from fcil.exchange.worker import Worker
from fcil.model.backbone import describe_backbone
from fcil.options import describe
from fcil.registry import build_method, method_class
from fcil.report.forecast import duration_text
from fcil.server.plan import make_plan
from strategies.fedavg import FedAvg

ROOT = Path(__file__).parents[2]
FEW = mostly_slow(representatives("local", "passes", "statistic", "broadcast", "factors"))
SMALL = {"data": {"train_limit": 120, "test_limit": 50}, "model": {"image_size": 16}}


@pytest.fixture(autouse=True)
def few_steps(request, monkeypatch):
    """Counts do not depend on what is timed."""
    if "slow" not in request.keywords:
        monkeypatch.setattr(rehearsal, "STEPS", 1)
        monkeypatch.setattr(rehearsal, "REPEATS", 1)


def session_of(config, method, store=None):
    worker = Worker(config, method, store)
    return Session(worker, make_plan(config, method, worker.census, describe_backbone(config.model)))


def agrees(session, folder):
    """Forecast, then run; equal phase by phase and in all."""
    shares = []
    result = forecast(session, lambda text, share: shares.append(share))
    assert shares == pytest.approx([k / len(result.phases) for k in range(len(result.phases))])
    summary = simulate(session, folder)
    assert not summary["refused"]
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    down = [e["download_bytes"] for e in events if e["event"] == "phase"]
    asked = [len(e["clients"]) for e in events if e["event"] == "phase"]
    up = [e["upload_bytes"] for e in events if e["event"] == "merged"]
    assert [p.download_bytes for p in result.phases] == down
    assert [p.upload_bytes for p in result.phases] == up
    assert [p.clients for p in result.phases] == asked
    figures = result.figures()
    assert figures["upload_bytes"] == summary["upload_bytes"]
    assert figures["download_bytes"] == summary["download_bytes"]
    return result


@pytest.mark.parametrize("name", FEW)
def test_traffic_of_every_method_is_exact_to_the_byte(name, digits_config, tmp_path):
    known = {option.name for option in describe(method_class(name))}
    light = {"rank": 2, "iterations": 2, "fisher": "empirical"}
    config = digits_config(
        SMALL,
        {"method": {"name": name, **{key: value for key, value in light.items() if key in known}}},
        {"partition": {"clients": 4, "beta": 0.2, "min_samples": 0}, "train": {"participation": 0.5, "rounds": 3}},
    )
    agrees(prepare(config), tmp_path / "run")


@pytest.mark.parametrize(
    "method", [NearestMean(), Anchored(rank=2, strength=0.1), Replay(rank=2)], ids=lambda m: type(m).__name__
)
def test_so_is_that_of_methods_of_other_families(method, digits_config, tmp_path):
    config = digits_config({"data": {"train_limit": 60, "test_limit": 30}})
    session = session_of(config, method, ClientStore(tmp_path / "clients"))
    agrees(session, tmp_path / "run")


def test_so_is_that_of_clients_with_pairs_of_different_ranks(digits_config, tmp_path):
    method = {"name": "flexlora", "rank": 4, "ranks": [1, 4, 2]}
    config = digits_config(SMALL, {"method": method, "partition": {"clients": 3}, "train": {"rounds": 2}})
    agrees(session_of(config, build_method("flexlora", config.method.settings)), tmp_path / "run")


def test_a_factor_that_has_not_moved_yet_costs_nothing_in_the_forecast_either(digits_config, tmp_path):
    """After one step from B = 0 only B has moved, so A is not sent again; after two both are."""
    one = digits_config(SMALL, {"train": {"batch": 128}, "method": {"name": "fedavg", "rank": 2}})
    two = digits_config(SMALL, {"train": {"batch": 128, "epochs": 2}, "method": {"name": "fedavg", "rank": 2}})
    few, many = (agrees(prepare(config), tmp_path / f"{config.train.epochs}") for config in (one, two))
    assert few.phases[1].download_bytes < many.phases[1].download_bytes


STEPS_TAKEN = []


@dataclass(frozen=True, kw_only=True)
class Counting(FedAvg):
    """FedAvg that counts its steps."""

    def loss(self, step):
        STEPS_TAKEN.append(step.phase.index)
        return super().loss(step)


def test_steps_are_those_that_are_taken(digits_config, tmp_path):
    config = digits_config(SMALL, {"train": {"epochs": 3, "batch": 7, "participation": 0.7}})
    session = session_of(config, Counting(rank=2))
    result = forecast(session)
    STEPS_TAKEN.clear()
    simulate(session, tmp_path / "run")
    assert [p.steps for p in result.phases] == np.bincount(STEPS_TAKEN).tolist()
    assert sum(p.steps for p in result.phases) == result.figures()["steps"]


@dataclass(frozen=True, kw_only=True)
class Diverging(FedAvg):
    """Sends what no server takes."""

    def loss(self, step):
        return super().loss(step) * torch.nan


def test_a_method_whose_replies_would_be_refused_is_told_before_the_run(digits_config):
    with pytest.raises(ConfigError, match=r"task 1, round 1: would be refused: .*NaN"):
        forecast(session_of(digits_config(SMALL), Diverging(rank=2)))


# ---- arithmetic ------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=12), st.integers(1, 6))
def test_jobs_are_spread_as_by_idle_workers_that_take_the_longest(jobs, workers):
    took = spread(jobs, workers)
    assert max(max(jobs), sum(jobs) / workers) <= took * (1 + 1e-9)
    assert took <= (sum(jobs) / workers + max(jobs) * (1 - 1 / workers)) * (1 + 1e-9)  # Graham, 1966


def test_jobs_by_hand():
    assert spread([2, 3, 4], 2) == 5
    assert spread([], 3) == 0


@given(st.floats(0, 10), st.floats(0, 1), st.integers(2, 64), st.integers(1, 300))
def test_costs_are_read_off_two_measurements(batch, image, size, images):
    cost = Cost.through((1, batch + image), (size, batch + size * image))
    batches = [min(size, images - begin) for begin in range(0, images, size)]
    assert cost.of(images, size) == pytest.approx(sum(batch + n * image for n in batches), rel=1e-6, abs=1e-9)


def test_costs_are_never_negative():
    assert Cost.through((1, 3.0), (4, 2.0)) == (2.0, 0.0)
    assert Cost.through((1, 0.1), (4, 4.0)) == (0.0, 1.0)
    assert Cost.through((1, 3.0), (1, 2.0)) == (2.0, 0.0)


def test_costs_between_the_first_and_the_last_measurement():
    measured = {2: [Cost(1, 10)], 6: [Cost(3, 20)]}
    assert between(measured, 2) == [Cost(1, 10)]
    assert between(measured, 3) == [Cost(1.5, 12.5)]
    assert between({2: [Cost(1, 10)]}, 9) == [Cost(1, 10)]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.21, "3.2 s"), (59.99, "1 min 0 s"), (250, "4 min 10 s"), (3600, "1 h 0 min"), (273_600, "3 d 4 h")],
)
def test_times_as_people_say_them(seconds, text):
    assert duration_text(seconds) == text


# ---- the command -----------------------------------------------------------------------------------------------------

LORM = {"tasks": {"count": 2}, "train": {"rounds": 2, "epochs": 3}, "method": {"name": "lorm", "rank": 4}}
FEDAVG = {
    "tasks": {"count": 5}, "partition": {"clients": 3, "beta": 0.2}, "method": {"name": "fedavg", "rank": 8},
    "train": {"rounds": 2, "epochs": 2, "batch": 24, "participation": 0.7}, "run": {"evaluate_rounds": True},
}  # fmt: skip


def written(table, folder, **sections):
    import tomli_w

    path = folder / "job.toml"
    path.write_text(tomli_w.dumps({**table, **sections}))
    return path


def test_the_command_prints_tables_that_fit_100_columns_and_leaves_nothing(tmp_path, capsys, monkeypatch):
    path = written(FEDAVG, tmp_path, partition={"clients": 14, "min_samples": 0, "classes_per_client": 1}, **SMALL)
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["plan", str(path), "--json", str(tmp_path / "figures.json")]) == 0
    output = capsys.readouterr().out
    assert max(map(len, map(str.rstrip, output.splitlines()))) <= 100
    for word in ("training images", "steps", "up [MB]", "memory of a worker", "start-up", "in all, about"):
        assert word in output
    assert 'note: partition.classes_per_client = 1: means nothing with kind = "dirichlet"' in output
    assert {p.name for p in tmp_path.iterdir()} == {"job.toml", "figures.json"}
    census = prepare(load_config(path)).plan.census
    assert str(sum(census.train[0])) in output


def test_figures_that_cannot_be_written_are_told_first(tmp_path, capsys):
    assert main(["plan", str(written(LORM, tmp_path)), "--json", str(tmp_path / "none" / "f.json")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def _fcil(*arguments):
    subprocess.run([sys.executable, "-m", "fcil.cli", *map(str, arguments)], check=True, capture_output=True, cwd=ROOT)


def _compared(path, folder):
    """Figures of a plan right before and right after a run, which shares the machine with others; and the run's."""
    plans = []
    for name in ("before", "after"):
        _fcil("plan", path, "--json", folder / name)
        if name == "before":
            _fcil("run", path, "--output", folder / "run")
        plans.append(json.loads((folder / name).read_text()))
    return plans, json.loads((folder / "run" / "summary.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("table", [LORM, FEDAVG], ids=["lorm", "fedavg"])
def test_time_and_memory_are_within_a_fifth_of_what_the_run_records(table, tmp_path):
    path = written(table, tmp_path)
    for attempt in range(2):  # one more try: the machine is shared
        folder = tmp_path / str(attempt)
        folder.mkdir()
        plans, ran = _compared(path, folder)
        for plan in plans:
            assert plan["upload_bytes"] == ran["upload_bytes"]
            assert plan["download_bytes"] == ran["download_bytes"]
            assert plan["peak_memory_bytes"] == pytest.approx(ran["peak_memory_bytes"], rel=0.2)
        result = np.mean([plan["seconds"]["total"] for plan in plans])
        if result == pytest.approx(ran["seconds"]["total"], rel=0.2):
            return
    assert result == pytest.approx(ran["seconds"]["total"], rel=0.2)


def test_what_a_step_costs_is_measured_once_for_all_skews_of_a_row_and_traffic_for_each(tmp_path, monkeypatch):
    timed = []
    time = rehearsal.Rehearsal._time
    monkeypatch.setattr(
        rehearsal.Rehearsal, "_time", lambda self, request: timed.append(request) or time(self, request)
    )
    path = written(FEDAVG, tmp_path, partition={"min_samples": 0}, **SMALL)
    runs = cells(path, ["fedavg", "lorm"], [0], [], tmp_path, ["partition.beta=100.0,0.05"])
    rows = forecast_rows(runs, 3, lambda text, share: None).rows
    measured = len(timed)
    assert [row.title for row in rows] == [f"partition.beta={b} {m}" for b in (100.0, 0.05) for m in ("fedavg", "lorm")]
    alone = [forecast(prepare(cell.config)) for cell in runs]
    assert len(timed) == 3 * measured
    for row, one in zip(rows, alone, strict=True):
        assert [(p.clients, p.steps, p.upload_bytes, p.download_bytes) for p in row.one.phases] == [
            (p.clients, p.steps, p.upload_bytes, p.download_bytes) for p in one.phases
        ]
        assert row.one.seconds["clients"] > 0
        assert row.one.seconds["evaluation"] > 0
        assert row.one.worker_bytes == max(r.one.worker_bytes for r in rows if r.title.endswith(row.title[-5:]))
    assert rows[0].one.total("download_bytes") > rows[2].one.total("download_bytes"), "fewer clients have samples"
