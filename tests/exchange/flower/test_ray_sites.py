"""Sites on nodes of a Ray cluster, each with a file of its own settings; and messages that only one worker may take."""

import json
import os
import signal
from collections import deque
from types import SimpleNamespace

import pytest
import ray
from flower_processes import alive
from ray.cluster_utils import Cluster
from site_folders import site_settings as sites_table
from site_folders import write_sites

from fcil.cli.main import main
from fcil.config import from_table
from fcil.engine.records import read_provenance, read_summary
from fcil.engine.session import prepare_to_run
from fcil.engine.simulation import prepare, simulate
from fcil.errors import ConfigError, RunError
from fcil.exchange.flower import messages, ray_grid, ray_workers
from fcil.exchange.flower.node_settings import local_settings
from fcil.exchange.flower.ray_calls import Letter
from fcil.exchange.flower.ray_grid import RayGrid
from fcil.exchange.flower.ray_sites import FILE, check_places, site_settings
from fcil.exchange.flower.ray_workers import Workers

# ---- the file of a node's sites --------------------------------------------------------------------------------------


def test_a_sites_settings_are_those_of_its_section_with_paths_from_the_file(tmp_path, monkeypatch):
    file = tmp_path / "sites.toml"
    file.write_text('[2]\ndata-root = "c"\nclass-map = "/etc/c.toml"\ndevice = "cpu"\n')
    monkeypatch.setenv(FILE, str(file))
    assert site_settings(2) == {
        "partition-id": 2, "data-root": str(tmp_path / "c"), "class-map": "/etc/c.toml", "device": "cpu",
    }  # fmt: skip


@pytest.mark.parametrize(("text", "message"), [
    (None, f"{FILE} is not set on this Ray node"),
    ("[1", "cannot be read"),
    ("[1]\n", r"has no section \[2\], and this Ray node has the resource fcil_site_2"),
    ("[2]\ndata_root = 'x'\n", "did you mean 'data-root'"),
    ("[2]\ndata-root = 3\n", "must be a text"),
    ("[2]\nresident = 'x'\n", "keys are data-root"),
])  # fmt: skip
def test_what_is_wrong_is_told_where_the_node_introduces_itself(tmp_path, monkeypatch, text, message):
    monkeypatch.delenv(FILE, raising=False)
    if text is not None:
        (tmp_path / "sites.toml").write_text(text)
        monkeypatch.setenv(FILE, str(tmp_path / "sites.toml"))
    settings = site_settings(2)
    table = {"partition": {"kind": "sites", "clients": 3}, "data": {"sites": [], "class_maps": []}}
    with pytest.raises(ConfigError, match=message):
        local_settings(table, settings)


def test_every_site_has_one_node_with_room_for_it():
    two = [{"CPU": 2, "fcil_site_0": 1, "fcil_site_1": 1}, {"CPU": 1, "fcil_site_2": 1}]
    check_places(3, 1, two)
    with pytest.raises(ConfigError, match="site 3: 0 nodes of the Ray cluster have the resource fcil_site_3"):
        check_places(4, 1, two)
    with pytest.raises(ConfigError, match="site 2: 2 nodes"):
        check_places(3, 1, [*two, {"fcil_site_2": 1}])
    with pytest.raises(ConfigError, match="sites 0, 1 has 2 CPUs"):
        check_places(3, 2, two)


# ---- messages with a place -------------------------------------------------------------------------------------------


def grid_of(workers):
    grid = RayGrid.__new__(RayGrid)
    grid._workers, grid._busy, grid._seconds = workers_of(workers), {}, float("inf")
    return grid


def workers_of(names):
    workers = Workers.__new__(Workers)
    workers.idle, workers.starting = list(names), {}
    workers.numbers = {name: number for number, name in enumerate(names)}
    return workers


def letter(number):
    return Letter(f"to {number}", {}, {}, alone=True, worker_number=number)


def test_a_message_with_a_place_goes_to_its_worker_alone():
    grid, waiting = grid_of(["a", "b"]), deque([letter(1), letter(1), letter(0)])
    taken = [grid._next(waiting), grid._next(waiting), grid._next(waiting)]
    numbers = [([one.worker_number for one in letters], worker) for letters, worker in taken[:2]]
    assert numbers == [([1], "b"), ([0], "a")]
    assert taken[2] is None
    assert [one.worker_number for one in waiting] == [1]
    grid._workers.idle.append("a")
    assert grid._next(waiting) is None  # not its worker


def test_where_its_worker_never_comes_up_it_is_answered_and_others_are_not(monkeypatch):
    monkeypatch.setattr(ray_workers, "time", SimpleNamespace(monotonic=lambda: 1000.0))
    monkeypatch.setattr(ray_grid, "error_reply", lambda message, code, reason: (message, reason))
    grid, waiting = grid_of(["a", "b"]), deque([letter(1), letter(0)])
    grid._workers.idle, grid._workers.starting = ["a"], {"start": ("b", 999.0)}
    assert list(grid._expire(waiting, None)) == [("to 1", "no worker came up at its place within 300 seconds")]
    assert [one.worker_number for one in waiting] == [0]
    grid._workers.starting = {"start": ("b", 1001.0)}
    waiting.append(letter(1))
    assert list(grid._expire(waiting, None)) == []


