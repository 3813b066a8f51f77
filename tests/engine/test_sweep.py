"""A comparison over the values of settings: a folder, a table and plots for each point, and all tables together."""

import argparse
import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fcil.cli.arguments import methods
from fcil.cli.main import main
from fcil.config import SECTIONS, flat_settings, grid, load_config, load_variant, row_facts, variant_names
from fcil.engine.comparison import cells, figures, folder_name, short_titles
from fcil.engine.reuse import Reuse
from fcil.errors import ConfigError
from fcil.options import describe
from fcil.registry import method_class
from fcil.report.comparison_result import open_comparison
from fcil.report.rows import compare_rows, unlike_settings

ROOT = Path(__file__).parents[2]
COMPARISONS = [ROOT / "configs" / "comparison" / f"{name}.toml" for name in ("digits", "fashion")]

BASE = """
[data]
train_limit = 60
test_limit = 20
[tasks]
count = 2
[partition]
clients = 2
min_samples = 1
[run]
device = "cpu"
[sweep]
"partition.beta" = [0.5, 0.1]
[compare.ncm]
[compare.ridge]
"""


FIGURES = {
    "final_accuracy": 0.5, "final_accuracy_task_mean": 0.5, "average_accuracy": 0.5, "forgetting": 0.1,
    "upload_bytes": 1, "download_bytes": 1, "seconds": {"total": 1.0},
}  # fmt: skip


def config(tmp_path, text=BASE):
    path = tmp_path / "some.toml"
    path.write_text(text)
    return path


