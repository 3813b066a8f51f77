"""A few kills of a run's server and of Ray's workers; docs/reliability.md has the counts of many."""

import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.kill_server import kill_workers
from benchmarks.soak import soak


@pytest.mark.slow
@pytest.mark.parametrize(("exchange", "kills"), [("inline", 4), ("ray", 2)])
def test_a_run_whose_server_is_killed_ends_in_the_same_bits(exchange, kills):
    """In a process of its own: it forks, which does not go well where earlier tests have used Ray."""
    program = Path(__file__).parents[2] / "benchmarks" / "kill_server.py"
    command = [sys.executable, str(program), "--kills", str(kills), "--exchange", exchange, "--seed", "1"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert told.returncode == 0, told.stderr
    assert f"same bits: {kills}" in told.stdout.splitlines(), told.stdout


@pytest.mark.slow
def test_a_run_whose_workers_are_killed_ends_in_the_same_bits(tmp_path):
    result = kill_workers(3, tmp_path, rounds=6, seed=1)
    assert (result["kills"], result["same bits"], result["refused"]) == (3, True, 0)


@pytest.mark.slow
def test_memory_and_open_files_stay_as_they_are_over_a_hundred_rounds(tmp_path):
    seen = soak(100, tmp_path / "run")
    early, last = seen[20], seen[-1]
    assert last["open"] == early["open"]
    assert last["mb"] - early["mb"] < 20