def test_a_clients_secure_messages_go_to_one_worker_that_is_up(monkeypatch):
    monkeypatch.setattr(ray_workers, "time", SimpleNamespace(monotonic=lambda: 1000.0))
    grid, grid.pinned = grid_of(["a", "b", "c"]), False
    grid._workers.idle, grid._workers.starting = ["a", "c"], {"start": ("b", 999.0)}  # b's machine is gone
    grid.settle([5, 6, 7])

    def message(node, kind):
        return SimpleNamespace(metadata=SimpleNamespace(dst_node_id=node, message_type=kind))

    assert [grid._worker_number(message(node, messages.SECURE)) for node in (5, 6, 7)] == [0, 2, 0]
    assert grid._worker_number(message(5, messages.TRAIN)) is None
    grid.pinned = True  # sites: worker k has the images of client k, whose node is k + 1
    assert [grid._worker_number(message(node, messages.TRAIN)) for node in (1, 2, 3)] == [0, 1, 2]
    grid._workers.idle = []
    with pytest.raises(RunError, match="no Ray worker came up"):
        grid.settle([5])


# ---- a cluster of two nodes ------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path):
    """Two nodes: one has sites 0 and 1, the other site 2; each has a file of its own."""
    folder = write_sites(tmp_path)
    (folder / "first.toml").write_text('[0]\ndata-root = "a"\n[1]\ndata-root = "b"\nclass-map = "b.toml"\n')
    (folder / "second.toml").write_text('[2]\ndata-root = "c"\n')
    first, second = ({FILE: str(folder / f"{name}.toml")} for name in ("first", "second"))
    made = Cluster(initialize_head=True, head_node_args={
        "num_cpus": 2, "include_dashboard": False, "resources": {"fcil_site_0": 1, "fcil_site_1": 1}, "env_vars": first,
    })  # fmt: skip
    made.add_node(num_cpus=1, resources={"fcil_site_2": 1}, env_vars=second)
    made.wait_for_nodes()
    made.folder = folder
    yield made
    if ray.is_initialized():
        ray.shutdown()
    made.shutdown()


def on_ray(cluster, **run):
    table = sites_table(cluster.folder, method={"name": "lorm"})
    table["data"] |= {"sites": [], "class_maps": []}
    table["partition"]["clients"] = 3
    table["run"] |= {"exchange": "ray", "ray_address": cluster.address, **run}
    return from_table([("ray", table)])


def alone(cluster, name, **run):
    table = sites_table(cluster.folder, method={"name": "lorm"})
    table["run"] |= run
    return simulate(prepare(from_table([("alone", table)]), cluster.folder / name), cluster.folder / name)


@pytest.mark.slow
def test_sites_on_two_ray_nodes_end_in_the_bits_of_simulated_ones_also_with_secure_sums(cluster, tmp_path):
    for name, run in (("plain", {}), ("secure", {"secure_sums": True})):
        expected = alone(cluster, f"alone-{name}", **run)
        folder = tmp_path / f"ray-{name}"
        session = prepare_to_run(on_ray(cluster, **run), folder)
        grid, killed = session.connected.grid, []

        def listen(emit, progress, grid=grid, killed=killed):
            def tell(event):
                emit(event)
                if event["event"] == "merged" and not killed:  # the worker of site 2 alone; Ray has a process for it
                    worker = next(w for w, number in grid._workers.numbers.items() if number == 2)
                    os.kill(grid._workers.running[worker], signal.SIGKILL)
                    killed.append(grid._workers.running[worker])

            return tell

        summary = simulate(session, folder, listen)
        for key in ("sha256", "correct", "total", "site_accuracy", "upload_bytes", "refused"):
            assert summary[key] == expected[key], (name, key)
        assert not any(map(alive, killed))
    nodes = read_provenance(folder)["nodes"]
    assert [node["client"] for node in nodes] == [0, 1, 2]
    assert nodes[1]["classes"]["two"] == [16, 6]
    assert not (folder / "clients").exists()


@pytest.mark.slow
def test_the_command_says_which_site_is_missing_and_what_is_wrong_with_one(cluster, tmp_path, capsys):
    file = tmp_path / "run.toml"

    def run(clients):
        table = {"data": {"name": "folder"}, "tasks": {"count": 3}, "model": {"image_size": 16},
                 "partition": {"kind": "sites", "clients": clients}, "method": {"name": "ncm"},
                 "run": {"device": "cpu", "exchange": "ray", "ray_address": cluster.address}}  # fmt: skip
        file.write_text("\n".join(f"[{s}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in e.items())
                                  for s, e in table.items()))  # fmt: skip
        return main(["run", str(file), "--output", str(tmp_path / "run")])

    assert run(4) == 2
    assert "site 3: 0 nodes of the Ray cluster have the resource fcil_site_3" in capsys.readouterr().err
    (cluster.folder / "second.toml").write_text('[2]\ndata-root = "nowhere"\n')
    assert run(3) == 2
    told = capsys.readouterr().err
    assert "site 2 (" in told
    assert "nowhere" in told
    (cluster.folder / "second.toml").write_text('[2]\ndata-root = "c"\n')
    assert run(3) == 0
    assert len(read_summary(tmp_path / "run")["site_accuracy"]) == 3
