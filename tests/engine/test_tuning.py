"""Settings chosen on held-out training images of the first tasks, never by a test image; all that was tried is told."""

import csv
import json
import shutil
import tomllib

import archives
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import small_toml

from fcil.cli.main import main
from fcil.config import load_variant, row_facts
from fcil.data import load
from fcil.engine.simulation import prepare, simulate
from fcil.engine.tuning import Budget, choose, grid_of, other_than_tried, trial_settings, trials, tuned_file
from fcil.engine.tuning_text import choice_lines, marks, tried_lines
from fcil.errors import ConfigError, RunError

BASE = (
    small_toml(train=80, test=40, tasks=5)
    + """\
[compare.mine.method]
name = "ridge"
layers = [1, 2]
"""
)


def run(value, seed, final):
    return {"value": str(value), "seed": seed, "final_accuracy": final, "swept": {"train.lr": value}}


def test_the_highest_mean_over_seeds_is_chosen_and_of_equal_ones_the_first():
    runs = [run(1, 0, 0.5), run(1, 1, 0.75), run(2, 0, 0.75), run(2, 1, 0.5), run(3, 0, 0.1), run(3, 1, 0.2)]
    choice = choose("m", runs, ["train.lr"], 2)
    assert choice.settings == {"train.lr": 1}
    assert [mean for _, mean, _ in choice.tried] == pytest.approx([0.625, 0.625, 0.15])
    assert choice.tried[0][2] == pytest.approx(np.std([0.5, 0.75], ddof=1))


def test_ties_and_settings_within_the_spread_are_said():
    runs = [run(1, 0, 0.5), run(1, 1, 0.7), run(2, 0, 0.7), run(2, 1, 0.5), run(3, 0, 0.45), run(3, 1, 0.46)]
    runs += [run(4, 0, 0.5), run(4, 1, 0.49), run("late", 0, 0.6)]
    choice = choose("m", runs, ["train.lr"], 2)
    assert marks(choice) == [
        "chosen", "equal to the chosen one", "", "within the chosen one's spread", "lacks runs, so not compared"
    ]  # fmt: skip
    assert choice_lines(choice, Budget()) == [
        "m: 60.0 ± 14.1 % on the images held out, the highest of 5 settings tried, with",
        "  train.lr = 1",
        "  a tie, and this is the first of 2 equal ones; the others: train.lr = 2",
        "  within its spread, so that seeds alone may decide: train.lr = 4 (49.5 ± 0.7 %)",
    ]
    assert tried_lines(choice)[4] == '       60.0 %   train.lr = "late"   (lacks runs, so not compared)'


def test_of_single_runs_nobody_knows_the_spread():
    choice = choose("m", [run(1, 0, 0.5), run(2, 0, 0.4)], ["train.lr"], 1)
    assert marks(choice) == ["chosen", ""]
    assert "one run of each" in choice_lines(choice, Budget())[-1]


@given(finals=st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=2), min_size=1, max_size=5))
def test_the_chosen_one_is_the_first_of_those_that_no_other_beats(finals):
    choice = choose("m", [run(v, s, f / 3) for v, own in enumerate(finals) for s, f in enumerate(own)], ["train.lr"], 2)
    best = [v for v, own in enumerate(finals) if sum(own) == max(map(sum, finals))]
    assert choice.settings == {"train.lr": best[0]}
    assert [v for v, mark in enumerate(marks(choice)) if mark == "equal to the chosen one"] == best[1:]


def test_what_the_file_sweeps_over_is_averaged_over_and_not_chosen():
    """The best single run is that of the easier skew; the best setting is the one that is good in both."""
    runs = [
        {**run(lr, 0, final), "swept": {"partition.beta": beta, "train.lr": lr}}
        for lr, beta, final in ((1, 0.5, 0.9), (1, 0.1, 0.1), (2, 0.5, 0.7), (2, 0.1, 0.6))
    ]
    choice = choose("m", runs, ["train.lr"], 2)
    assert choice.settings == {"train.lr": 2}
    assert [settings for settings, _, _ in choice.tried] == [{"train.lr": 1}, {"train.lr": 2}]


def test_settings_without_all_seeds_are_told_and_not_chosen():
    runs = [run(1, 0, 0.9), run(2, 0, 0.1), run(2, 1, 0.1)]
    choice = choose("m", runs, ["train.lr"], 2)
    assert choice.settings == {"train.lr": 2}
    assert len(choice.tried) == 2
    with pytest.raises(RunError, match="m: none of the settings has all of its 2 runs"):
        choose("m", runs[:1], ["train.lr"], 2)


