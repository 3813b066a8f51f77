"""Kills of a SuperNode and of the SuperLink in the middle of a run over TLS with registered nodes: the same bits."""

import itertools
import json
import os
import signal
import threading
import time
from contextlib import contextmanager

import pytest
import tomli_w

from fcil.cli.deployment import demo
from fcil.cli.deployment.deploy import carry_out
from fcil.cli.deployment.flwr_command import app_folder, environment
from fcil.cli.deployment.processes import Processes
from fcil.cli.deployment.sites import Site
from fcil.config import from_table
from fcil.engine.simulation import prepare, simulate
from fcil.errors import RunError

pytestmark = pytest.mark.slow


class Stand:
    """A SuperLink and its nodes, and a run on them."""

    clients = 2

    def __init__(self, folder, processes):
        self.folder, self.processes, self.said = folder, processes, []
        home = folder / "user"
        home.mkdir()
        (folder / "residents").mkdir(mode=0o700)
        self.env = environment(FLWR_HOME=str(home), FLWR_SUPEREXEC_TASK_POLL_INTERVAL="0.2")
        self.port, self.ca = demo._start_all(processes, folder, self.clients, self.env, self.said.append)

    def settings(self, **run):
        table = demo.demo_settings(self.clients)
        return {**table, "method": {"rank": 2}, "run": {**table["run"], "wait_for_clients": 240.0, **run}}

    def run(self, show):
        config = self.folder / "demo.toml"
        config.write_text(tomli_w.dumps(self.settings()))

        def told(text):
            self.said.append(text)
            show(text)

        carry_out(app_folder(None), "demo", config, [], str(self.folder / "run"), self.env, told)
        return json.loads((self.folder / "run" / "summary.json").read_text())

    def inline(self):
        sites = {"sites": [f"{self.folder}/site-{k}" for k in range(self.clients)]}
        settings = from_table([("demo", self.settings()), ("here", {"data": sites})])
        return simulate(prepare(settings, self.folder / "inline"), self.folder / "inline")

    def restart_node(self, number):
        """Start a node until it stays, as systemd does: as long as the old one counts as alive, it is refused.

        That is two of its heartbeats; how many starts fit into them depends on how fast each is refused.
        """
        config = demo._node_config(self.folder, number, Site(self.folder / f"site-{number}", None))
        key = self.folder / f"node-{number}.key"
        last = time.monotonic() + 240
        for attempt in itertools.takewhile(lambda _: time.monotonic() < last, itertools.count()):
            name = f"node-{number}-again-{attempt}"
            demo.start_node(self.processes, name, key, (self.port, self.ca), config, self.env)
            process, end = self.processes._started[name], time.monotonic() + 30
            while process.poll() is None and (time.monotonic() < end or self._refused(name)):
                time.sleep(0.5)
            if process.poll() is None:
                return

    def _refused(self, name):
        """A SuperNode that is refused says so at once, and ends some seconds later."""
        return "Exit Code" in self.processes.log(name).read_text()


@contextmanager
def stand(folder):
    with Processes(folder) as processes:
        yield Stand(folder, processes)


def after(text, act):
    """Act once, in a thread, when a line of the run's log has this text."""
    done = []

    def show(line):
        if text in line and not done:
            done.append(threading.Thread(target=act))
            done[0].start()

    return show, done


def test_a_killed_node_that_returns_is_waited_for(tmp_path):
    with stand(tmp_path) as here:

        def kill():
            os.kill(here.processes.pids()["node-1"], signal.SIGKILL)
            here.restart_node(1)

        show, done = after("task 1, round 1: 2 updates", kill)
        summary = here.run(show)
        done[0].join()
    assert summary["sha256"] == here.inline()["sha256"], here.said


def test_after_a_kill_of_the_superlink_the_same_command_goes_on(tmp_path):
    with stand(tmp_path) as here:
        files = tuple(tmp_path / name for name in ("ca.crt", "server.pem", "server.key"))

        def kill():
            os.kill(here.processes.pids()["superlink"], signal.SIGKILL)
            demo.start_superlink(here.processes, "superlink-again", tmp_path, here.port, files, here.env)

        show, done = after("task 1, round 1: 2 updates", kill)
        try:
            summary = here.run(show)  # its ServerApp may bridge a short absence
        except RunError:
            summary = here.run(lambda line: None)
        done[0].join()
    assert summary["sha256"] == here.inline()["sha256"], here.said
