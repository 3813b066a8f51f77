"""A Ray cluster of two nodes on this machine, one of which goes away in the middle of a run."""

import pytest
import ray
from flower_runs import finish, inline, refused, session, settings
from ray.cluster_utils import Cluster

from fcil.cli.arguments import overrides
from fcil.cli.main import main
from fcil.errors import ConfigError, RunError
from fcil.exchange.flower.exchange import FlowerExchange
from fcil.exchange.flower.ray_grid import RayGrid
from fcil.server.loop import run
from fcil.server.plan import initial_progress


@pytest.fixture
def cluster():
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.second = made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    if ray.is_initialized():
        ray.shutdown()
    made.shutdown()


@pytest.mark.slow
def test_a_node_that_goes_away_in_the_middle_of_a_run_changes_no_bit(cluster):
    events, phases = [], []
    with RayGrid(3, workers=2, address=cluster.address) as grid:
        exchange = FlowerExchange(grid, settings())
        grid.pids()

        def save(progress):
            phases.append(progress.position)
            if len(phases) == 3:
                cluster.remove_node(cluster.second, allow_graceful=False)

        plan = session().plan
        progress = run(plan, initial_progress(plan), exchange, events.append, save)
    assert progress.sha256() == inline().sha256()
    assert progress.correct == inline().correct
    assert refused(events) == {}


@pytest.mark.slow
def test_workers_on_unlike_processors_are_refused_unless_that_is_asked_for(monkeypatch):
    """Two workers here are alike; the grid is told of a third kind as if another machine had it."""
    with RayGrid(2, workers=1) as grid:
        grid.pids()
        with pytest.raises(RunError, match=r"unlike processors \(.*; far: Z80\).*run.mixed_processors=true"):
            grid._workers.compare("far", "Z80")
    with RayGrid(2, workers=1, mixed=True) as grid:
        grid.pids()
        grid._workers.compare("far", "Z80")
        assert finish(FlowerExchange(grid, settings())).sha256() == inline().sha256()


def parsed(*arguments):
    from fcil.cli.main import _parser

    return overrides(_parser().parse_args(["run", "x.toml", *arguments]))


def test_a_cluster_is_named_on_the_command_line(capsys, tmp_path):
    assert parsed("--ray-address", "head:6379") == ['run.exchange="ray"', 'run.ray_address="head:6379"']
    with pytest.raises(ConfigError, match="--exchange inline uses no Ray"):
        parsed("--ray-address", "head:6379", "--exchange", "inline")
    assert main(["run", "configs/quickstart.toml", "--ray-address", "http://x", "--output", str(tmp_path / "run")]) == 2
    assert "run.ray_address = 'http://x': no Ray cluster answers there" in capsys.readouterr().err
