"""Tables of whole runs: rows with bases of their own, published figures beside ours, and what all of it would take."""

import csv
import json
import re
from pathlib import Path

import archives
import numpy as np
import pytest

import fcil
import fcil.engine.dry_run as rehearsal
from fcil.cli.main import main
from fcil.config import canonical, load_config, load_variant, row_facts, rows_have_bases
from fcil.data import FAMILIES, Data, load
from fcil.engine.comparison import cells
from fcil.engine.forecast import forecast
from fcil.engine.simulation import prepare
from fcil.errors import ConfigError
from fcil.report.forecast import duration_text
from fcil.report.published import published_cells, published_markdown, write_published
from fcil.report.rows import caption, compare_rows
from fcil.report.tables import to_csv

TABLE = Path(__file__).parents[2] / "configs" / "paper" / "table.toml"
BASE = """
[data]
train_limit = 60
test_limit = 20
[model]
image_size = 16
[tasks]
count = 2
[partition]
clients = 2
min_samples = 1
[method]
name = "ncm"
[run]
device = "cpu"
"""
ROWS = """
[train]
batch = 8
[compare.small]
base = "sub/small.toml"
published = 50.0
tolerance = 2.5
[compare.large]
base = "sub/small.toml"
[compare.large.tasks]
count = 5
"""


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """Counts do not depend on what is timed."""
    for name in ("STEPS", "REPEATS", "BATCHES"):
        monkeypatch.setattr(rehearsal, name, 1)


@pytest.fixture
def table(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "base.toml").write_text(BASE)
    (tmp_path / "sub" / "small.toml").write_text('base = "base.toml"\n[train]\nbatch = 4\nlr = 0.5\n')
    path = tmp_path / "table.toml"
    path.write_text(ROWS)
    return path


def test_a_rows_base_lies_below_the_file_and_the_row_above_it(table):
    small, large = (load_variant(table, label, ["run.seed=3"]) for label in ("small", "large"))
    assert (small.train.lr, small.train.batch, small.tasks.count) == (0.5, 8, 2)
    assert (small.method.name, small.data.train_limit, small.run.seed) == ("ncm", 60, 3)
    assert (large.train.batch, large.tasks.count) == (8, 5)
    assert load_variant(table, "large", ["tasks.count=1"]).tasks.count == 1
    assert row_facts(table, "small").published == 50
    assert row_facts(table, "large").published is None
    assert rows_have_bases(table)
    assert not rows_have_bases(table.parent / "sub" / "small.toml")


def test_a_method_that_is_no_row_of_a_table_of_whole_runs_has_no_data_there(table, tmp_path):
    """It would run on the defaults, the embedded digits."""
    for label in ("ncm", "ncm(layers = 1)"):
        with pytest.raises(
            ConfigError, match=rf"--methods {re.escape(canonical(table, label))}: .*no row has none.*small"
        ):
            cells(table, [label], [0], [], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_whose_base_has_the_rows_finds_their_bases(table):
    other = table.parent / "sub" / "other.toml"
    other.write_text('base = "../table.toml"\n[train]\nrounds = 7\n')
    assert load_variant(other, "small").train.rounds == 7
    assert load_variant(other, "small").train.lr == 0.5


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('base = "none.toml"', "none.toml: no such file"),
        ("base = 3", r"\[compare.x\] base"),
        ('base = "table.toml"\npublished = "much"', r"table.toml: \[compare.x\] published"),
        ('base = "table.toml"\npublished = 101', "at most 100"),
        ("published = 1\ntolerance = 0", "greater than 0"),
        ("publishd = 1", "publishd"),
    ],
)
def test_a_slip_in_a_row_is_told_with_its_place(tmp_path, line, message):
    path = tmp_path / "table.toml"
    path.write_text(f"[compare.x]\n{line}\n")
    with pytest.raises(ConfigError, match=message):
        cells(path, [], [0], [], tmp_path / "out")


def test_a_table_is_no_single_run(table, capsys):
    for command in ("run", "data preview"):
        assert main([*command.split(), str(table)]) == 2
        assert "is a table of runs" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="no single run"):
        fcil.run(table)


# ---- published figures -----------------------------------------------------------------------------------------------


def run_of(label, final, published=None, tolerance=None, seed=0):
    """The figures that a run's summary has, and what its row says."""
    return {
        "label": label, "seed": seed, "value": "", "final_accuracy": final, "final_accuracy_task_mean": final,
        "average_accuracy": final, "forgetting": 0.0, "upload_bytes": 0, "download_bytes": 0, "seconds": {"total": 1.0},
        "correct": [[1]], "total": [2], "published": published, "tolerance": tolerance,
    }  # fmt: skip


def test_of_how_many_runs_a_row_tells_the_time_is_said_where_it_is_not_all():
    runs = [run_of("a", 0.5), run_of("b", 0.5), {**run_of("b", 0.6, seed=1), "reused": 3}, run_of("c", 0.5)]
    assert "b 1 of 2)." in caption(compare_rows(runs))
    assert "1 of" not in caption(compare_rows([runs[0], {**runs[1], "resumed": 1}]))
    assert "Time" not in caption(compare_rows(runs[:2]))


