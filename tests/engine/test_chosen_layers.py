"""Runs whose layers or penalty are chosen from sums: stopped and gone on with, evaluated early, on workers."""

import json

import numpy as np
import pytest

from fcil.engine import dry_run
from fcil.engine.forecast import forecast
from fcil.engine.simulation import prepare, resume, simulate
from fcil.exchange.inline import Inline
from fcil.method import TOKENS, Tokens

FIRST = {"name": "ridge", "layers": "auto", "tokens": "mean", "candidates": 60, "penalty": "accuracy"}
ANEW = {"name": "ridge", "layers": "auto", "tokens": "mean", "candidates": 60, "choose": "every_task"}
SMALL = {"data": {"train_limit": 120, "test_limit": 60}, "tasks": {"count": 2}}
every_choice = pytest.mark.parametrize("method", [FIRST, ANEW], ids=["first_task", "every_task"])


class Stop(BaseException):
    """Not an Exception: nothing may swallow it."""


class Stopping(Inline):
    """Ends the process's work in the middle of a phase."""

    def __init__(self, worker, at):
        super().__init__(worker)
        self.at = at

    def __call__(self, request):
        for number, reply in enumerate(super().__call__(request)):
            if (request.phase.index, number) == self.at:
                raise Stop
            yield reply


def events(folder, kind):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [event for event in lines if event["event"] == kind]


@every_choice
def test_a_run_stopped_anywhere_in_the_first_task_ends_in_the_same_bits(method, digits_config, tmp_path):
    config = digits_config(SMALL, {"method": method})
    whole = simulate(prepare(config, tmp_path / "whole"), tmp_path / "whole")
    phases = len(events(tmp_path / "whole", "phase"))
    assert phases == (5 if method is FIRST else 2)
    for index in range(1, min(phases, 4)):
        folder = tmp_path / str(index)
        session = prepare(config, folder)
        with pytest.raises(Stop):
            simulate(session, folder, exchange=Stopping(session.worker, (index, 1)))
        again = simulate(resume(folder), folder)
        assert again["sha256"] == whole["sha256"]
        assert again["upload_bytes"] == whole["upload_bytes"]
        assert [list(row) for row in again["correct"]] == [list(row) for row in whole["correct"]]


@every_choice
@pytest.mark.parametrize("penalty", ["gcv", "auto", 1.0])
def test_every_phase_can_be_evaluated(method, penalty, digits_config, tmp_path):
    config = digits_config(SMALL, {"method": {**method, "penalty": penalty}, "run": {"evaluate_rounds": True}})
    summary = simulate(prepare(config, tmp_path / "run"), tmp_path / "run")
    rounds, tasks = events(tmp_path / "run", "round"), events(tmp_path / "run", "task")
    choosing = 1 if method is FIRST else 0  # between the choice and the sums of what was chosen there is no head
    assert len(rounds) + len(tasks) == len(events(tmp_path / "run", "phase")) - choosing
    assert all(event["accuracy"] > 0.4 for event in rounds)
    quiet = digits_config(SMALL, {"method": {**method, "penalty": penalty}})
    assert simulate(prepare(quiet, tmp_path / "quiet"), tmp_path / "quiet")["sha256"] == summary["sha256"]


@every_choice
def test_the_records_tell_which_layers_were_chosen(method, digits_config, tmp_path):
    simulate(prepare(digits_config(SMALL, {"method": method}), tmp_path / "run"), tmp_path / "run")
    for event in events(tmp_path / "run", "task"):
        assert event["notes"]["layers"] in ("1, 2, 3", "2, 3, 4", "1, 2, 3, 4")
        assert event["notes"]["tokens"] == "grid:1"


def test_named_layers_are_learned_better_than_guesses(digits_config, tmp_path):
    for method in (
        {"layers": "spread:2", "tokens": "mean"},
        {"layers": [2, 3], "tokens": "class+grid:2", "project": 100},
        {},
    ):
        config = digits_config({"method": {"name": "ridge", **method}})
        assert simulate(prepare(config, tmp_path / str(method)), tmp_path / str(method))["final_accuracy"] > 0.6


def test_what_is_sent_is_what_the_formulas_say(digits_config, tmp_path):
    """8 bytes a number: M (M + 1) / 2 + M c + c, of the candidates in the first report and of the chosen in full."""
    chosen = 3 * 128

    def numbers(m, c):
        return m * (m + 1) // 2 + m * c + c

    for method, expected in (
        ({**FIRST, "penalty": "gcv"}, numbers(60, 5) + 2 * numbers(chosen, 5)),
        ({**FIRST, "penalty": "gcv", "project": 50}, numbers(60, 5) + 2 * numbers(50, 5)),
        (FIRST, numbers(60, 5) + 4 * numbers(chosen, 5) + 2 * (11 + 1)),
        ({**ANEW, "penalty": "gcv"}, 2 * numbers(60, 5)),
        ({**ANEW, "penalty": "auto"}, 4 * numbers(60, 5)),
    ):
        folder = tmp_path / f"{method}".replace("/", "")[-40:]
        summary = simulate(prepare(digits_config(SMALL, {"method": method}), folder), folder)
        assert summary["upload_bytes"] == 8 * 3 * expected