def test_a_grid_is_every_combination_of_what_the_method_has():
    texts = ["method.rank=2,4", "train.lr=0.1,0.2", "method.penalty=1.0,2.0"]
    points, lacking = grid_of("lorm", texts)
    assert lacking == ["method.penalty"]
    assert [dict(point.settings) for point in points] == [
        {"method.rank": rank, "train.lr": lr} for rank in (2, 4) for lr in (0.1, 0.2)
    ]
    assert grid_of("ridge", texts)[1] == ["method.rank"]
    for wrong in (["zip=true"], ["train.lr=1,2", "train.lr=3"], ["train.lr"]):
        with pytest.raises(ConfigError, match=r"must be section\.key=value,value"):
            grid_of("lorm", wrong)


ZIPPED = """
[sweep]
zip = true
"partition.beta" = [0.5, 0.05]
"partition.clients" = [3, 2]
"""


def test_what_the_file_sweeps_over_is_no_part_of_the_grid(tmp_path):
    path = tmp_path / "some.toml"
    path.write_text(BASE.replace("[partition]\nclients = 2", "[partition]") + ZIPPED)
    points, _ = grid_of("fedavg", ["train.lr=1e-3,3e-3"])
    runs = trials(path, "fedavg", [], Budget(), points, tmp_path)
    assert [(c.config.train.lr, c.config.partition.beta, c.config.partition.clients) for c in runs] == [
        (lr, beta, clients) for lr in (1e-3, 3e-3) for beta, clients in ((0.5, 3), (0.05, 2))
    ]
    assert len({cell.folder for cell in runs}) == 4
    with pytest.raises(ConfigError, match=r"partition\.beta: .* sweeps over it"):
        trials(path, "fedavg", [], Budget(), grid_of("fedavg", ["partition.beta=0.5,1.0"])[0], tmp_path)
    for settings, said in ((["tasks.count=2"], "2 tasks"), (["tasks.sizes=[10]"], "1 task")):
        with pytest.raises(ConfigError, match=rf"--tasks 7: .*fedavg, seed 100 has {said}; try fewer"):
            trials(path, "fedavg", settings, Budget(tasks=7), points, tmp_path)


def test_what_set_changed_is_in_every_row_that_was_tuned(tmp_path):
    path = tmp_path / "some.toml"
    path.write_text(BASE.replace("[partition]", '[method]\nname = "lorm"\nrank = 3\n[partition]'))
    overrides = ["method.rank=8", "train.batch=4"]
    choices = [choose("fedavg", [run(0.5, 0, 0.5)], ["train.lr"], 1)]
    (tmp_path / "tuned.toml").write_text(tuned_file(path, overrides, choices, Budget(), tmp_path))
    row = load_variant(tmp_path / "tuned.toml", "fedavg")
    (cell,) = trials(path, "fedavg", overrides, Budget(), grid_of("fedavg", ["train.lr=0.5"])[0], tmp_path)
    assert row.method.settings["rank"] == 8
    assert other_than_tried(cell.config, row) == []
    assert other_than_tried(cell.config, load_variant(path, "fedavg")) == ["method.rank", "train.batch", "train.lr"]
    assert "rank" not in load_variant(tmp_path / "tuned.toml", "mine").method.settings


def test_the_first_tasks_are_the_whole_runs_first_tasks(digits_config, tmp_path):
    config = {"tasks": {"count": 5}, "method": {"name": "ridge"}}
    whole = simulate(prepare(digits_config(config)), tmp_path / "whole")
    first = {**config, "tasks": {"count": 5, "first": 2}}
    some = simulate(prepare(digits_config(first)), tmp_path / "some")
    assert some["correct"] == whole["correct"][:2]
    assert some["total"] == whole["total"][:2]
    assert simulate(prepare(digits_config({**first, "tasks": {"count": 5, "first": 9}})), tmp_path / "all") is not None