def test_every_value_has_a_table_and_plots_and_there_is_one_of_all(tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["compare", str(config(tmp_path)), "--seeds", "0", "--output", str(out)]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    for value in ("0.5", "0.1"):
        folder = out / f"partition.beta={value}"
        assert f"partition.beta={value}\n" in shown
        assert rf"\paragraph{{partition.beta={value}}}" in (out / "comparison.tex").read_text()
        for name in ("comparison.csv", "comparison.md", "comparison.tex", "accuracy.png", "traffic.png"):
            assert (folder / name).stat().st_size
        assert f"beta = {value}\n" in (folder / "ridge-seed0" / "config.toml").read_text()
    rows = list(csv.DictReader((out / "comparison.csv").read_text().splitlines()))
    assert [(row["partition.beta"], row["method"]) for row in rows] == [
        (value, label) for value in ("0.5", "0.1") for label in ("ncm", "ridge")
    ]
    alone = list(csv.DictReader((out / "partition.beta=0.1" / "comparison.csv").read_text().splitlines()))
    assert [{k: v for k, v in row.items() if k != "partition.beta"} for row in rows[2:]] == alone
    assert (out / "comparison.md").read_text().count("| ridge |") == 3 + 2, "three overviews, and one at each value"
    assert "final [%] by partition.beta" in shown
    for text in (open_comparison(out).markdown(), repr(open_comparison(out)), open_comparison(out)._repr_html_()):
        assert text.count("final [%] by partition.beta") == 1
    before = {p: p.stat().st_mtime_ns for p in out.rglob("summary.json")}
    assert main(arguments) == 0
    assert {p: p.stat().st_mtime_ns for p in out.rglob("summary.json")} == before, "finished runs are used again"


@pytest.mark.parametrize(
    "sweep",
    [
        "", '"partition.beta" = 0.5', '"partition.beta" = []', '"partition.beta" = [0.5, 0.5]',
        '"partition.beta" = [1, 1.0]', '"data.root" = ["/a/b"]', '"data.sites" = [["/a", "b"]]', "beta = [1]",
        '"partition.beta" = [0.5]\n"train.lr" = 1', '"partition.beta" = [{a = 1}]',
    ],
)  # fmt: skip
def test_a_sweep_that_is_none_is_told(tmp_path, sweep):
    path = config(tmp_path, f"[sweep]\n{sweep}\n[compare.ncm]\n")
    with pytest.raises(ConfigError, match=r"some\.toml: \[sweep\]: must be settings, each with a list of different"):
        cells(path, [], [0], [], tmp_path / "out")


def test_an_unknown_setting_or_a_value_out_of_range_stops_it_before_any_run(tmp_path):
    for line, message in (
        ('"partition.bta" = [1]', "Did you mean 'beta'"),
        ('"partition.beta" = [1, -1]', "greater than 0"),
        ('"partition.beta" = [[1]]', "must be number"),
        ('"run.seed" = [1, 2]', "--seeds names"),
        ('zip = 1\n"partition.beta" = [1]', "zip = 1: must be true or false"),
        ('zip = true\n"partition.beta" = [1, 2]\n"train.lr" = [1]', "partition.beta has 2, train.lr has 1"),
    ):
        path = config(tmp_path, f"[sweep]\n{line}\n[compare.ncm]\n")
        with pytest.raises(ConfigError, match=message):
            cells(path, [], [0], [], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_setting_cannot_be_swept_over_and_given(tmp_path):
    with pytest.raises(ConfigError, match=r"--set partition\.beta: .*sweeps over it"):
        cells(config(tmp_path), [], [0], ["partition.beta=1"], tmp_path)


@pytest.mark.parametrize(("kind", "key"), [("iid", "beta"), ("dirichlet", "exponent"), ("dirichlet", "class_share")])
def test_a_swept_setting_that_the_split_does_not_read_is_refused(tmp_path, kind, key):
    path = config(tmp_path, BASE.replace('"partition.beta" = [0.5, 0.1]', f'"partition.{key}" = [0.5, 0.25]'))
    with pytest.raises(ConfigError, match=rf"partition\.{key} is swept over: it has no meaning with kind = .{kind}"):
        cells(path, [], [0], [f"partition.kind={kind}"], tmp_path)


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_single_run_of_a_file_with_a_sweep_says_with_which_value_it_goes(command, tmp_path, capsys):
    words = [command, str(config(tmp_path)), *(["--output", str(tmp_path / "run")] if command == "run" else [])]
    assert main(words) == 0
    assert "[sweep] is for fcil compare; this is one run, with partition.beta = " in capsys.readouterr().out
    words[-1:] = [str(tmp_path / "other")] if command == "run" else words[-1:]
    assert main([*words, "--set", "partition.beta=0.3"]) == 0
    assert "[sweep]" not in capsys.readouterr().out


def test_a_file_without_a_sweep_has_one_folder(tmp_path):
    path = config(tmp_path, BASE.replace('[sweep]\n"partition.beta" = [0.5, 0.1]\n', ""))
    assert [cell.folder for cell in cells(path, [], [3], [], tmp_path)] == [
        tmp_path / "ncm-seed3", tmp_path / "ridge-seed3"
    ]  # fmt: skip


def test_the_rows_of_the_search_are_hybrids_in_different_settings_beside_closed_forms():
    path = COMPARISONS[0].parent / "hybrid.toml"
    configs = [load_variant(path, label) for label in variant_names(path)]
    assert len({(c.method.name, repr(c.method.settings), c.train) for c in configs}) == len(configs)
    assert {c.method.name for c in configs} == {"ranpac", "ridge", "lorm+ranpac"}


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda p: p.stem)
def test_the_rows_of_the_comparisons_can_be_built_and_differ(path):
    from fcil.registry import build_method

    labels = variant_names(path)
    configs = [load_variant(path, label) for label in labels]
    built = [build_method(c.method.name, c.method.settings) for c in configs]
    assert len({repr(method) for method in built}) == len(labels)
    assert {"lorm", "fedavg", "ncm", "ridge", "ranpac", "joint", "sequential"} <= set(labels)
    assert {c.method.name for c in configs} >= {"lorm+ranpac"}
    assert [point.name for point in grid(path)] == [f"partition.beta={beta}" for beta in (0.5, 0.1, 0.05)]
    assert len({c.method.settings.get("rank") for c in configs if "rank" in c.method.settings}) == 1
    assert len({(c.train, c.partition, c.data, c.tasks) for c in configs}) == 1


# ---- grids -----------------------------------------------------------------------------------------------------------


def names(points):
    return [point.name for point in points]


SWEEP = {"sweep": {"partition.beta": [0.5, 0.1], "method.layers": [[1, 2], [3, 4]]}}


@pytest.mark.parametrize("name", ["digits", "fashion", "icons"])
def test_what_was_tuned_is_compared_with_all_other_rows_of_its_comparison(name):
    folder = ROOT / "configs" / "comparison"
    tuned = folder / f"baselines_{name}_tuned.toml"
    assert sorted(variant_names(tuned)) == sorted(variant_names(folder / f"baselines_{name}.toml"))
    trained = [label for label in variant_names(tuned) if label not in ("ncm", "ridge", "ranpac")]
    assert all(row_facts(tuned, label).tuned for label in trained)


def test_several_settings_are_swept_over_in_all_combinations_or_side_by_side():
    assert names(grid(SWEEP)) == [
        f"partition.beta={beta},method.layers={layers}" for beta in (0.5, 0.1) for layers in ("[1,2]", "[3,4]")
    ]
    assert names(grid({"sweep": {**SWEEP["sweep"], "zip": True}})) == [
        "partition.beta=0.5,method.layers=[1,2]", "partition.beta=0.1,method.layers=[3,4]"
    ]  # fmt: skip
    assert names(grid({})) == [""]
    assert grid({})[0].overrides == []


@given(
    st.dictionaries(
        st.sampled_from(["a.x", "a.y", "b.x", "b.zip"]),
        st.lists(st.integers(-9, 9) | st.sampled_from(["u", "v"]), min_size=1, max_size=4, unique=True),
        min_size=1,
    )
)
def test_the_grid_is_what_nested_loops_give(table):
    expected = [{}]
    for key, values in table.items():
        expected = [{**point, key: value} for point in expected for value in values]
    points = grid({"sweep": table})
    assert [dict(point.settings) for point in points] == expected
    assert len(set(names(points))) == len(points)
    for point in points:
        assert point.overrides == [f"{key}={json.dumps(value)}" for key, value in point.settings]


def test_the_command_line_adds_settings_and_replaces_the_values_of_those_in_the_file(tmp_path):
    path = config(tmp_path)
    texts = ["method.tokens=class,mean", "partition.beta=7"]
    assert names(grid(path, (), texts)) == [f'partition.beta=7,method.tokens="{word}"' for word in ("class", "mean")]
    assert grid(path, (), texts) == grid(path, (), {"method.tokens": ["class", "mean"], "partition.beta": [7]})
    assert names(grid(path, (), ["train.lr=1,2", "zip=true"])) == [
        "partition.beta=0.5,train.lr=1", "partition.beta=0.1,train.lr=2"
    ]  # fmt: skip
    (lists,) = grid({}, (), ["method.layers=[6,9]"])
    assert lists.settings == (("method.layers", [6, 9]),)
    unquoted = config(tmp_path, "[sweep]\npartition.beta = [1, 2]\n")
    assert names(grid(unquoted)) == ["partition.beta=1", "partition.beta=2"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["partition.beta"], "write it as section.key=value,value"),
        (["beta=1"], "write it as section.key=value,value"),
        (["partition.beta=1,,2"], "write it as section.key=value,value"),
        (["partition.beta=1,1"], "different"),
        (["partition.beta=1", "partition.beta=2"], "swept over twice"),
        (["partition.beta=1", "zip=yes"], "true or false"),
        (["zip=true"], "nothing is swept over"),
    ],
)
def test_a_slip_after_sweep_is_told(texts, message):
    with pytest.raises(ConfigError, match=f"--sweep.*{message}"):
        grid({}, (), texts)


