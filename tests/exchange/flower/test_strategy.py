"""The strategy under our loop and, in a ServerApp that is not ours, under Flower's."""

import pytest
from flower_runs import TABLE, InProcess, finish, inline, plan, session
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp.strategy import Strategy

from fcil.errors import RunError
from fcil.exchange.flower import client_app
from fcil.exchange.flower.strategy import FcilStrategy
from fcil.exchange.inline import Inline


def test_our_loop_equals_inline():
    strategy = FcilStrategy(session().plan)
    result = strategy.start(InProcess(client_app.app, seed=1))
    assert strategy.progress.sha256() == inline().sha256()
    assert strategy.progress.correct == inline().correct
    assert [tuple(m["correct"]) for m in result.evaluate_metrics_serverapp.values()] == list(inline().correct)
    assert len(result.arrays) > 0


def test_flowers_loop_equals_inline():
    saved, events = [], []
    strategy = FcilStrategy(session().plan, emit=events.append, save=saved.append)
    grid = InProcess(client_app.app, seed=2)
    rounds = strategy.num_phases + 1  # one too many does no harm
    result = Strategy.start(strategy, grid, ArrayRecord(), rounds)
    assert strategy.progress.sha256() == inline().sha256()
    assert strategy.progress.correct == inline().correct
    assert [p.position for p in saved if p.position == strategy.num_phases]
    assert [tuple(m["correct"]) for m in result.evaluate_metrics_clientapp.values()] == list(inline().correct)
    assert all(m["updates"] == 3 and m["refused"] == 0 for m in result.train_metrics_clientapp.values())
    assert {e["event"] for e in events} == {"client"}


def test_flowers_loop_evaluates_after_rounds_where_asked():
    events = []
    built = plan(run=TABLE["run"] | {"evaluate_rounds": True})
    ours = finish(Inline(session().worker), built, events)
    strategy = FcilStrategy(built)
    result = Strategy.start(strategy, InProcess(client_app.app, seed=2), ArrayRecord(), strategy.num_phases)
    told = [event["accuracy"] for event in events if event["event"] in ("task", "round")]
    assert len(told) > len(built.census.tasks)
    assert [m["accuracy"] for m in result.evaluate_metrics_clientapp.values()] == told
    assert strategy.progress.correct == ours.correct


def test_flowers_loop_goes_on_from_where_it_stopped():
    strategy = FcilStrategy(session().plan)
    grid = InProcess(client_app.app)
    steps = []
    strategy.save = steps.append
    Strategy.start(strategy, grid, ArrayRecord(), 2)
    again = FcilStrategy(session().plan, progress=steps[-1])
    again.start(grid)
    assert again.progress.sha256() == inline().sha256()


def test_rounds_out_of_order_are_refused():
    strategy = FcilStrategy(session().plan)
    with pytest.raises(RunError, match="run rounds in order"):
        strategy.configure_train(2, ArrayRecord(), ConfigRecord(), InProcess(client_app.app))


def test_an_exception_in_a_clients_code_stops_flowers_loop_too(monkeypatch):
    def run(*args):
        raise RuntimeError("boom")

    monkeypatch.setattr("fcil.exchange.worker.run_client", run)
    events = []
    strategy = FcilStrategy(session().plan, emit=events.append)
    with pytest.raises(RunError, match=r"raised RuntimeError: boom"):
        Strategy.start(strategy, InProcess(client_app.app), ArrayRecord(), strategy.num_phases)
    assert "in run\n" in events[-1]["traceback"]
