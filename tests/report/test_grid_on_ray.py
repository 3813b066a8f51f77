"""The runs of a comparison as tasks of a Ray cluster: each is carried out once, whatever dies, in the same bits."""

import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console
from small import small_toml

import fcil.exchange.flower  # noqa: F401  keeps Flower's own warnings at import from becoming errors
from fcil.cli.main import main
from fcil.engine.comparison import Cell, cells
from fcil.engine.folder_lock import open_locked
from fcil.engine.grid import run_state, write_grid
from fcil.engine.jobs import RESTARTS
from fcil.engine.records import EVENTS, FAILED, SUMMARY
from fcil.engine.reuse import Reuse
from fcil.engine.simulation import simulate
from fcil.errors import ConfigError
from fcil.exchange.flower.ray_tasks import Ended
from fcil.report import grid_on_ray
from fcil.report.form import Form
from fcil.report.grid_on_ray import address_of, carry_out_on_ray, carry_out_one, check_room

BASE = small_toml(exchange="ray")


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "some.toml"
    file.write_text(BASE)
    return file


@pytest.fixture
def planned(digits_config, tmp_path):
    """Runs of which only settings of Ray and folders matter; the second is the longest."""
    out = tmp_path / "out"
    out.mkdir()
    return [Cell("m", k, out / f"m-{k}", digits_config(), work=(w,)) for k, w in enumerate((1.0, 3.0, 2.0))]


class Cluster:
    """Tasks as Ray shows them, without Ray: a plan says how each attempt at a run ends."""

    def __init__(self, out, plan=None, room=2):
        self.out, self.plan, self.rooms = out, plan or {}, room
        self.running, self.started, self.most = set(), [], 0

    def room(self, cpus, gpus):
        return self.rooms

    def start(self, key, function, texts, cpus, gpus):
        assert all(isinstance(text, str) for text in texts), "nothing else may go to a task"
        assert function == "fcil.report.grid_on_ray:carry_out_one"
        self.running.add(key)
        self.started.append(key)
        self.most = max(self.most, len(self.running))

    def ended(self, seconds):
        key = min(self.running)
        self.running.remove(key)
        ends = self.plan.get(key, [])
        how = ends.pop(0) if ends else "finishes"
        (self.out / key).mkdir(exist_ok=True)
        told = {"machine": "a", "processor": "Z80"}
        if how == "dies":
            return [Ended(key, None, "WorkerCrashedError: gone")]
        if how == "lacks":
            return [Ended(key, json.dumps({**told, "problem": "model.weights: no such file"}))]
        if how == "elsewhere":
            told = {"machine": "b", "processor": "6502"}
        if how == "fails":
            (self.out / key / FAILED).write_text("ZeroDivisionError: of mine\n")
        else:
            (self.out / key / SUMMARY).write_text('{"absent": {}}')
        return [Ended(key, json.dumps(told))]


def carried_out(runs, monkeypatch, most=0, **cluster):
    monkeypatch.setattr(grid_on_ray, "PAUSE", 0.01)
    out, text = runs[0].folder.parent, StringIO()
    tasks = Cluster(out, **cluster)
    carry_out_on_ray(out, runs, tasks, Console(file=text, width=300), Reuse(), most)
    return tasks, text.getvalue()


def test_long_runs_come_first_and_no_more_than_the_cluster_has_room_for(planned, monkeypatch):
    tasks, told = carried_out(planned, monkeypatch)
    assert (tasks.started, tasks.most) == (["m-1", "m-2", "m-0"], 2)
    assert told.count("finished") == 3
    for cell in planned:
        (cell.folder / SUMMARY).unlink()
    assert carried_out(planned, monkeypatch, most=1)[0].most == 1


@pytest.mark.parametrize(("how", "why"), [("dies", "WorkerCrashedError: gone"), ("lacks", "on a: model.weights: no")])
def test_a_run_whose_task_is_lost_is_started_again_and_has_failed_after_a_few_times(planned, monkeypatch, how, why):
    tasks, told = carried_out(planned, monkeypatch, plan={"m-1": [how] * RESTARTS, "m-0": [how] * 99})
    assert (tasks.started.count("m-1"), tasks.started.count("m-0")) == (RESTARTS + 1, RESTARTS + 1)
    assert [run_state(cell.folder) for cell in planned] == ["failed", "finished", "finished"]
    assert why in (planned[0].folder / FAILED).read_text()
    assert told.count("it is started again") == 2 * RESTARTS
    again, _ = carried_out(planned, monkeypatch)
    assert again.started == ["m-0"], "the same command tries it once more"


def test_a_run_that_fails_in_its_task_is_tried_once_and_ends_no_other(planned, monkeypatch):
    tasks, told = carried_out(planned, monkeypatch, plan={"m-1": ["fails"], "m-2": ["elsewhere"]})
    assert sorted(tasks.started) == ["m-0", "m-1", "m-2"]
    assert "failed: ZeroDivisionError: of mine" in told
    assert "unlike processors (a: Z80; b: 6502)" in told


