"""The filter of a run: checked before it starts, applied before the merge, recorded, and the same after a resume."""

import json
from dataclasses import replace

import numpy as np
import pytest

from fcil.client.settings import Train
from fcil.config import Config, MethodChoice, Run, from_table, to_table
from fcil.data import Data
from fcil.engine.forecast import forecast
from fcil.engine.records import read_summary
from fcil.engine.simulation import prepare, resume, simulate
from fcil.errors import ConfigError, RunError
from fcil.exchange.inline import Inline
from fcil.method import ClientUpdate
from fcil.model.backbone import Model
from fcil.scenario.partition import Partition
from fcil.scenario.tasks import Tasks
from fcil.server.filtering import filtered
from fcil.server.loop import ask, checked
from fcil.server.plan import initial_progress
from fcil.server.replies import Failure

SMALL = Config(
    data=Data(train_limit=150, test_limit=40),
    tasks=Tasks(count=2),
    model=Model(image_size=16),
    partition=Partition(clients=5, kind="iid"),
    train=Train(rounds=1, epochs=1),
    method=MethodChoice("lorm", {"rank": 2}),
)


def settings(filter, method="lorm", **run):
    choice = MethodChoice(method, {} if method in ("ridge", "ncm") else {"rank": 2})
    return replace(SMALL, method=choice, run=Run(filter=filter, **run))


class Poisoned(Inline):
    """Client 1 sends a hundred times its change, and statistics as of features a hundred times as long."""

    def __call__(self, request):
        for reply in super().__call__(request):
            yield poisoned(request, reply) if reply.client == 1 else reply


def times(name):
    return 1 if "counts" in name else 10_000 if "gram" in name else 100


def poisoned(request, update):
    start = request.broadcast.arrays
    return replace(
        update,
        arrays={n: start[n] + 100 * (a - start[n]) for n, a in update.arrays.items()},
        statistics={n: times(n) * a for n, a in update.statistics.items()},
    )


class WithoutOne(Inline):
    def __call__(self, request):
        yield from (r for r in super().__call__(request) if r.client != 1)


def carried_out(config, folder, exchange=Inline):
    session = prepare(config, folder)
    return simulate(session, folder, exchange=exchange(session.worker))


def events(folder, kind):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [e for e in lines if e["event"] == kind]


@pytest.mark.parametrize("method", ["lorm", "fedavg", "ties"])
def test_what_is_left_out_has_no_influence_and_is_counted_apart_from_failures(tmp_path, method):
    config = settings("norm(factor = 10)", method)
    summary = carried_out(config, tmp_path / "run", Poisoned)
    phases = {e["phase"] for e in events(tmp_path / "run", "phase")}
    left_out = events(tmp_path / "run", "filtered")
    assert [(e["phase"], e["client"]) for e in left_out] == [(p, 1) for p in sorted(phases)]
    assert all("times the median" in e["reason"] for e in left_out)
    assert (summary["filtered"], summary["refused"]) == (len(phases), 0)
    assert not events(tmp_path / "run", "refused")
    assert {e["updates"] for e in events(tmp_path / "run", "merged")} == {4}
    without = carried_out(settings("none", method, min_clients=1), tmp_path / "without", WithoutOne)
    assert summary["sha256"] == without["sha256"]
    assert summary["upload_bytes"] > without["upload_bytes"]  # what is left out has travelled
    assert summary["images"] > without["images"]


@pytest.mark.parametrize("filter", ["median", "trimmed(share = 0.2)", "krum", "multi_krum(malicious = 1)"])
@pytest.mark.parametrize("method", ["ridge", *(pytest.param(n, marks=pytest.mark.slow) for n in ("lorm", "ties"))])
def test_every_filter_goes_before_any_merge_and_tells_what_it_did(tmp_path, filter, method):
    config = settings(filter, method)
    summary = carried_out(config, tmp_path / "run", Poisoned)
    told = [*events(tmp_path / "run", "filtered"), *events(tmp_path / "run", "altered")]
    assert {e["phase"] for e in told} == {e["phase"] for e in events(tmp_path / "run", "phase")}
    assert summary["filtered"] == len(events(tmp_path / "run", "filtered"))
    for e in events(tmp_path / "run", "altered"):
        assert e["replaced"] > 0 or e["scaled"] < 1
    plain = carried_out(settings("none", method), tmp_path / "plain", Poisoned)
    assert plain["sha256"] != summary["sha256"]
    assert plain["filtered"] == 0


def test_a_run_goes_on_with_its_filter_and_not_with_another(tmp_path):
    config = settings("trimmed(share = 0.2)")
    whole = carried_out(config, tmp_path / "whole")

    class Broken(Inline):
        def __call__(self, request):
            if request.phase.index == 2:
                raise KeyboardInterrupt
            yield from super().__call__(request)

    with pytest.raises(KeyboardInterrupt):
        carried_out(config, tmp_path / "run", Broken)
    with pytest.raises(ConfigError, match=r"run\.filter"):
        carried_out(settings("median"), tmp_path / "run")
    session = resume(tmp_path / "run")
    assert session.plan.config.run.filter == "trimmed(share = 0.2)"
    assert simulate(session, tmp_path / "run")["sha256"] == whole["sha256"]
    assert read_summary(tmp_path / "run") == json.loads((tmp_path / "run" / "summary.json").read_text())


