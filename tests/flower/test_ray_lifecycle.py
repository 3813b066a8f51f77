"""How our Ray starts and ends: one Ray for each test, so all are slow."""

import os
import subprocess
import sys

import pytest
from flower_processes import children, gone
from flower_runs import TABLE, finish, inline, settings

from fcil.errors import ConfigError, RunError
from fcil.flower.exchange import ray_exchange
from fcil.flower.ray_grid import RayGrid

ON_RAY = {"exchange": "ray", "device": "cpu"}


@pytest.mark.slow
def test_an_app_that_cannot_be_loaded_is_an_error_not_a_hang():
    other = RayGrid(3, workers=1, app="no_such_module:app")
    with pytest.raises(RunError, match="no_such_module"):
        other.pids()
    other.close()


DRIVER = """
import os, sys, time
import fcil.flower
from fcil.config import from_table
from fcil.flower.exchange import ray_exchange
exchange = ray_exchange(from_table([("driver", {table})]))
print(*exchange.grid.pids(), flush=True)
sys.stdin.read()
{then}
time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize("then", ["raise ValueError", "os.kill(os.getpid(), 15)", "os.kill(os.getpid(), 9)"])
def test_a_driver_that_ends_in_any_way_leaves_nothing_running(then):
    table = {**TABLE, "run": {**ON_RAY, "workers": 1}}
    code = DRIVER.format(table=table, then=then)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe, env=env)
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert pids
    daemons = children(process.pid)
    process.communicate(b"go on", timeout=60)
    assert process.returncode != 0
    assert len(daemons) > 3
    assert gone({*pids, *daemons})


@pytest.mark.slow
def test_one_worker_equals_inline(tmp_path):
    exchange = ray_exchange(settings(run={**ON_RAY, "workers": 1}), tmp_path)
    try:
        assert finish(exchange).sha256() == inline().sha256()
    finally:
        exchange.close()


@pytest.mark.parametrize(
    ("address", "told"),
    [("127.0.0.1:1", "refused"), ("ray://127.0.0.1:1", "give host:port"), ("127.0.0.1:x", "invalid literal")],
)
def test_no_cluster_at_the_address(address, told):
    with pytest.raises(ConfigError, match=f"(?i)no Ray cluster answers there.*{told}"):
        ray_exchange(settings(run={**ON_RAY, "ray_address": address}))