def test_a_setting_that_has_several_values_says_how_to_run_with_each(tmp_path):
    for text in ("partition.beta=0.5,0.1", "partition.kind=dirichlet,iid"):
        with pytest.raises(ConfigError, match=f"fcil compare CONFIG --sweep SECTION.KEY={text.partition('=')[2]}"):
            load_config({}, [text])
    for text in ("partition.beta=0.5,x", "partition.beta=x", "tasks.sizes=1,2"):
        with pytest.raises(ConfigError) as caught:
            load_config({}, [text])
        assert "--sweep" not in str(caught.value)


def test_long_names_stay_short_enough_for_a_folder_and_differ():
    values = [[*range(100), last] for last in (1, 2)]
    points = grid({"sweep": {"method.layers": values}})
    assert len({point.name for point in points}) == 2
    assert max(len(point.name) for point in points) <= 150
    assert points[0].overrides != points[1].overrides


def test_a_grid_of_the_command_line_has_a_table_for_each_point(tmp_path, capsys):
    out = tmp_path / "out"
    path = config(tmp_path, BASE.replace("[compare.ridge]", ""))
    arguments = ["compare", str(path), "--methods", "ridge", "--seeds", "0", "--output", str(out)]
    assert main([*arguments, "--sweep", "partition.beta=0.5", "--sweep", 'method.penalty="gcv",1.0']) == 0
    rows = list(csv.DictReader((out / "comparison.csv").read_text().splitlines()))
    assert [(row["partition.beta"], row["method.penalty"], row["method"]) for row in rows] == [
        ("0.5", "gcv", "ridge"), ("0.5", "1.0", "ridge")
    ]  # fmt: skip
    runs = list(csv.DictReader((out / "runs.csv").read_text().splitlines()))
    assert [(run["method"], run["seed"], run["partition.beta"], run["method.penalty"]) for run in runs] == [
        ("ridge", "0", "0.5", "gcv"), ("ridge", "0", "0.5", "1.0")
    ]  # fmt: skip
    for run, row in zip(runs, rows, strict=True):
        assert float(run["final_accuracy"]) == float(row["final_accuracy_mean"])
    assert (out / "sweep-method.penalty.png").stat().st_size
    shown = capsys.readouterr().out
    for name in ('partition.beta=0.5,method.penalty="gcv"', "partition.beta=0.5,method.penalty=1.0"):
        assert f"{name}\n" in shown
        assert (out / name / "ridge-seed0" / "summary.json").stat().st_size


