"""`flwr run .` as a user types it: Flower's own simulation of the app, in a home and on ports of the test's own."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tomli_w
from flower_runs import TABLE, finish, inline, settings
from own_methods import write
from site_folders import site_settings, write_sites

from fcil.config import from_table
from fcil.engine.records import read_summary
from fcil.engine.simulation import prepare, simulate
from fcil.exchange.inline import Inline

ROOT = Path(__file__).parents[3]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def processes(home):
    """Command name by process id, of all that live in this FLWR_HOME."""
    mark, result = f"FLWR_HOME={home}".encode(), {}
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in environ.read_bytes().split(b"\0"):
                result[int(environ.parent.name)] = (environ.parent / "cmdline").read_bytes().decode()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return result


@pytest.fixture
def home(tmp_path):
    """An empty FLWR_HOME; the SuperLink that `flwr run` leaves running is ended by its pid."""
    home = tmp_path / "home"
    home.mkdir()
    yield home
    for wanted in ("flower-superlink", ""):  # the SuperLink ends what it started; then whatever is left
        for pid, command in processes(home).items():
            if wanted in command:
                os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + 30
        while processes(home) and time.monotonic() < end:
            time.sleep(0.2)
    assert processes(home) == {}


@pytest.fixture
def app(tmp_path):
    """What git would hold of the app."""
    app = tmp_path / "app"
    kept = shutil.ignore_patterns("__pycache__", "assets")
    for folder in ("fcil", "strategies", "configs", "docs", "tests"):
        shutil.copytree(ROOT / folder, app / folder, ignore=kept)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, app / name)
    (app / "configs").mkdir(exist_ok=True)
    (app / "configs" / "small.toml").write_text(tomli_w.dumps(TABLE))
    return app


@pytest.fixture
def carried_out(app, home):
    """What carries out `flwr run . local` with a configuration of the app's, for three clients; returns the summary."""
    env = {
        **os.environ, "FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0", "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": free_port(), "FLWR_LOCAL_CONTROL_API_PORT": free_port(),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    env.pop("PYTHONPATH", None)

    def flwr(*arguments):
        done = subprocess.run(
            ["flwr", *arguments], cwd=app, env=env, capture_output=True, text=True, timeout=400, check=False
        )
        return done.stdout + done.stderr

    def carry_out(config, out, overrides):
        said = flwr(
            "run", ".", "local", "--stream",
            "--federation-config", "num-supernodes=3 client-resources-num-cpus=1 init-args-num-cpus=2", "--run-config",
            f'config="configs/{config}.toml" output="{out}" set="{overrides}"',
        )  # fmt: skip
        listed = flwr("ls", "local", "--format", "json")
        status = {run["status"] for run in json.loads(listed)["runs"]}
        assert status == {"finished:completed"}, said[-4000:]
        return read_summary(out)

    return carry_out


@pytest.mark.slow
def test_flowers_simulation_ends_in_the_bits_of_inline(app, carried_out, tmp_path):
    common = "tasks.order=natural; run.min_clients=3"
    assert carried_out("small", tmp_path / "run", common)["sha256"] == inline().sha256()
    own = prepare(settings(method={"name": str(write(app / "mine")), "rank": 2}))  # a file that is part of the app
    sha256 = finish(Inline(own.worker), own.plan).sha256()
    more = "; method.name=mine/mine.py:Mine; method.rank=2"
    assert carried_out("small", tmp_path / "own", common + more)["sha256"] == sha256


@pytest.mark.slow
def test_sites_in_flowers_simulation_end_in_the_bits_of_inline(app, carried_out, tmp_path):
    """Each simulated node works for the site that has the number of its partition."""
    table = site_settings(write_sites(tmp_path), method={"name": "lorm", "rank": 2}, run={"min_clients": 3})
    (app / "configs" / "sites.toml").write_text(tomli_w.dumps(table))
    told = carried_out("sites", tmp_path / "run", "")
    simulate(prepare(from_table([("inline", table)])), tmp_path / "inline")
    alone = read_summary(tmp_path / "inline")
    assert (told["refused"], told["asked"]) == (0, alone["asked"])
    for name in ("sha256", "correct", "site_accuracy", "upload_bytes", "download_bytes"):
        assert told[name] == alone[name]
