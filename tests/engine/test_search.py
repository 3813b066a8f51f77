"""A search for settings with Optuna, shared by processes that may die."""

import os
import signal
import subprocess
import sys
import threading
import time
import tomllib

import pytest
from small import small_toml

from fcil.cli.main import main
from fcil.config import row_facts
from fcil.engine import search as searching
from fcil.engine.search import GivenUp, Search
from fcil.engine.search_space import space_of
from fcil.errors import ConfigError

BASE = small_toml(train=80, test=40, tasks=5)
SPACE, _ = space_of("ridge", ["train.lr=1e-4..1e-1:log", "method.penalty=1e-6,1.0"])


def test_without_optuna_it_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    (tmp_path / "some.toml").write_text(BASE)
    arguments = ["tune", str(tmp_path / "some.toml"), "--methods", "ncm", "--grid", "train.lr=1e-3..1e-1"]
    assert main([*arguments, "--trials", "2", "--output", str(tmp_path / "out")]) == 2
    assert 'pip install "fcil[optuna]"' in capsys.readouterr().err
    assert main([*arguments, "--join", "--output", str(tmp_path / "out")]) == 2
    assert "--join and --no-pruning are of a search" in capsys.readouterr().err


@pytest.fixture
def search(tmp_path):
    pytest.importorskip("optuna", reason="needs fcil[optuna]")

    def make(folder="out", **changed):
        settings = {"space": SPACE, "seed": 100, "settings": {"run.threads": 1}, **changed}
        return Search(tmp_path / folder, "m", **settings)

    return make


def quality(settings):
    return 1 / (1 + abs(settings["train.lr"] - 0.01))


def proposed(search, most):
    out = []
    while trial := search.next(most):
        out.append(trial.settings)
        trial.finish([quality(trial.settings)])
    return out


def test_proposals_depend_on_seed_and_trials_before_and_not_on_who_asks(search):
    one = proposed(search("one"), 14)
    assert len({tuple(settings.values()) for settings in one}) == 14
    assert all(1e-4 <= s["train.lr"] <= 1e-1 and s["method.penalty"] in (1e-6, 1.0) for s in one)
    several = [proposed(search("several"), most) for most in range(15)]  # each is another process, begun anew
    assert [settings for part in several for settings in part] == one
    assert proposed(search("other", seed=101), 2) != one[:2]
    finals = [tried.finals for tried in search("one").tried()]
    assert finals == [[quality(settings)] for settings in one]


def test_several_at_once_begin_each_trial_once(search):
    numbers = []

    def work():
        mine = search()
        while trial := mine.next(12):
            numbers.append(trial.number)
            time.sleep(0.01)
            trial.finish([0.5])

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(numbers) == list(range(12))


def test_a_trial_that_a_killed_process_left_is_taken_over_and_one_that_goes_on_is_not(search):
    first = search()
    left, goes_on = first.next(9), first.next(9)
    left.let_go()  # as the end of its process does
    second = search()
    taken = second.next(9)
    assert (taken.number, taken.settings) == (left.number, left.settings)
    new = second.next(9)
    assert new.number == 2
    goes_on.finish([0.5])
    taken.let_go()
    second.left.add(taken.number)
    assert second.next(3) is None, "it has failed there"
    again = search().next(3)
    assert again.number == taken.number
    new.let_go()
    again.let_go()


def test_one_that_was_killed_before_it_had_settings_gets_those_of_its_number(search):
    whole = search("whole").next(1)
    search()._study.ask()
    taken = search().next(1)
    assert taken.settings == whole.settings
    whole.let_go()
    taken.let_go()


def test_a_trial_is_given_up_where_the_median_is_higher_at_its_last_step(search):
    mine = search()
    for _ in range(searching.UNPRUNED):
        trial = mine.next(20)
        trial.report(0, 0.9)
        trial.report(1, 0.6)
        trial.finish([0.6])
    good, late, early = mine.next(20), mine.next(20), mine.next(20)
    good.report(0, 0.95)
    good.report(1, 0.61)
    good.let_go()
    late.report(0, 0.95)  # higher than all others at any step, and still behind at the next one
    with pytest.raises(GivenUp):
        late.report(1, 0.59)
    with pytest.raises(GivenUp):
        early.report(0, 0.8)
    late.give_up()
    early.give_up()
    ended = {t.number: t for t in mine.tried()}
    assert [ended[t.number].given_up for t in (late, early)] == [True, True]
    assert ended[late.number].finals == pytest.approx([0.59])
    assert ended[early.number].finals == pytest.approx([0.8])
    never = search("never", prune=False)
    for _ in range(searching.UNPRUNED + 1):
        trial = never.next(20)
        trial.report(0, 1 / (1 + trial.number))
        trial.finish([0.5])


