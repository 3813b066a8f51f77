"""Our Ray workers. One run in the default suite; what starts Ray again, or ends workers, is slow."""

import json
import os
import random
import signal
import time

import pytest
import ray
from flower_processes import alive, children, gone
from flower_runs import ADAPTED, finish, first_phase, inline, inline_without, refused, settings
from own_methods import write

from fcil.engine.simulation import prepare
from fcil.errors import ConfigError, RunError
from fcil.exchange.flower import secure_grid
from fcil.exchange.flower.exchange import FlowerExchange, ray_exchange
from fcil.exchange.flower.ray_cluster import quietly, room_for_workers
from fcil.exchange.flower.ray_grid import RayGrid
from fcil.exchange.inline import Inline
from fcil.threads import cores

ON_RAY = {"exchange": "ray", "device": "cpu"}


def masked(**run):
    """A run of which the server sees sums alone."""
    method = {"name": "ridge", "penalty": 1.0}
    return settings(method=method, run={"device": "cpu", "evaluation_batch": 16, "secure_sums": True, **run})


def test_two_workers_equal_inline_and_leave_nothing_running(tmp_path):
    workers = min(2, cores())
    before = children()
    exchange = ray_exchange(settings(run={**ON_RAY, "workers": workers}), tmp_path)
    summing = settings(run={**ON_RAY, "workers": workers, "aggregate_on_worker": True})
    try:
        done = finish(exchange)
        grouped = finish(FlowerExchange(exchange.grid, summing, store=str(tmp_path)), prepare(summing).plan)
        secure = finish(FlowerExchange(exchange.grid, masked(exchange="ray")), prepare(masked()).plan)
        pids = {*exchange.grid.pids(), *children()} - before
    finally:
        exchange.close()
    assert done.sha256() == inline().sha256()
    assert done.correct == inline().correct
    session = prepare(settings(run={"device": "cpu", "aggregate_on_worker": True}))
    assert grouped.sha256() == finish(Inline(session.worker), session.plan).sha256()
    session = prepare(masked())
    assert secure.sha256() == finish(Inline(session.worker), session.plan).sha256()
    assert "model" not in vars(exchange.local)  # the server holds no backbone: evaluation is the workers' too
    assert len(pids) > workers
    assert gone(pids)


@pytest.mark.slow
def test_methods_in_files_and_other_adapters_end_in_the_same_bits_on_two_workers(tmp_path, monkeypatch):
    write(tmp_path / "methods")
    monkeypatch.chdir(tmp_path)  # the workers are elsewhere
    own = prepare(settings(method={"name": "methods/mine.py:Mine", "rank": 2}, run={"device": "cpu"}))
    sessions = [own, *(prepare(settings(method=method, run={"device": "cpu"})) for method in ADAPTED[:3])]
    exchange = ray_exchange(settings(run={**ON_RAY, "workers": min(2, cores())}), tmp_path)
    try:
        done = [finish(FlowerExchange(exchange.grid, s.plan.config, store=str(tmp_path)), s.plan) for s in sessions]
    finally:
        exchange.close()
    assert [d.sha256() for d in done] == [finish(Inline(s.worker), s.plan).sha256() for s in sessions]


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        {"name": "ncm"}, {"name": "ranpac", "size": 30}, {"name": "joint", "rank": 2},
        {"name": "scaffold", "rank": 2}, {"name": "ewc", "rank": 2}, {"name": "lwf", "rank": 2},
        {"name": "derpp", "rank": 2, "size": 6}, {"name": "icarl", "rank": 2, "size": 6},
        {"name": "l2p", "size": 4, "top": 2}, {"name": "codaprompt", "size": 8}, {"name": "ccvr", "rank": 2},
        {"name": "fedproto", "rank": 2}, {"name": "fot", "rank": 2},
        {"name": "fot", "adapter": "full", "energy_step": 0.01, "weights": "equal"}, {"name": "dolfin", "rank": 2},
        {"name": "fedprox", "rank": 2}, {"name": "fedavgm", "rank": 2}, {"name": "fedadam", "rank": 2},
        {"name": "er", "rank": 2, "size": 6}, {"name": "dualprompt", "length": 2}, {"name": "pilora", "rank": 2},
        {"name": "stsa", "rank": 2, "random": 30}, {"name": "stsa", "rank": 2, "random": 30, "groups": 2},
        {"name": "glfc", "rank": 2, "size": 6, "old_model": "best"},
        {"name": "glfc", "rank": 2, "size": 6, "old_model": "proxy", "proxy_steps": 1},
        {"name": "lander", "rank": 2, "dimension": 12},
        {"name": "lorm+ranpac", "rank": 2, "size": 30, "adapt": "every_task", "concat": True, "transport": True},
    ],
    ids=lambda method: method["name"],
)  # fmt: skip
def test_methods_of_all_families_end_in_the_same_bits_on_two_workers(tmp_path, method):
    exchange = ray_exchange(settings(method=method, run={**ON_RAY, "workers": min(2, cores())}), tmp_path)
    session = prepare(settings(method=method))
    try:
        done = finish(exchange, session.plan)
    finally:
        exchange.close()
    alone = finish(Inline(session.worker), session.plan)
    assert done.sha256() == alone.sha256()
    assert done.correct == alone.correct


