"""Secure sums over a SuperLink with TLS and registered nodes: the bits of inline ones, also when a node is lost."""

import json
import os
import signal
import threading
import time
from dataclasses import replace

import pytest
from test_kills_behind_a_superlink import Stand

from fcil.cli.deployment import demo
from fcil.cli.deployment.processes import Processes
from fcil.config import from_table
from fcil.engine.simulation import prepare, simulate

pytestmark = pytest.mark.slow
STEPS = "Receiving: query.secure message"


class Masked(Stand):
    """Three nodes, two of which are enough for a sum."""

    clients = 3

    def settings(self, **run):
        table = demo.demo_settings(self.clients)
        own = {"min_clients": 2, "secure_sums": True, "wait_for_clients": 400.0, **run}
        return {**table, "method": {"name": "ridge", "penalty": 1.0}, "run": {**table["run"], **own}}

    def kill_within_a_sum(self, number):
        """Kill a node when it is asked for its masked numbers, and start it again: it is needed for evaluation."""
        log = self.processes.log(f"node-{number}")
        while log.read_text(errors="replace").count(STEPS) < 3:
            time.sleep(0.05)
        os.kill(self.processes.pids()[f"node-{number}"], signal.SIGKILL)
        self.restart_node(number)

    def inline(self, lost=()):
        """The same run in this process, in which client 1 has no update in these phases."""
        maps = [self.folder / f"site-{k}.toml" for k in range(self.clients)]
        sites = {
            "sites": [f"{self.folder}/site-{k}" for k in range(self.clients)],
            "class_maps": [str(path) if path.exists() else "" for path in maps],
        }
        skipping = {"data": sites, "run": {"on_client_error": "skip"}}
        session = prepare(from_table([("demo", self.settings()), ("here", skipping)]), self.folder / "inline")

        class Without(type(session.worker)):
            def work(self, phase, broadcast, client):
                if client == 1 and phase.index in lost:
                    raise RuntimeError("away")
                return super().work(phase, broadcast, client)

        worker = session.worker
        session = replace(session, worker=Without(worker.config, worker.method, worker.store))
        return simulate(session, self.folder / "inline")


def test_a_node_that_is_killed_within_a_sum_costs_its_update_and_nothing_else(tmp_path):
    with Processes(tmp_path) as processes:
        here = Masked(tmp_path, processes)
        killer = threading.Thread(target=here.kill_within_a_sum, args=(1,), daemon=True)
        killer.start()
        summary = here.run(print)
        killer.join(60)
        lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    lost = [event for event in map(json.loads, lines) if event["event"] == "refused"]
    assert [(event["phase"], event["client"]) for event in lost] == [(0, 1)], here.said
    expected = here.inline(lost={0})
    assert summary["sha256"] == expected["sha256"], here.said
    assert summary["correct"] == [list(row) for row in expected["correct"]]
