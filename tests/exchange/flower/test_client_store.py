"""A method's hooks and the client's store, when messages carry the work."""

import errno
from dataclasses import replace

import numpy as np
import pytest
from flower_runs import InProcess, session, settings
from toys import Replay

from fcil.client.store import ClientStore
from fcil.engine.simulation import prepare
from fcil.errors import RunError
from fcil.exchange.flower import handlers
from fcil.exchange.flower.exchange import FlowerExchange
from fcil.exchange.inline import Inline
from fcil.exchange.worker import Worker
from fcil.server.loop import run
from fcil.server.plan import initial_progress, make_plan

METHOD = Replay(rank=2)


def finish(exchange):
    plan = make_plan(settings(), METHOD, session().plan.census, session().plan.backbone)
    return run(plan, initial_progress(plan), exchange, lambda event: None, lambda progress: None)


def test_hooks_and_store_do_the_same_as_inline(tmp_path, monkeypatch):
    monkeypatch.setattr(handlers, "node_method", lambda name, options, files: METHOD)
    monkeypatch.setattr(handlers, "_workers", {})
    store = tmp_path / "clients"
    done = finish(FlowerExchange(InProcess(handlers.app, seed=5), settings(), store=str(store), node_seconds=0.1))
    there = finish(Inline(Worker(settings(), METHOD, ClientStore(tmp_path / "inline"))))
    assert done.sha256() == there.sha256()
    for client in range(3):
        ours, theirs = (ClientStore(folder).read(client, 4) for folder in (store, tmp_path / "inline"))
        assert len(ours["samples"]) == 8
        for name in theirs:
            np.testing.assert_array_equal(ours[name], theirs[name])


@pytest.mark.parametrize(
    "method",
    [
        {"name": "icarl", "rank": 2, "size": 6},
        *(
            pytest.param({"name": name, "rank": 2, **more}, marks=pytest.mark.slow)
            for name, more in (
                ("scaffold", {"option": "I"}), ("scaffold", {}), ("derpp", {"size": 6}), ("er", {"size": 6}),
                ("glfc", {"size": 6, "transition": "entropy", "threshold": 0.1}),
            )
        ),
    ],
    ids=lambda method: method["name"],
)  # fmt: skip
def test_methods_that_keep_something_do_the_same_over_nodes_and_after_a_kill(method, tmp_path, monkeypatch):
    """And a run that goes on after any of its phases, whose successors had been begun, ends in the same bits."""
    monkeypatch.setattr(handlers, "_workers", {})
    small = {"data": {"train_limit": 60, "test_limit": 20}, "model": {"image_size": 16}}
    built, saved = prepare(settings(method=method, **small)), []
    worker = replace(built.worker, store=ClientStore(tmp_path / "inline"))
    whole = run(built.plan, initial_progress(built.plan), Inline(worker), lambda event: None, saved.append)
    nodes = FlowerExchange(InProcess(handlers.app, seed=5), built.plan.config, store=str(tmp_path / "nodes"))
    over_nodes = run(built.plan, initial_progress(built.plan), nodes, lambda event: None, lambda progress: None)
    assert over_nodes.sha256() == whole.sha256()
    for start in saved[1:3]:
        again = run(built.plan, start, Inline(worker), lambda event: None, lambda progress: None)
        assert again.sha256() == whole.sha256()
    lost = replace(built.worker, store=ClientStore(tmp_path / "lost"))
    without = run(built.plan, saved[-2], Inline(lost), lambda event: None, lambda progress: None)
    assert without.sha256() != whole.sha256()  # what clients keep is part of the run


def test_a_full_disk_under_a_nodes_state_dir_stops_the_run_with_one_message(tmp_path, monkeypatch):
    method = {"name": "er", "rank": 2, "size": 6}
    monkeypatch.setattr(handlers, "_workers", {})

    def full(arrays, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    plan = prepare(settings(method=method)).plan
    nodes = {client: {"state-dir": str(tmp_path / f"node{client}")} for client in range(3)}
    grid = InProcess(handlers.app, node_configs=nodes)
    monkeypatch.setattr("fcil.client.store.save_file", full)
    with pytest.raises(RunError, match=r"^task 1, round 1: client \d: .*node.*: cannot be written \(No space") as error:
        run(plan, initial_progress(plan), FlowerExchange(grid, plan.config, node_seconds=0.1), lambda e: None, print)
    assert "Traceback" not in str(error.value)