def test_another_search_in_the_folder_is_refused(search):
    search()
    for changed, name in [
        ({"space": space_of("ridge", ["train.lr=1e-4..1e-2:log", "method.penalty=1e-6,1.0"])[0]}, "--grid train.lr"),
        ({"seed": 5}, "--seeds"), ({"settings": {"run.threads": 2}}, "run.threads"),
    ]:  # fmt: skip
        with pytest.raises(ConfigError, match=f"holds another search, which differs in {name}"):
            search(**changed)


def test_a_command_that_was_interrupted_goes_on_and_its_file_is_compared(search, tmp_path, capsys, monkeypatch):
    path, out = tmp_path / "some.toml", tmp_path / "tuned"
    path.write_text(BASE)
    arguments = ["tune", str(path), "--methods", "ridge", "--grid", "method.penalty=1e-6..1e3:log", "--trials", "3"]
    arguments += ["--set", "partition.beta=0.7", "--output", str(out)]
    finish = searching.Trial.finish

    def interrupted(self, finals):
        if self.number == 1:
            raise KeyboardInterrupt
        finish(self, finals)

    monkeypatch.setattr(searching.Trial, "finish", interrupted)
    assert main(arguments) == 130
    monkeypatch.undo()
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert [shown.count(f"ridge, trial {k}: ") for k in range(3)] == [1, 1, 1]
    table = tomllib.loads((out / "tuned.toml").read_text())
    assert 1e-6 <= table["compare"]["ridge"]["method"]["penalty"] <= 1e3
    assert (out / "tuned.toml").read_text().count("100.0 %   method.penalty = ") == 3
    words = row_facts(out / "tuned.toml", "ridge").tuned
    assert words.startswith("on 3 settings (searched with Optuna) x 1 seed (100), 20 % of the training images")
    assert main([*arguments[:-2], "--output", str(out), "--set", "partition.beta=0.5"]) == 2
    assert "holds another search, which differs in partition.beta" in capsys.readouterr().err


RAISES = '''
from dataclasses import dataclass
from fcil.method import Averaging

@dataclass(frozen=True, kw_only=True)
class Raises(Averaging):
    """Fails where it merges."""

    additive = False

    def merge(self, state, phase, updates):
        raise ZeroDivisionError("never merged")
'''


def test_a_trial_that_fails_is_told_and_tried_again_by_the_next_command(search, tmp_path, capsys):
    path, mine = tmp_path / "some.toml", tmp_path / "mine.py"
    path.write_text(BASE)
    mine.write_text(RAISES)
    arguments = ["tune", str(path), "--methods", f"{mine}:Raises", "--grid", "train.lr=1e-3..1e-1", "--trials", "1"]
    for _ in range(2):
        assert main([*arguments, "--output", str(tmp_path / "tuned")]) == 1
        shown, told = capsys.readouterr()
        assert "trial 0: failed" in shown
        assert "ZeroDivisionError: never merged" in shown
        assert "1 of 1 trials failed" in told


@pytest.mark.slow
def test_processes_share_a_search_and_a_killed_one_costs_nothing(search, tmp_path, capsys):
    path, out = tmp_path / "some.toml", tmp_path / "tuned"
    path.write_text(BASE)
    arguments = ["tune", str(path), "--methods", "fedavg", "--grid", "train.lr=1e-3..1e-1:log", "--trials", "6"]
    arguments += ["--seeds", "100,101", "--output", str(out)]
    victim = subprocess.Popen([sys.executable, "-m", "fcil.cli", *arguments], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not list(out.glob("*/*/*/checkpoint/*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    assert main([*arguments, "--jobs", "2"]) == 0
    shown = capsys.readouterr().out
    assert all(f"fedavg, trial {k}: " in shown for k in range(6))
    assert (out / "tuned.toml").read_text().count("%   train.lr = ") == 6