def test_the_last_columns_by_hand():
    runs = [
        run_of("near", 0.80, 0.81, 0.012), run_of("near", 0.81, 0.81, 0.012, 1), run_of("edge", 0.50, 0.512, 0.012),
        run_of("far", 0.5, 0.60, 0.012), run_of("silent", 0.5, 0.51), run_of("alone", 0.5),
    ]  # fmt: skip
    heads, lines = published_cells(compare_rows(runs))
    assert heads[:3] == ["experiment", "published [%]", "ours [%]"]
    assert lines == [
        ["near", "81.00", "80.50 ± 0.71", "2", "-0.50", "yes, within ±1.2"],
        ["edge", "51.20", "50.00", "1", "-1.20", "yes, within ±1.2"],
        ["far", "60.00", "50.00", "1", "-10.00", "no, beyond ±1.2"],
        ["silent", "51.00", "50.00", "1", "-1.00", "-"],
        ["alone", "no figure at hand", "50.00", "1", "-", "-"],
    ]
    rows = list(csv.DictReader(to_csv(compare_rows(runs)).splitlines()))
    assert [row["is_near"] for row in rows] == ["True", "True", "False", "", ""]
    assert float(rows[0]["difference"]) == pytest.approx(-0.005)
    assert rows[4]["published"] == ""


def test_without_a_published_figure_there_is_no_such_table():
    rows = compare_rows([run_of("a", 0.5), run_of("b", 0.6)])
    assert published_markdown(rows) == ""
    assert "published" not in to_csv(rows)


def test_while_runs_are_missing_the_table_says_so_and_has_no_figure_of_theirs(table, tmp_path):
    out = tmp_path / "out"
    planned, seen = cells(table, [], [0, 1], [], out), []
    finished = [run_of("small", 0.5, 0.5, 0.025), run_of("small", 0.52, 0.5, 0.025, 1), run_of("large", 0.3)]
    for number in range(1, len(finished) + 1):
        write_published(out, planned, finished[:number])
        seen.append((out / "published.md").read_text().splitlines())
    assert "| small | 50.00 | 50.00 | 1 | +0.00 | yes, within ±2.5 |" in seen[0]
    assert "| large | no figure at hand | not run yet | 0 | - | - |" in seen[0]
    assert "| small | 50.00 | 51.00 ± 1.41 | 2 | +1.00 | yes, within ±2.5 |" in seen[1]
    assert "| large | no figure at hand | 30.00 | 1 | - | - |" in seen[2]


def test_a_comparison_shows_them_everywhere(table, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["compare", str(table), "--seeds", "0", "--output", str(out)]) == 0
    shown = capsys.readouterr().out
    figures = json.loads((out / "small-seed0" / "summary.json").read_text())
    ours = f"{100 * figures['final_accuracy']:.2f}"
    difference = f"{100 * figures['final_accuracy'] - 50:+.2f}"
    line = next(line for line in (out / "comparison.md").read_text().splitlines() if "| 50.00 |" in line)
    assert line.split(" | ")[1:5] == ["50.00", ours, "1", difference]
    assert ours in shown
    assert "as near as an independent run" in shown
    result = fcil.compare(table, seeds=[0], output=out)
    assert line in result.markdown()
    assert line == next(one for one in (out / "published.md").read_text().splitlines() if "| 50.00 |" in one)
    assert "published" in repr(result)
    assert "published figures" in result._repr_html_()


# ---- LoRM's table ----------------------------------------------------------------------------------------------------

SMALL = [
    "--exchange", "inline", "--seeds", "0",
    *(f"--set={setting}" for setting in (
        "tasks.count=1", "partition.clients=2", "partition.min_samples=0", "model.backbone=fcil_vit_tiny",
        "model.weights=embedded", "model.image_size=16", "model.precision=fp32", "train.epochs=1", "train.rounds=1",
        "run.device=cpu",
    )),
]  # fmt: skip
EXPERIMENTS = 18


@pytest.mark.slow
def test_one_command_runs_all_eighteen_on_data_in_the_original_formats_and_ends_in_the_table(tmp_path, capsys):
    root, out = tmp_path / "data", tmp_path / "out"
    root.mkdir()
    for name in {name.partition("_")[0] for name in load_table()}:
        archives.WRITE[name](root)
    more = ["--output", str(out), f"--set=data.root={root}", "--set=data.unofficial=true"]
    assert main(["compare", str(TABLE), *SMALL, *more]) == 0
    shown = capsys.readouterr().out
    lines = [line.split(" | ") for line in (out / "published.md").read_text().splitlines()[2:]]
    assert [line[0].removeprefix("| ") for line in lines] == list(load_table())
    for line, (label, published) in zip(lines, load_table().items(), strict=True):
        summary = json.loads((out / f"{label}-seed0" / "summary.json").read_text())
        assert line[2] == f"{100 * summary['final_accuracy']:.2f}"
        assert line[1] == ("no figure at hand" if published is None else f"{published:.2f}")
        assert line[4] == ("-" if published is None else f"{100 * summary['final_accuracy'] - published:+.2f}")
        assert line[5].startswith("- |" if published is None else ("yes", "no"))
        view = "identity" if label.startswith("eurosat") else "squash"
        assert f'view = "{view}"' in (out / f"{label}-seed0" / "config.toml").read_text()
    assert shown.rstrip().splitlines()[-1] == f"tables and plots: {out}"
    assert "as near as an independent run" in shown


