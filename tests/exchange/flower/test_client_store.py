"""A method's hooks and the client's store, when messages carry the work."""

import numpy as np
from flower_runs import InProcess, session, settings
from toys import Replay

from fcil.client.store import ClientStore
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
