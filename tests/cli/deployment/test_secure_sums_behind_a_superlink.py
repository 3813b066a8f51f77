"""Secure sums over a SuperLink with TLS and registered nodes: the bits of inline ones, also when a node is lost."""

import json
import os
import signal
from dataclasses import replace

import pytest
from test_kills_behind_a_superlink import Stand, after

from fcil.cli.deployment import demo
from fcil.cli.deployment.processes import Processes
from fcil.config import from_table
from fcil.engine.simulation import prepare, simulate

pytestmark = pytest.mark.slow


class Masked(Stand):
    """Three nodes; the first training round goes on when two of them have delivered."""

    clients = 3

    def settings(self, **run):
        table = demo.demo_settings(self.clients)
        own = {"min_clients": 2, "on_client_error": "skip", "secure_sums": True, **run}
        return {**table, "method": {"rank": 2}, "run": {**table["run"], **own}}

    def inline(self, lost=()):
        """The same run in this process, in which client 1 has no update in these phases."""
        sites = {"sites": [f"{self.folder}/site-{k}" for k in range(self.clients)]}
        session = prepare(from_table([("demo", self.settings()), ("here", {"data": sites})]), self.folder / "inline")

        class Without(type(session.worker)):
            def work(self, phase, broadcast, client):
                if client == 1 and phase.index in lost:
                    raise RuntimeError("away")
                return super().work(phase, broadcast, client)

        worker = session.worker
        session = replace(session, worker=Without(worker.config, worker.method, worker.store))
        return simulate(session, self.folder / "inline")


def test_the_bits_are_those_of_inline_and_a_killed_node_comes_back(tmp_path):
    """Node 1 is killed after the first phase and starts again; the phases without it are those of the records."""
    with Processes(tmp_path) as processes:
        here = Masked(tmp_path, processes)

        def kill():
            os.kill(processes.pids()["node-1"], signal.SIGKILL)
            here.restart_node(1)

        show, done = after("task 1, round 1: 3 updates", kill)
        summary = here.run(show)
        done[0].join()
        lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    lost = {event["phase"] for event in events if event["event"] == "refused"}
    assert {event["client"] for event in events if event["event"] == "refused"} <= {1}
    assert 1 in lost, here.said
    assert summary["sha256"] == here.inline(lost)["sha256"], here.said