@pytest.mark.parametrize(
    ("resources", "threads", "gpus", "room"),
    [
        ({"CPU": 4.0}, 1, 0, 4), ({"CPU": 4.0}, 3, 0, 1), ({"CPU": 4.0}, 5, 0, 0), ({"CPU": 4.0}, 1, 0.5, 0),
        ({"CPU": 8.0, "GPU": 2.0}, 1, 0.5, 4), ({"CPU": 8.0, "GPU": 2.0}, 1, 0.4, 4),
        ({"CPU": 8.0, "GPU": 2.0}, 1, 1, 2),
        ({"CPU": 8.0, "GPU": 4.0}, 1, 2, 2), ({"CPU": 8.0, "GPU": 1.0}, 1, 0.1, 8), ({}, 1, 0, 0),
    ],
)  # fmt: skip
def test_room_for_workers(resources, threads, gpus, room):
    assert room_for_workers(resources, threads, gpus) == room


def test_cuda_on_ray_needs_a_share_of_a_gpu():
    with pytest.raises(ConfigError, match=r"run\.gpus_per_client"):
        ray_exchange(settings(run={**ON_RAY, "device": "cuda"}))


def test_ray_picks_the_gpu():
    with pytest.raises(ConfigError, match='write "cuda"'):
        ray_exchange(settings(run={**ON_RAY, "device": "cuda:1", "gpus_per_client": 0.5}))


@pytest.fixture
def one_gpu():
    """Ray only counts GPUs: told that there is one, it hands out shares of it on any machine."""
    with quietly():
        ray.init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
    yield
    with quietly():
        ray.shutdown()


def free_gpus(wanted):
    """How much of a GPU Ray has left, once that is `wanted` or half a minute has passed."""
    waited_for = time.monotonic() + 30
    while (left := ray.available_resources().get("GPU", 0)) != pytest.approx(wanted) and time.monotonic() < waited_for:
        time.sleep(0.1)
    return left


@pytest.mark.slow
def test_workers_take_their_shares_of_a_gpu_from_ray(one_gpu):
    for share, workers in [(0.5, 2), (0.4, 2), (1.0, 1)]:
        assert free_gpus(1) == 1
        with pytest.raises(ConfigError, match="room for"):
            RayGrid(4, workers=workers + 1, gpus=share)
        with RayGrid(4, gpus=share) as grid:
            assert len(grid.pids()) == grid.workers == workers
            assert free_gpus(1 - workers * share) == pytest.approx(1 - workers * share)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["share", "masked", "reveal"])
def test_a_worker_that_dies_with_its_clients_secrets_changes_no_bit_of_a_secure_sum(monkeypatch, step):
    """The sum is begun anew with other secrets."""
    killed, events = [], []
    carry = getattr(secure_grid._GridCarrier, step)
    session = prepare(masked())
    with RayGrid(3, workers=min(2, cores())) as grid:
        exchange = FlowerExchange(grid, masked(exchange="ray"))

        def after_a_kill(carrier, *arguments):
            if not killed:
                killed.append(grid.pids()[0])
                os.kill(killed[0], signal.SIGKILL)
                assert gone(killed)
            yield from carry(carrier, *arguments)

        monkeypatch.setattr(secure_grid._GridCarrier, step, after_a_kill)
        done = finish(exchange, session.plan, events)
    assert killed
    assert refused(events) == {}
    assert done.sha256() == finish(Inline(session.worker), session.plan).sha256()


# ---- slow: one Ray with a ClientApp that misbehaves on demand -------------------------------------------------------


@pytest.fixture(scope="module")
def grid():
    """One grid for the rest of the file: it has all cores, so tests with a Ray of their own stand above."""
    with RayGrid(3, workers=min(2, cores()), app="faulty_app:app", retries=1) as grid:
        grid.pids()
        yield grid


