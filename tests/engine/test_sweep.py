"""A comparison over the values of a setting: a folder, a table and plots for each, and all tables together."""

import csv
from pathlib import Path

import pytest

from fcil.cli.main import main
from fcil.config import load_variant, sweep_overrides, variant_names
from fcil.engine.comparison import cells
from fcil.errors import ConfigError

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
        for name in ("comparison.csv", "comparison.md", "comparison.tex", "accuracy.png", "traffic.png"):
            assert (folder / name).stat().st_size
        assert f"beta = {value}\n" in (folder / "ridge-seed0" / "config.toml").read_text()
    rows = list(csv.DictReader((out / "comparison.csv").read_text().splitlines()))
    assert [(row["partition.beta"], row["method"]) for row in rows] == [
        (value, label) for value in ("0.5", "0.1") for label in ("ncm", "ridge")
    ]
    alone = list(csv.DictReader((out / "partition.beta=0.1" / "comparison.csv").read_text().splitlines()))
    assert [{k: v for k, v in row.items() if k != "partition.beta"} for row in rows[2:]] == alone
    assert (out / "comparison.md").read_text().count("| ridge |") == 2
    before = {p: p.stat().st_mtime_ns for p in out.rglob("summary.json")}
    assert main(arguments) == 0
    assert {p: p.stat().st_mtime_ns for p in out.rglob("summary.json")} == before, "finished runs are used again"


@pytest.mark.parametrize(
    "sweep",
    [
        "", '"partition.beta" = 0.5', '"partition.beta" = []', '"partition.beta" = [0.5, 0.5]',
        '"partition.beta" = [0.5]\n"run.seed" = [1]', '"data.root" = ["/a/b"]', '"partition.beta" = [[1]]',
    ],
)  # fmt: skip
def test_a_sweep_that_is_none_is_told(tmp_path, sweep):
    path = config(tmp_path, f"[sweep]\n{sweep}\n[compare.ncm]\n")
    with pytest.raises(ConfigError, match=r"some\.toml: \[sweep\]: must be one setting"):
        cells(path, [], [0], [], tmp_path / "out")


def test_an_unknown_setting_or_a_value_out_of_range_stops_it_before_any_run(tmp_path):
    for line, message in (
        ('"partition.bta" = [1]', "Did you mean 'beta'"),
        ('"partition.beta" = [1, -1]', "greater than 0"),
    ):
        path = config(tmp_path, f"[sweep]\n{line}\n[compare.ncm]\n")
        with pytest.raises(ConfigError, match=message):
            cells(path, [], [0], [], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_setting_cannot_be_swept_over_and_given(tmp_path):
    with pytest.raises(ConfigError, match=r"--set partition\.beta: .*sweeps over it"):
        cells(config(tmp_path), [], [0], ["partition.beta=1"], tmp_path)


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
    assert sweep_overrides(path) == [f"partition.beta={beta}" for beta in (0.5, 0.1, 0.05)]
    assert len({c.method.settings.get("rank") for c in configs if "rank" in c.method.settings}) == 1
    assert len({(c.train, c.partition, c.data, c.tasks) for c in configs}) == 1
