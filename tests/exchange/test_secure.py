"""Masked sums in a run: the plain run's result within the bound, the same bits every time, dropouts, and refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest

from fcil.client.settings import Train
from fcil.config import Config, MethodChoice, Run
from fcil.data import Data
from fcil.engine.arrivals import KeptArrivals
from fcil.engine.checkpoints import read_progress
from fcil.engine.forecast import forecast
from fcil.engine.simulation import prepare, simulate
from fcil.errors import ConfigError, RunError
from fcil.exchange.inline import Inline
from fcil.exchange.secure import _Here, masked_bytes, secure_sums
from fcil.exchange.worker import Worker
from fcil.loggers import Logger
from fcil.model.backbone import Model
from fcil.scenario.partition import Partition
from fcil.scenario.tasks import Tasks
from fcil.secure import error_bound
from fcil.server.arrivals import Arrivals
from fcil.server.loop import ask, step
from fcil.server.plan import initial_progress

SMALL = Config(
    data=Data(train_limit=100, test_limit=40),
    tasks=Tasks(count=2),
    model=Model(image_size=16),
    partition=Partition(clients=4, kind="iid"),
    train=Train(rounds=1, epochs=1),
    run=Run(secure_sums=True),
)
METHODS = {"ridge": {"penalty": 1.0}, "lorm": {"rank": 2}, "fedavg": {"rank": 2}, "flora": {"rank": 2}}


def config(method="ridge", **run):
    return replace(SMALL, method=MethodChoice(method, METHODS[method]), run=replace(SMALL.run, **run))


@pytest.mark.parametrize("method", ["ridge", "lorm", "fedavg"])
def test_the_sums_of_a_phase_are_the_plain_ones_within_the_bound(method):
    session = prepare(config(method))
    request = ask(session.plan, initial_progress(session.plan))
    clients = list(request.num_examples)
    assert request.groups == (tuple(clients),)
    secure = secure_sums(session.worker, request)
    plain = session.worker.work_group(request.phase, request.broadcast, clients)
    assert [m.client for m in secure.members] == clients
    for name, a in plain.sums.items():
        # the plain sum is rounded too, at each of its additions
        slack = error_bound(len(clients), a) + 1e-14 * np.abs(a).max()
        assert (np.abs(secure.sums[name] - a) <= slack).all()
    again = secure_sums(session.worker, request)
    assert all(np.array_equal(a, again.sums[name]) for name, a in secure.sums.items())


@pytest.mark.parametrize("method", ["ridge", "lorm", "fedavg"])
def test_a_run_ends_where_the_plain_one_does_and_always_in_the_same_bits(tmp_path, method):
    secure, again, plain = (
        simulate(prepare(config(method, **more), tmp_path / name), tmp_path / name)
        for name, more in (("secure", {}), ("again", {}), ("plain", {"secure_sums": False}))
    )
    assert secure["sha256"] == again["sha256"]
    assert secure["correct"] == plain["correct"]
    assert secure["download_bytes"] == plain["download_bytes"]
    assert secure["upload_bytes"] == forecast(prepare(config(method))).total("upload_bytes")
    events = [json.loads(line) for line in (tmp_path / "secure" / "metrics.jsonl").read_text().splitlines()]
    sent = [event["bytes"] for event in events if event["event"] == "client"]
    assert sum(e["upload_bytes"] for e in events if e["event"] == "merged") == secure["upload_bytes"] == sum(sent)
    with pytest.raises(ConfigError, match=r"run\.secure_sums"):
        simulate(prepare(config(method, secure_sums=False), tmp_path / "secure"), tmp_path / "secure")


def test_bytes_are_counted_as_they_travel():
    session = prepare(config())
    request = ask(session.plan, initial_progress(session.plan))
    partial = secure_sums(session.worker, request)
    numbers = sum(a.size for a in partial.sums.values())
    each = 16 * numbers + 2 * 32 + 3 * (12 + 2 * 66 + 16) + 4 * 66
    assert partial.nbytes == masked_bytes(partial.sums, 4) == 4 * each
    assert first(session)[0].totals["upload_bytes"] == 4 * each


class Failing(Worker):
    """Clients `bad` raise; frozen, so they are set beside the fields."""

    def work(self, phase, broadcast, client):
        if client in self.__dict__["bad"]:
            raise RuntimeError("boom")
        return super().work(phase, broadcast, client)


def with_failures(bad, **run):
    session = prepare(config(**{"on_client_error": "skip", **run}))
    worker = Failing(session.worker.config, session.worker.method)
    worker.__dict__["bad"] = bad
    return replace(session, worker=worker)


@pytest.mark.parametrize(("clients", "left"), [(5, True), (4, False)])
def test_clients_that_told_one_public_key_drop_out_before_numbers_are_masked(monkeypatch, asked, clients, left):
    """Two that agree on a key can so keep their own numbers away, as by not answering, and stop nobody else's sum."""
    session = prepare(replace(config(), partition=replace(SMALL.partition, clients=clients)))
    keys, share, told = _Here.keys, _Here.share, []

    def copied(self, of, clients):
        answers = dict(keys(self, of, clients))
        yield from {**answers, 3: replace(answers[3], box=answers[1].pair)}.items()

    def recorded(self, of, keys):
        told.append(set(keys))
        return share(self, of, keys)

    monkeypatch.setattr(_Here, "keys", copied)
    monkeypatch.setattr(_Here, "share", recorded)
    partial = secure_sums(session.worker, ask(session.plan, initial_progress(session.plan)))
    assert [member.client for member in partial.members] == ([0, 2, 4] if left else [])
    assert asked == told == ([{0, 2, 4}] if left else [])
    reasons = {failure.client: failure.reason for failure in partial.failures}
    assert all("clients 1 and 3 told the same public key" in reasons[client] for client in (1, 3))
    assert left or "0 of 4 clients have delivered, 3 are needed" in reasons[0]