# ---- methods with settings -------------------------------------------------------------------------------------------

ROWS = BASE.replace("[compare.ridge]", '[compare.strong.method]\nname = "ridge"\npenalty = 10.0\nlayers = [4]')


def test_commas_inside_brackets_belong_to_a_method():
    assert methods("lorm,lorm(rank=4), ridge(layers=[6,9,12], penalty = 'a,b')") == [
        "lorm", "lorm(rank=4)", "ridge(layers=[6,9,12], penalty = 'a,b')"
    ]  # fmt: skip
    with pytest.raises(argparse.ArgumentTypeError):
        methods(" , ")


def test_rows_and_methods_may_have_settings_in_brackets(tmp_path):
    path = config(tmp_path, ROWS.replace('[sweep]\n"partition.beta" = [0.5, 0.1]\n', ""))
    labels = ["ridge", "ridge( layers = [1, 2], penalty = 2.0 )", "strong", "strong(penalty=3.0)", "ncm()"]
    runs = cells(path, labels, [0], [], tmp_path)
    assert [cell.folder.name for cell in runs] == [
        f"{label}-seed0"
        for label in ("ridge", "ridge(layers=[1,2],penalty=2.0)", "strong", "strong(penalty=3.0)", "ncm")
    ]
    assert [(cell.config.method.name, cell.config.method.settings) for cell in runs] == [
        ("ridge", {}), ("ridge", {"layers": [1, 2], "penalty": 2.0}), ("ridge", {"penalty": 10.0, "layers": [4]}),
        ("ridge", {"penalty": 3.0, "layers": [4]}), ("ncm", {}),
    ]  # fmt: skip


def test_a_rows_published_figure_is_not_that_of_the_row_with_other_settings(tmp_path):
    path = config(tmp_path, "[compare.ncm]\n[compare.ridge]\npublished = 50.0\n" + BASE.partition("[sweep]")[0])
    facts = {
        cell.label: cell.facts.published for cell in cells(path, ["ridge", "ridge(penalty=3.0)"], [0], [], tmp_path)
    }
    assert facts == {"ridge": 50.0, "ridge(penalty=3.0)": None}


