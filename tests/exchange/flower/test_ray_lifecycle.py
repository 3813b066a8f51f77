"""How our Ray starts and ends: one Ray for each test, so all are slow."""

import gc
import json
import os
import subprocess
import sys

import pytest
import ray
from flower_processes import children, gone
from flower_runs import TABLE, finish, inline, settings

from fcil.engine.simulation import prepare, simulate
from fcil.errors import ConfigError, RunError
from fcil.exchange.flower.exchange import FlowerExchange, ray_exchange
from fcil.exchange.flower.ray_grid import RayGrid
from fcil.threads import cores

ON_RAY = {"exchange": "ray", "device": "cpu"}


@pytest.mark.slow
def test_an_app_that_cannot_be_loaded_is_an_error_not_a_hang():
    other = RayGrid(3, workers=1, app="no_such_module:app")
    with pytest.raises(RunError, match="no_such_module"):
        other.pids()
    other.close()


@pytest.mark.slow
def test_a_run_that_a_client_stops_ends_its_workers_and_starts_no_others(tmp_path):
    """The exception holds the grid's half-read replies; when it is let go, Ray is gone already."""
    (tmp_path / "faults.json").write_text(json.dumps({"0": {"1": "raises in its work"}}))
    config, before = settings(run=ON_RAY), children()
    grid = RayGrid(3, workers=min(2, cores()), app="faulty_app:app")
    exchange = FlowerExchange(grid, config, store=str(tmp_path / "clients"))
    with pytest.raises(RunError, match="client 1 raised"):
        simulate(prepare(config), tmp_path / "run", exchange=exchange)
    gc.collect()
    assert not ray.is_initialized()
    assert gone({*children()} - before)


DRIVER = """
import os, sys, time
import fcil.exchange.flower
import ray
from fcil.config import from_table
from fcil.exchange.flower.exchange import ray_exchange
exchange = ray_exchange(from_table([("driver", {table})]))
print(ray.get_runtime_context().gcs_address, *exchange.grid.pids(), flush=True)
sys.stdin.read()
{then}
time.sleep(60)
"""


def driver(then, workers=1):
    """A process with workers on a Ray of its own, the workers' ids, and the Ray's address."""
    code = DRIVER.format(table={**TABLE, "run": {**ON_RAY, "workers": workers}}, then=then)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe, env=env)
    address, *pids = process.stdout.readline().decode().split()
    return process, [int(pid) for pid in pids], address


@pytest.mark.slow
@pytest.mark.parametrize("then", ["raise ValueError", "os.kill(os.getpid(), 15)", "os.kill(os.getpid(), 9)"])
def test_a_driver_that_ends_in_any_way_leaves_nothing_running(then):
    process, pids, _ = driver(then)
    daemons = children(process.pid)
    process.communicate(b"go on", timeout=60)
    assert process.returncode != 0
    assert len(daemons) > 3
    assert gone(pids)
    assert gone(daemons, 150)  # after a SIGKILL, Ray's two agents look for their cluster for about a minute


@pytest.mark.slow
def test_one_worker_equals_inline(tmp_path):
    exchange = ray_exchange(settings(run={**ON_RAY, "workers": 1}), tmp_path)
    try:
        assert finish(exchange).sha256() == inline().sha256()
    finally:
        exchange.close()


@pytest.mark.slow
@pytest.mark.skipif(cores() < 2, reason="two workers need two cores")
def test_a_cluster_that_was_joined_stays_when_we_leave(tmp_path):
    process, pids, address = driver("pass")
    try:
        exchange = ray_exchange(settings(run={**ON_RAY, "ray_address": address}), tmp_path)
        try:
            assert exchange.grid.workers == cores() - 1  # the other driver has one
            ours = exchange.grid.pids()
            assert finish(exchange).sha256() == inline().sha256()
        finally:
            exchange.close()
        assert gone(ours)
        assert not gone(pids, 1)
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.mark.parametrize(
    ("address", "message"),
    [("127.0.0.1:1", "refused"), ("ray://127.0.0.1:1", "give host:port"), ("127.0.0.1:x", "invalid literal")],
)
def test_no_cluster_at_the_address(address, message):
    with pytest.raises(ConfigError, match=f"(?i)no Ray cluster answers there.*{message}"):
        ray_exchange(settings(run={**ON_RAY, "ray_address": address}))