def test_who_fails_is_a_dropout_and_its_share_is_missing_and_nothing_else(tmp_path):
    secure = simulate(with_failures({1}), tmp_path / "secure")
    plain = simulate(with_failures({1}, secure_sums=False), tmp_path / "plain")
    assert secure["correct"] == plain["correct"]
    assert secure["refused"] == plain["refused"] == 2
    lines = map(json.loads, (tmp_path / "secure" / "metrics.jsonl").read_text().splitlines())
    assert all("boom" in e["reason"] for e in lines if e["event"] == "refused")


def first(session, **options):
    events = []
    return step(session.plan, initial_progress(session.plan), Inline(session.worker), events.append, **options), events


@pytest.fixture
def asked(monkeypatch):
    """For the sums of which clients shares were asked for."""
    sums, reveal = [], _Here.reveal

    def recorded(self, of, arrived):
        sums.append(set(arrived))
        return reveal(self, of, arrived)

    monkeypatch.setattr(_Here, "reveal", recorded)
    return sums


def test_no_share_is_revealed_where_an_exception_stops_the_run(asked):
    """The phase is asked for again with that client, and the two sums would differ by its numbers."""
    with pytest.raises(RunError, match="client 1 raised RuntimeError: boom"):
        first(with_failures({1}, on_client_error="stop"))
    assert asked == []


def test_a_resumed_run_asks_for_the_sum_of_the_same_clients_only(tmp_path, asked, monkeypatch):
    """Its server had a sum, and was stopped before it had a checkpoint."""
    session = with_failures({1})

    def broken(*args):
        raise RunError("no merge")

    with monkeypatch.context() as patch:
        patch.setattr("fcil.server.loop.receive", broken)
        with pytest.raises(RunError, match="no merge"):
            simulate(session, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "secure_sums.json").read_text()) == {"0": [0, 2, 3]}
    session.worker.__dict__["bad"] = {2}
    with pytest.raises(RunError, match="0 of 4 clients sent a good update"):
        simulate(session, tmp_path / "run")
    assert "of those client 2 has not delivered: go on when all are back" in (
        (tmp_path / "run" / "metrics.jsonl").read_text()
    )
    assert asked == [{0, 2, 3}]
    session.worker.__dict__["bad"] = set()
    simulate(session, tmp_path / "run")
    assert asked == [{0, 2, 3}, {0, 2, 3}, {0, 1, 2, 3}]
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert [(e["client"], "without it" in e["reason"]) for e in lines if e["event"] == "refused"] == [(1, True)]