def test_a_run_of_another_process_is_waited_for_and_taken_over_where_it_leaves_it(planned, monkeypatch):
    planned[1].folder.mkdir()
    held = open_locked(planned[1].folder / EVENTS)
    threading.Timer(0.1, held.close).start()
    tasks, _ = carried_out(planned, monkeypatch)
    assert tasks.started == ["m-2", "m-0", "m-1"]


def test_where_the_last_machine_is_gone_it_says_so_and_waits_for_one(planned, monkeypatch):
    class Returning(Cluster):
        def room(self, cpus, gpus):
            self.asked = getattr(self, "asked", 0) + 1
            return 0 if self.asked < 4 else 1

    monkeypatch.setitem(globals(), "Cluster", Returning)
    tasks, told = carried_out(planned, monkeypatch)
    assert len(tasks.started) == 3
    assert told.count("no machine of the cluster has 1 CPUs now; waits for one") == 1


def test_a_run_that_fits_no_machine_and_two_clusters_are_refused(planned):
    with pytest.raises(ConfigError, match=r"run.threads = 1, run.gpus_per_client = 0: no machine"):
        check_room(Cluster(planned[0].folder.parent, room=0), planned)
    run = planned[0].config.run

    def at(address, **settings):
        return replace(planned[0], config=replace(planned[0].config, run=replace(run, ray_address=address, **settings)))

    with pytest.raises(ConfigError, match="Ray hides GPUs"):
        check_room(Cluster(planned[0].folder.parent), [at("", device="cuda")])
    assert address_of([at(""), at("a:1")], "") == "a:1"
    assert address_of([at("b:1"), at("a:1")], "c:1") == "c:1"
    with pytest.raises(ConfigError, match="a:1 and b:1"):
        address_of([at("b:1"), at("a:1")], "")


def test_what_a_task_does_ends_in_the_bits_of_a_run_here_and_starts_no_ray(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    runs = cells(path, ["ncm"], [0], [], out)
    assert runs[0].config.run.exchange == "ray"
    write_grid(out, runs)
    texts = [str(out), "ncm-seed0", Reuse(features=False).written(), Form(("svg",), "column").written()]
    assert "problem" not in json.loads(carry_out_one(*texts))
    assert 'exchange = "inline"' in (out / "ncm-seed0" / "config.toml").read_text()
    assert list((out / "ncm-seed0" / "plots").glob("*.svg"))
    assert "after task 2/2" in (out / "jobs" / "ncm-seed0.log").read_text()
    (alone,) = cells(path, ["ncm"], [0], ["run.exchange=inline"], tmp_path / "alone")
    theirs = json.loads((out / "ncm-seed0" / SUMMARY).read_text())
    assert theirs["sha256"] == simulate(alone.session(), alone.folder)["sha256"]
    assert theirs["beside"] == 1
    told = json.loads(carry_out_one(str(tmp_path), *texts[1:]))
    assert "holds no comparison" in told["problem"]


def test_options_that_contradict_a_cluster_are_refused(path, capsys):
    assert main(["compare", str(path), "--methods", "ncm", "--on", "ray", "--join"]) == 2
    assert "--on ray --join" in capsys.readouterr().err
    assert main(["compare", str(path), "--methods", "ncm", "--on", "ray", "--ray-address", "http://x"]) == 2
    assert "no Ray cluster answers there" in capsys.readouterr().err


# ---- slow: a cluster of two machines on this one ---------------------------------------------------------------------


@pytest.fixture
def cluster():
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.second = made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    if ray.is_initialized():
        ray.shutdown()
    made.shutdown()


def finished(out):
    return {p.parent.name: json.loads(p.read_text())["sha256"] for p in out.glob("*/summary.json")}


@pytest.mark.slow
def test_neither_a_machine_that_goes_away_nor_a_killed_driver_changes_a_bit(cluster, path, tmp_path, capsys):
    study = ["compare", str(path), "--methods", "lorm,fedavg", "--seeds", "0,1", "--set", "train.rounds=12"]
    one, several = tmp_path / "one", tmp_path / "several"
    assert main([*study, "--exchange", "inline", "--output", str(one)]) == 0
    study += ["--output", str(several), "--on", "ray", "--ray-address", cluster.address]
    driver = subprocess.Popen([sys.executable, "-m", "fcil.cli", *study], stdout=subprocess.DEVNULL)
    begun(several, 1)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert len(finished(several)) < 4, "it was to be killed in the middle"

    def lose():
        begun(several, 2)
        cluster.remove_node(cluster.second, allow_graceful=False)

    loses = threading.Thread(target=lose)
    loses.start()
    assert main(study) == 0
    loses.join()
    assert finished(several) == finished(one)
    assert len(finished(one)) == 4
    told = capsys.readouterr().out
    assert told.count("finished") >= 3
    assert main(["compare", str(several), "--on", "ray", "--ray-address", cluster.address]) == 0


def begun(out, count):
    """Wait until as many runs have a checkpoint."""
    deadline = time.monotonic() + 200
    while sum(any(folder.iterdir()) for folder in out.glob("*/checkpoint")) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)