def load_table():
    from fcil.config import variant_names

    return {label: row_facts(TABLE, label).published for label in variant_names(TABLE)}


@pytest.mark.slow
def test_one_command_says_what_the_table_takes_without_any_data(tmp_path, capsys):
    shorter = ["--set=data.stand_in=true", "--set=data.train_limit=400", "--set=data.test_limit=200"]
    assert main(["plan", str(TABLE), *SMALL, "--seeds=0,1,2", *shorter, "--json", str(tmp_path / "plan.json")]) == 0
    shown = capsys.readouterr().out
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert list(plan["rows"]) == list(load_table())
    assert len(plan["rows"]) == EXPERIMENTS
    for what in ("steps", "upload_bytes", "download_bytes"):
        assert plan["total"][what] == 3 * sum(row[what] for row in plan["rows"].values())
    seconds = plan["total"]["seconds"]
    assert seconds == pytest.approx(3 * sum(row["seconds"]["total"] for row in plan["rows"].values()))
    assert f"In all about {duration_text(seconds)}." in shown
    assert plan["total"]["image_bytes"] == (5 * 600 + 600) * 16 * 16 * 3, "three rows share the images of a set"
    settings = [word.removeprefix("--set=") for word in [*SMALL, *shorter] if word.startswith("--set=")]
    one = load_config(TABLE.parent / "cub200_beta0.2.toml", [*settings, 'run.exchange="inline"'])
    alone = forecast(prepare(one)).figures()
    assert {k: plan["rows"]["cub200_beta0.2"][k] for k in ("steps", "upload_bytes", "download_bytes")} == {
        k: alone[k] for k in ("steps", "upload_bytes", "download_bytes")
    }
    assert {p.name for p in tmp_path.iterdir()} == {"plan.json"}


def test_rows_of_any_comparison_are_planned_where_seeds_are_named(table, capsys):
    path = table.parent / "plain.toml"
    path.write_text(BASE.replace('name = "ncm"', 'name = "lorm"') + "[compare.ncm]\n[compare.ridge]\n")
    assert main(["plan", str(path)]) == 0
    assert "training images" in capsys.readouterr().out
    assert main(["plan", str(path), "--seeds", "0,1"]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[:2] for line in shown.splitlines() if line.split()[:1] in (["ncm"], ["ridge"], ["all"])] == [
        ["ncm", "2"], ["ridge", "2"], ["all", "4"]
    ]  # fmt: skip
    path.write_text(BASE.replace('name = "ncm"', 'name = "ridge"\npenalty = 2.0'))
    assert main(["plan", str(path), "--methods", "ridge,ncm,ranpac(random=20)", "--seeds", "0"]) == 0  # ncm has none
    told = " ".join(capsys.readouterr().out.split())
    assert "note: settings that rows do not share: method.penalty = 2.0 (ridge), auto (ranpac(random=20))" in told
    assert "Up, down: MB that all clients" in told


# ---- stand-in data ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.counts])
def test_a_stand_in_has_the_official_numbers_and_takes_no_memory(name):
    family = FAMILIES[name]
    data = load(Data(name=name, stand_in=True), 32)
    assert len(data.classes) == family.classes
    assert len(data.train) + len(data.test) == sum(family.counts)
    if len(family.counts) == 2:
        assert (len(data.train), len(data.test)) == family.counts
    else:
        assert len(data.test) == pytest.approx(0.2 * family.counts[0], abs=1)
    for part in (data.train, data.test):
        counts = np.bincount(part.labels, minlength=family.classes)
        assert counts.max() - counts.min() <= 1
        assert part.images.strides[0] == 0
    assert (data.mean, data.train_view) == (family.mean, family.train_view)
    assert load(Data(name=name, stand_in=True, view="squash"), 32).test.images.shape[1:3] == (32, 32)


def test_no_run_takes_a_stand_in_and_what_has_no_numbers_has_none(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.stand_in: .*noise"):
        fcil.run({}, {"data.stand_in": True}, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="no official numbers"):
        load(Data(name="folder", stand_in=True), 32)


def test_a_plan_without_the_files_says_how_to_do_without_them(tmp_path, capsys):
    path = tmp_path / "some.toml"
    path.write_text('[data]\nname = "cifar100"\n')
    assert main(["plan", str(path)]) == 2
    assert "--set data.stand_in=true" in " ".join(capsys.readouterr().err.split())