class Shuffled:
    """A grid of ours whose replies arrive in another order."""

    def __init__(self, grid, seed):
        self.grid, self.workers, self.pinned, self.random = grid, grid.workers, grid.pinned, random.Random(seed)

    def stream(self, messages, *, timeout=None):
        arrived = list(self.grid.stream(messages, timeout=timeout))
        self.random.shuffle(arrived)
        yield from arrived

    def close(self):
        pass


def faulty(grid, folder, faults, **run):
    (folder / "faults.json").write_text(json.dumps(faults))
    return FlowerExchange(grid, settings(run={**ON_RAY, **run}), store=str(folder / "clients"))


@pytest.mark.slow
def test_shuffled_replies_and_workers_that_served_other_runs_equal_inline(grid, tmp_path):
    assert finish(faulty(Shuffled(grid, 5), tmp_path, {})).sha256() == inline().sha256()


@pytest.mark.slow
def test_a_worker_killed_in_a_round_is_replaced_with_the_same_result(grid, tmp_path):
    before = grid.pids()
    done = finish(faulty(grid, tmp_path, {"1": {"1": "dies once"}}))
    assert (tmp_path / "died").exists()
    assert done.sha256() == inline().sha256()
    assert len(set(grid.pids()) - set(before)) == 1


@pytest.mark.slow
def test_a_worker_killed_from_outside_is_replaced_with_the_same_result(grid, tmp_path):
    exchange, events = faulty(grid, tmp_path, {}), []
    victim = grid.pids()[0]
    emit = events.append

    class Killing(list):
        def append(self, event):
            emit(event)
            if event["event"] == "client" and event["phase"] == 1 and alive(victim):
                os.kill(victim, signal.SIGKILL)

    assert finish(exchange, events=Killing()).sha256() == inline().sha256()
    assert refused(events) == {}
    assert victim not in grid.pids()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "reason"),
    [("raises", "RuntimeError: boom"), ("nan", "NaN"), ("impostor", "claims"), ("dies", "its worker died 2 times")],
)
def test_a_bad_client_costs_its_own_update(grid, tmp_path, fault, reason):
    progress, events = first_phase(faulty(grid, tmp_path, {"0": {"1": fault}}))
    assert list(refused(events)) == [1]
    assert reason in refused(events)[1]
    assert progress.sha256() == inline_without(1).sha256()
    assert len(grid.pids()) == grid.workers


@pytest.mark.slow
@pytest.mark.parametrize("run", [{}, {"aggregate_on_worker": True}], ids=["single", "groups"])
def test_an_exception_in_a_clients_code_stops_the_run_or_costs_its_update(grid, tmp_path, run):
    faults = {"0": {"2": "raises in its work"}}  # of three clients, 2 is a group of its own
    with pytest.raises(RunError, match=r"^task 1, round 1: client 2 raised RuntimeError: boom") as error:
        first_phase(faulty(grid, tmp_path, faults, **run), run=run)
    assert "in work_all" in str(error.value)
    skipping = {**run, "on_client_error": "skip"}
    _, events = first_phase(faulty(grid, tmp_path, faults, **skipping), run=skipping)
    assert refused(events) == {2: "RuntimeError: boom"}
    assert all("in work_all" in e["traceback"] for e in events if e["event"] == "refused")


@pytest.mark.slow
def test_a_client_that_hangs_is_ended_and_the_worker_replaced(grid, tmp_path):
    before = grid.pids()
    first_phase(faulty(grid, tmp_path, {}))  # loads backbone and data, so that the deadline is for the work
    progress, events = first_phase(faulty(grid, tmp_path, {"0": {"1": "sleeps"}}, client_timeout=15.0))
    assert "took longer than 15 seconds" in refused(events)[1]
    assert progress.sha256() == inline_without(1).sha256()
    assert len(set(grid.pids()) & set(before)) == grid.workers - 1


@pytest.mark.slow
def test_a_listener_that_gives_up_leaves_the_grid_usable(grid, tmp_path):
    class Stop(Exception):
        pass

    def stop(event):
        if event["event"] == "client":
            raise Stop

    class Stopping(list):
        append = staticmethod(stop)

    with pytest.raises(Stop):
        finish(faulty(grid, tmp_path, {}), events=Stopping())
    assert refused(first_phase(faulty(grid, tmp_path, {}))[1]) == {}


@pytest.mark.slow
@pytest.mark.parametrize("run", [{"workers": 1000}, {"threads": 1000}, {"gpus_per_client": 0.5, "workers": 1000}])
def test_missing_resources_stop_the_run_before_it_starts(grid, run):
    with pytest.raises(ConfigError, match="Ray has room for"):
        ray_exchange(settings(run={**ON_RAY, **run}))