@pytest.mark.parametrize(
    ("filter", "method", "run", "message"),
    [
        ("krum(malicious = 2)", "lorm", {}, r"asks 5 clients: 2 malicious clients need updates of 7"),
        ("trimmed(share = 0.1)", "fedavg", {}, "none would be cut"),
        ("median", "lorm", {"aggregate_on_worker": True}, "single updates"),
        ("norm", "joint", {}, "3 clients or more"),
    ],
)
def test_a_filter_that_cannot_work_is_refused_before_the_run(tmp_path, filter, method, run, message):
    with pytest.raises(ConfigError, match=message) as error:
        prepare(settings(filter, method, **run), tmp_path / "run")
    assert "run.filter" in str(error.value)


def test_ranks_of_their_own_can_only_be_looked_at_one_by_one(tmp_path):
    mixed = replace(SMALL, method=MethodChoice("flexlora", {"rank": 4, "ranks": [2, 4]}))
    with pytest.raises(ConfigError, match="arrays of its own"):
        prepare(replace(mixed, run=Run(filter="median")), tmp_path / "run")
    summary = carried_out(replace(mixed, run=Run(filter="norm(factor = 100)")), tmp_path / "run")
    assert summary["filtered"] == 0


def test_too_few_good_updates_stop_the_run_and_the_last_checkpoint_is_good(tmp_path):
    class Losing(Inline):
        def __call__(self, request):
            for reply in super().__call__(request):
                yield Failure(reply.client, "no reply") if reply.client and request.phase.index else reply

    with pytest.raises(RunError, match=r"1 of 5 clients .* not defined for so few"):
        carried_out(settings("krum"), tmp_path / "run", Losing)
    done = simulate(resume(tmp_path / "run"), tmp_path / "run")
    assert done["sha256"] == carried_out(settings("krum"), tmp_path / "whole")["sha256"]


def test_krum_keeps_one_and_min_clients_counts_the_good_ones(tmp_path):
    summary = carried_out(settings("krum", min_clients=5), tmp_path / "run")
    assert {e["updates"] for e in events(tmp_path / "run", "merged")} == {1}
    assert summary["refused"] == 0


def test_the_order_of_arrival_changes_nothing():
    plan = prepare(settings("multi_krum")).plan
    worker = prepare(settings("multi_krum")).worker
    request = ask(plan, initial_progress(plan))
    replies = list(Inline(worker)(request))
    there, back = ([], [])
    one, other = (checked(plan, request, r, e.append) for r, e in ((replies, there), (replies[::-1], back)))
    assert [u.client for u in one.updates] == [u.client for u in other.updates]
    assert [e for e in there if e["event"] == "filtered"] == [e for e in back if e["event"] == "filtered"]


def test_without_a_filter_the_very_updates_are_handed_on():
    plan = prepare(settings("none")).plan
    request = ask(plan, initial_progress(plan))
    gathered = checked(plan, request, [ClientUpdate(0, 0, 1, {})], lambda e: None)
    assert filtered(plan, request, gathered, lambda e: None) is gathered


def test_the_forecast_rehearses_without_the_filter(tmp_path):
    assert forecast(prepare(settings("krum"))).total("upload_bytes") > 0


def test_settings_are_written_out_and_read_back():
    config = settings("multi_krum(malicious = 1, keep = 3)")
    assert from_table([("back", to_table(config))]) == config
    with pytest.raises(ConfigError, match=r"run\.filter = 'krumm'"):
        from_table([("slip", {"run": {"filter": "krumm"}})])


def test_statistics_are_judged_in_reports_too(tmp_path):
    """A ridge client that sends a hundred times its sums is left out by the norm bound."""
    summary = carried_out(settings("norm(factor = 10)", "ncm"), tmp_path / "run", Poisoned)
    assert summary["filtered"] == 2
    assert np.isfinite(summary["final_accuracy"])


def test_sums_that_no_samples_have_are_refused_and_have_no_influence(tmp_path):
    """The method's own objection: a client that sends sums of longer features than there are."""
    choice = MethodChoice("ridge", {"clip": 5.0})
    for groups in (False, True):
        config = replace(SMALL, method=choice, run=Run(aggregate_on_worker=groups))
        exchange = Inline if groups else Poisoned
        summary = carried_out(config, tmp_path / f"run{groups}", exchange)
        assert summary["refused"] == (0 if groups else 2)
    refused = events(tmp_path / "runFalse", "refused")
    assert all("longer than its samples" in e["reason"] for e in refused)