@every_choice
def test_groups_on_workers_choose_the_same(method, digits_config, tmp_path):
    notes = []
    for grouped in (False, True):
        folder = tmp_path / str(grouped)
        config = digits_config(SMALL, {"method": method, "run": {"aggregate_on_worker": grouped}})
        session = prepare(config, folder)
        simulate(session, folder)
        notes.append([event["notes"] for event in events(folder, "task")])
    assert notes[0] == notes[1]


def test_all_that_the_server_solves_has_the_threads_of_the_run(digits_config, tmp_path, monkeypatch):
    """The heads that are sent, too: bits depend on the number of threads, and many of them wait for each other."""
    from threadpoolctl import threadpool_info, threadpool_limits

    from strategies.ridge import Ridge

    solution_of, seen = Ridge.solution_of, []

    def watched(*given):
        seen.append(max(each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"))
        return solution_of(*given)

    monkeypatch.setattr(Ridge, "solution_of", watched)
    session = prepare(digits_config(SMALL, {"method": {"name": "ridge", "penalty": "accuracy"}}), tmp_path / "run")
    with threadpool_limits(2):
        simulate(session, tmp_path / "run")
    assert set(seen) == {1}


def test_the_heads_that_are_tried_are_solved_once_a_task(digits_config, tmp_path, monkeypatch):
    from strategies.ridge import Ridge

    solution_of, solved = Ridge.solution_of, []
    monkeypatch.setattr(Ridge, "solution_of", lambda *given: (solved.append(1), solution_of(*given))[1])
    session = prepare(digits_config(SMALL, {"method": {"name": "ridge", "penalty": "accuracy"}}), tmp_path / "run")
    simulate(session, tmp_path / "run")
    assert len(solved) == 2 * (11 + 1)  # and one to deploy


def test_diagnostics_change_nothing_and_do_not_stand_in_the_way(digits_config, tmp_path):
    runs = [
        simulate(prepare(config, tmp_path / str(i)), tmp_path / str(i))["sha256"]
        for i, config in enumerate(
            digits_config(SMALL, {"method": FIRST, "run": {"diagnostics": on}}) for on in (False, True)
        )
    ]
    assert runs[0] == runs[1]


def test_the_broadcast_of_the_second_report_names_the_chosen_tokens(digits_config, tmp_path):
    seen = []

    class Watching(Inline):
        def __call__(self, request):
            seen.append(Tokens.of(request.broadcast.arrays[TOKENS]).blocks)
            return super().__call__(request)

    session = prepare(digits_config(SMALL, {"method": FIRST}), tmp_path / "run")
    simulate(session, tmp_path / "run", exchange=Watching(session.worker))
    assert seen[0] == tuple((layer, 1) for layer in (1, 2, 3, 4))
    assert len(seen[1]) == 3
    assert len(set(seen[1:])) == 1
    assert np.isin([layer for layer, _ in seen[1]], [1, 2, 3, 4]).all()


@every_choice
def test_a_plan_tells_the_traffic_to_the_byte(method, digits_config, tmp_path, monkeypatch):
    monkeypatch.setattr(dry_run, "STEPS", 1)
    monkeypatch.setattr(dry_run, "REPEATS", 1)
    config = digits_config(SMALL, {"method": method})
    told = forecast(prepare(config, tmp_path / "run"))
    simulate(prepare(config, tmp_path / "run"), tmp_path / "run")
    assert [p.upload_bytes for p in told.phases] == [e["upload_bytes"] for e in events(tmp_path / "run", "merged")]
    assert [p.download_bytes for p in told.phases] == [e["download_bytes"] for e in events(tmp_path / "run", "phase")]


@pytest.mark.slow
@every_choice
def test_on_two_ray_workers_the_bits_are_those_of_one_process(method, digits_config, tmp_path):
    from fcil.exchange.flower.exchange import ray_exchange
    from fcil.server.loop import run
    from fcil.server.plan import initial_progress
    from fcil.threads import cores

    def finish(exchange, plan):
        return run(plan, initial_progress(plan), exchange, lambda event: None, lambda progress: None)

    table = {"method": method, "run": {"exchange": "ray", "workers": min(2, cores()), "device": "cpu"}}
    session = prepare(digits_config(SMALL, {"method": method}))
    exchange = ray_exchange(digits_config(SMALL, table), tmp_path)
    try:
        done = finish(exchange, session.plan)
    finally:
        exchange.close()
    alone = finish(Inline(session.worker), session.plan)
    assert done.sha256() == alone.sha256()
    assert done.correct == alone.correct