def test_a_command_chooses_by_held_out_images_and_its_file_is_compared(tmp_path, capsys):
    path, out = tmp_path / "some.toml", tmp_path / "out"
    path.write_text(BASE)
    arguments = ["tune", str(path), "--methods", "mine,ncm", "--grid", "method.penalty=1e-6,1.0", "--grid"]
    arguments += ["train.lr=1e-3,1e-2", "--set", "partition.beta=0.7", "--output", str(out)]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "failed" not in shown
    assert len(list(out.glob("*/*/plots/clients.png"))) == 6
    assert "ncm has no method.penalty; it is tuned over the rest" in shown
    assert "on training images that were held out, not on test images." in (out / "comparison.md").read_text()
    header, *lines = csv.reader((out / "comparison.csv").read_text().splitlines())
    assert header[:3] == ["method.penalty", "train.lr", "method"]
    assert sorted(line[:3] for line in lines) == sorted(
        [["", lr, "ncm"] for lr in ("0.001", "0.01")]
        + [[penalty, lr, "mine"] for penalty in ("1e-06", "1.0") for lr in ("0.001", "0.01")]
    )
    assert not list(out.glob("sweep*")), "rows that lack a setting are on no curve over it"
    assert main(["report", str(out)]) == 0
    text = (out / "tuned.toml").read_text()
    table = tomllib.loads(text)
    assert set(table["compare"]) == {"mine", "ncm"}
    finals = {}
    for folder in sorted(out.glob("*/mine-seed100")):
        config = tomllib.loads((folder / "config.toml").read_text())
        assert (config["data"]["held_out"], config["tasks"]["first"]) == (0.2, 2)
        assert "held out in place of the test images" in config["provenance"]["data_files"]
        key = config["method"]["penalty"], config["train"]["lr"]
        finals[key] = json.loads((folder / "summary.json").read_text())["final_accuracy"]
    assert len(finals) == 4
    mine = table["compare"]["mine"]
    assert finals[mine["method"]["penalty"], mine["train"]["lr"]] == max(finals.values())
    assert all(f"{100 * final:.1f} %" in text for final in finals.values())
    chosen = load_variant(out / "tuned.toml", "mine")
    assert chosen.method.settings["layers"] == [1, 2], "those of the row stay"
    assert chosen.method.settings["penalty"] == mine["method"]["penalty"]
    assert (chosen.data.held_out, chosen.tasks.first, chosen.partition.beta) == (0.0, 0, 0.7)
    words = row_facts(out / "tuned.toml", "mine").tuned
    assert words == "on 4 settings x 1 seed (100), 20 % of the training images of the first 2 tasks held out"
    assert main(["compare", str(out / "tuned.toml"), "--methods", "mine,fedavg", "--seeds", "0", "--output",
                 str(tmp_path / "compared")]) == 0  # fmt: skip
    assert f"Tuned {words}: mine. Not tuned: fedavg." in " ".join(capsys.readouterr().out.split())


def test_without_a_share_trials_are_measured_on_the_validation_part():
    budget = Budget(held_out=0.0)
    assert trial_settings(budget) == ["data.evaluate_on=validation", "tasks.first=2"]
    assert budget.words(3) == "on 3 settings x 1 seed (100), on the validation part of the first 2 tasks"


@pytest.mark.slow
def test_the_sets_own_validation_part_may_take_the_place_of_held_out_images(tmp_path, capsys):
    archives.folder(tmp_path / "images")
    shutil.copytree(tmp_path / "images" / "test", tmp_path / "images" / "val")
    path = tmp_path / "some.toml"
    path.write_text(BASE.replace("[data]", f'[data]\nname = "folder"\nroot = "{tmp_path}/images"'))
    arguments = ["tune", str(path), "--methods", "ncm", "--grid", "train.lr=1e-3", "--held-out", "validation"]
    assert main([*arguments, "--tasks", "1", "--set", "tasks.count=1", "--output", str(tmp_path / "out")]) == 0
    tuned = (tmp_path / "out" / "tuned.toml").read_text()
    assert "the validation part, mean of all runs" in tuned
    assert "on the validation part of the first task" in tuned
    assert load_variant(tmp_path / "out" / "tuned.toml", "ncm").data.evaluate_on == "test"
    assert "Accuracy on the validation part, not on test images." in (tmp_path / "out" / "comparison.md").read_text()


def test_brackets_and_bad_shares_are_refused(tmp_path, capsys):
    (tmp_path / "some.toml").write_text(BASE)
    assert main(["tune", str(tmp_path / "some.toml"), "--methods", "lorm(rank=2)", "--grid", "train.lr=1,2"]) == 2
    assert "name settings to try with --grid" in capsys.readouterr().err
    assert main(["tune", "x", "--methods", "a", "--grid", "b=1", "--held-out", "0.95"]) == 2


def test_settings_of_a_call_are_written_whole(tmp_path):
    choice = choose("lorm", [run(0.5, 0, 0.5)], ["train.lr"], 1)
    table = tomllib.loads(tuned_file({"train": {"rounds": 2}}, ["train.batch=8"], [choice], Budget(), tmp_path))
    assert table["train"] == {"rounds": 2, "batch": 8}
    assert table["compare"]["lorm"]["train"] == {"batch": 8, "lr": 0.5}


def test_test_images_are_not_among_those_that_settings_are_chosen_by(digits_config):
    whole = load(digits_config().data, 32)
    held = load(digits_config({"data": {"held_out": 0.3}}).data, 32)
    test = {image.tobytes() for image in whole.test.images}
    seen = {image.tobytes() for part in (held.train, held.test) for image in part.images[np.arange(len(part))]}
    train = {image.tobytes() for image in whole.train.images}
    assert seen == train
    assert not seen & (test - train)