def test_a_label_that_a_file_has_with_brackets_is_that_row(tmp_path):
    path = config(tmp_path, '[compare."ridge(penalty=3.0)".method]\nname = "ncm"\n')
    assert load_variant(path, "ridge(penalty=3.0)").method.name == "ncm"


@pytest.mark.parametrize(
    ("label", "overrides", "message"),
    [
        ("strng", [], r"strng: no such method, nor a row .*Did you mean 'strong'"),
        ("strng(penalty=1.0)", [], "Did you mean 'strong'"),
        ("rigde", [], "Did you mean 'ridge'"),
        ("ridge(penalti=1.0)", [], "Did you mean 'penalty'"),
        ("ridge(penalty)", [], r"--methods ridge\(penalty\): write a method or a row"),
        ('ridge(name="ncm")', [], "leave `name` out"),
        ("ridge(penalty=1.0)", ["method.penalty=2.0"], "--set method.penalty gives another value"),
        ("ridge(penalty=-1.0)", [], r"penalty \(ridge\) = -1.0"),
    ],
)
def test_a_slip_in_a_label_is_told(tmp_path, label, overrides, message):
    with pytest.raises(ConfigError, match=message):
        cells(config(tmp_path, ROWS), [label], [0], overrides, tmp_path / "out")


def test_a_row_without_a_method_of_its_own_says_where_one_belongs(tmp_path):
    path = config(tmp_path, BASE + "[compare.low.train]\nlr = 0.1\n")
    with pytest.raises(ConfigError, match=r"toml: \[compare\.low\]: a row is the method of its own name unless"):
        cells(path, ["low"], [0], [], tmp_path / "out")


def test_zip_written_as_a_table_is_told(tmp_path):
    path = config(tmp_path, BASE.partition("[sweep]")[0] + '[sweep]\nzip = {"partition.beta" = [0.5, 0.1]}\n')
    with pytest.raises(ConfigError, match="must be true or false; settings stand beside it"):
        grid(path)


def test_a_sweep_cannot_set_what_a_label_says_and_one_row_is_not_named_twice(tmp_path):
    path = config(tmp_path, ROWS)
    with pytest.raises(ConfigError, match=r"sweep method\.penalty gives another value"):
        cells(path, ["ridge(penalty=1.0)"], [0], [], tmp_path, ["method.penalty=1.0,2.0"])
    with pytest.raises(ConfigError, match="names one twice"):
        cells(path, ["ridge(penalty=1.0)", "ridge( penalty = 1.0)"], [0], [], tmp_path)


def test_a_file_with_settings_is_shown_by_its_end_and_has_a_short_folder():
    name = "/some/where/der.py:Der(rank=4)"
    assert short_titles([name, "ridge(layers=[1,2])"]) == {
        name: "der.py:Der(rank=4)", "ridge(layers=[1,2])": "ridge(layers=[1,2])"
    }  # fmt: skip
    assert folder_name(name).startswith("der.py-Der-rank=4-")
    long = [f"ridge(layers=[{','.join(map(str, range(100)))},{last}])" for last in (1, 2)]
    assert len({folder_name(label) for label in long}) == 2
    assert max(len(folder_name(label)) for label in long) < 180


# ---- settings that rows do not share ---------------------------------------------------------------------------------


def test_all_settings_of_a_run_are_written_flat_with_the_defaults_of_its_method():
    config = load_config({"method": {"name": "fedavg", "rank": 4}, "tasks": {"sizes": [5, 5]}})
    settings = flat_settings(config)
    assert (settings["method.name"], settings["method.rank"], settings["tasks.sizes"]) == ("fedavg", 4, [5, 5])
    assert {name.partition(".")[0] for name in settings} == {*SECTIONS, "method"}
    described = {f"method.{s.name}" for s in describe(method_class("fedavg"))}
    assert described == {name for name in settings if name.startswith("method.")} - {"method.name"}
    other = flat_settings(load_config({"method": {"name": "fedavg"}}))
    assert {name for name in settings if settings[name] != other[name]} == {"method.rank", "tasks.sizes"}