class Steps(Logger):
    """Keeps of which phases it is told, and whether with an accuracy."""

    def __init__(self):
        self.told = []

    def figures(self, step, figures):
        self.told.append((step, "accuracy/all" in figures))


def events_of(folder):
    """Without seconds and memory, which are others each time."""
    events = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{name: a for name, a in e.items() if not {"seconds", "memory"} & {*name.split("_")}} for e in events]


@pytest.mark.parametrize("method", ["ridge", "fedavg"])
def test_a_run_that_ends_at_its_evaluations_goes_on_with_them_and_asks_nobody_again(
    tmp_path, asked, monkeypatch, method
):
    """Nodes may have forgotten the sum by then, and one may be away: another sum would tell its numbers."""
    settings = replace(config(method, evaluate_rounds=True), train=Train(rounds=2, epochs=1))
    whole = simulate(prepare(settings, tmp_path / "whole"), tmp_path / "whole")
    sums, asked[:] = list(asked), []
    evaluate, tried, logger = Inline.evaluate, [], Steps()

    def every_second_time(self, arrays, task):
        tried.append(task.index)
        if len(tried) % 2:
            raise RunError("no evaluation")
        return evaluate(self, arrays, task)

    monkeypatch.setattr(Inline, "evaluate", every_second_time)
    stops = 0
    while not (tmp_path / "run" / "summary.json").exists():
        try:
            again = simulate(prepare(settings, tmp_path / "run"), tmp_path / "run", loggers=[logger])
        except RunError:
            stops += 1
            assert read_progress(tmp_path / "run").unevaluated
            (tmp_path / "run" / "secure_sums.json").unlink()  # not needed, as no phase is asked for again
    assert stops == len(tried) / 2 == (2 if method == "ridge" else 4)
    assert (again["sha256"], again["correct"]) == (whole["sha256"], whole["correct"])
    assert asked == sums
    assert events_of(tmp_path / "run") == events_of(tmp_path / "whole")
    assert logger.told == [(step, True) for step in range(1, len(tried) // 2 + 1)]


def test_a_damaged_record_of_sums_is_refused(tmp_path):
    (tmp_path / "secure_sums.json").write_text("[")
    with pytest.raises(ConfigError, match=r"secure_sums\.json: damaged"):
        KeptArrivals(tmp_path)


def test_shares_are_asked_for_once_more_of_the_same_clients_where_too_few_revealed(asked):
    """One that was away at first is not let in: who has revealed shares would refuse."""
    session = prepare(config())
    request = replace(ask(session.plan, initial_progress(session.plan)), arrivals=Arrivals({0: {0, 1, 3}}))
    partial = secure_sums(session.worker, request)
    assert [member.client for member in partial.members] == [0, 1, 3]
    assert asked == [{0, 1, 3}]


def test_of_half_the_clients_no_sum_is_had(tmp_path):
    with pytest.raises(RunError, match="0 of 4 clients sent a good update"):
        simulate(with_failures({1, 2}), tmp_path / "run")
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "2 of 4 clients have delivered, 3 are needed" in text


def test_numbers_too_large_for_the_ring_cost_that_client(tmp_path):
    class Large(Worker):
        def work_group(self, phase, broadcast, clients):
            partial = super().work_group(phase, broadcast, clients)
            sums = {n: a * 1e30 if clients[0] == 2 else a for n, a in partial.sums.items()}
            return replace(partial, sums=sums)

    session = prepare(config())
    worker = Large(session.worker.config, session.worker.method)
    summary = simulate(session, tmp_path / "run", exchange=Inline(worker))
    assert summary["refused"] == 2


@pytest.mark.parametrize(
    ("method", "run", "message"),
    [
        ("flora", {}, "single updates"),
        ("ridge", {"aggregate_on_worker": True}, "aggregate_on_worker"),
        ("lorm", {"diagnostics": True}, "diagnostics"),
        ("lorm", {"filter": "median"}, "does not see"),
    ],
)
def test_what_needs_more_than_sums_is_refused_before_the_run(method, run, message):
    with pytest.raises(ConfigError, match=message) as error:
        prepare(config(method, **run))
    assert "run.secure_sums" in str(error.value)