def test_a_rank_that_the_file_gives_to_one_method_only_is_named(tmp_path):
    path = config(tmp_path, '[method]\nname = "lorm"\nrank = 4\n[train]\nlr = 0.1\n' + BASE.partition("[sweep]")[0])
    runs = cells(path, ["lorm", "fedavg", "ridge"], [0], ["run.threads=1"], tmp_path)
    assert runs[0].common >= {"method.rank", "train.lr", "run.threads"}
    done = figures(runs, {cell.folder: FIGURES for cell in runs})
    assert unlike_settings(compare_rows(done)).count("=") == 1
    default = {setting.name: setting.default for setting in describe(method_class("fedavg"))}["rank"]
    assert f"method.rank = 4 (lorm), {default} (fedavg)." in unlike_settings(compare_rows(done))
    shared = cells(path, ["lorm", "fedavg(rank=4)"], [0], [], tmp_path)
    done = figures(shared, {cell.folder: FIGURES for cell in shared})
    assert unlike_settings(compare_rows(done)) == ""


def test_a_setting_that_a_row_does_not_share_is_said_once_for_all_its_runs(tmp_path, monkeypatch):
    from fcil.report import grid_runner

    text = BASE + '[compare.lorm]\n[compare.fedavg]\n[method]\nname = "lorm"\nrank = 4\n'
    runs = cells(config(tmp_path, text), ["lorm", "fedavg"], [0, 1], ["train.rounds=1"], tmp_path / "out")
    monkeypatch.setattr(grid_runner, "carry_out", lambda *arguments: {})
    shown = io.StringIO()
    run = grid_runner.Runner(tmp_path, runs, Console(file=shown, width=500), Reuse(False, False))
    run.tell_settings(runs)
    for cell in runs:
        run(cell)
    assert shown.getvalue().count("fedavg, seed ") == 4
    assert shown.getvalue().count("method.rank = 4 in the file is another method's: fedavg runs with 16") == 1


def test_a_misspelt_key_of_a_row_is_told_before_its_missing_method(tmp_path):
    path = config(tmp_path, BASE + '[compare.low]\nbas = "other.toml"\n')
    with pytest.raises(ConfigError, match=r"\[compare\.low\] bas: unknown key\. Did you mean 'base'"):
        cells(path, ["low"], [0], [], tmp_path / "out")


SMALL = BASE.partition("[sweep]")[0]


def test_rows_that_leave_a_folders_tables_are_named(tmp_path, capsys):
    arguments = ["compare", str(config(tmp_path, SMALL)), "--seeds", "0", "--output", str(tmp_path / "out")]
    assert main([*arguments, "--methods", "ncm,ridge"]) == 0
    assert "of this command alone" not in capsys.readouterr().out
    assert main([*arguments, "--methods", "ridge"]) == 0
    assert "the 1 run of this command alone. What else was compared there (ncm, seed 0)" in capsys.readouterr().out


def test_settings_that_rows_run_without_are_told_before_any_run_begins(tmp_path, capsys):
    text = SMALL + '[method]\nname = "ridge"\npenalty = 3.0\nlayers = [4]\n'
    path = config(tmp_path, text.replace("[run]", "[train]\nrounds = 1\nepochs = 1\n[run]"))
    assert main(["compare", str(path), "--methods", "ncm", "--seeds", "0,1", "--output", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert shown.count("method.layers = [4] in the file is another method's: ncm runs with") == 1
    assert shown.index("is another method's") < shown.index("ncm, seed 0")


def test_a_misspelt_file_is_answered_with_the_one_beside_it(tmp_path):
    config(tmp_path)
    with pytest.raises(ConfigError, match=r"som\.toml: no such file\. Did you mean .*some\.toml"):
        load_config(tmp_path / "som.toml")
