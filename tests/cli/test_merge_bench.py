"""`fcil merge-bench` as a person uses it: settings, messages, tables, pictures."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from small import BENCH

from fcil.bench.merging.evaluation import Result
from fcil.bench.merging.plots import HELD_IN, HELD_OUT, JOINT, accuracy_by_expert_count, accuracy_by_method
from fcil.bench.merging.settings import load_suite, make_entry
from fcil.bench.merging.tables import figure_names, mean_lines, to_csv, to_markdown
from fcil.cli.main import main
from fcil.config import load_config
from fcil.registry import method_names

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "merge_bench").glob("*.toml"))


def test_a_grid_is_tried_in_all_combinations_of_what_the_text_leaves_open():
    grids = {"task_arithmetic": {"scale": [0.1, 0.2], "sum": ["mean", "sum"]}}
    result = [c.settings for c in make_entry("task_arithmetic", grids, {"rank": 3}, "x").candidates]
    assert result == [{"scale": s, "sum": how} for s in (0.1, 0.2) for how in ("mean", "sum")]
    text = "task_arithmetic(sum = 'sum')"
    for built in (
        make_entry(text, grids, {"rank": 3}, "x"),
        make_entry(text, {text: {"scale": [0.1, 0.2]}}, {"rank": 3}, "x"),
    ):
        assert [c.settings for c in built.candidates] == [{"scale": 0.1}, {"scale": 0.2}]
        assert [(c.method.sum, c.method.scale, c.method.rank) for c in built.candidates] == [
            ("sum", s, 3) for s in (0.1, 0.2)
        ]
    assert make_entry("task_arithmetic(rank = 5)", {}, {"rank": 3}, "x").candidates[0].method.rank == 5


BAD = {
    "[bench.grid.task_aritmetic]\nscale = [1.0]": "Did you mean 'task_arithmetic'",
    "[bench.grid.lorm]\nscale = [1.0]": "bench.grid.lorm.scale: unknown setting",
    "[bench.grid.lorm]\ngram_passes = [0]": "bench.grid.lorm.gram_passes = 0: must be at least 1",
    "[bench.grid.lorm]\ngram_passes = 2": "bench.grid.lorm.gram_passes = 2: must be a list",
    "[bench.grid]\nlorm = 2": "bench.grid.lorm: must be a section",
    "[bench.models.a]\nbackbon = 'x'": "model.backbon: unknown setting",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_settings_are_named(text, bench_file, capsys):
    bench_file.write_text(BENCH + text)
    assert main(["merge-bench", str(bench_file)]) == 2
    output = capsys.readouterr().err
    assert BAD[text] in output
    assert "small.toml" in output


@pytest.mark.parametrize(
    ("override", "message"),
    {
        "bench.methods=[]": "nothing to compare",
        "bench.methods=['lorm', 'lorm']": "names one twice",
        "bench.methods=['lorm(']": "write a method",
        "bench.methods=['fedavg']": "keeps no LoRA pair per task",
        "bench.methods=[\"task_arithmetic(at = 'round')\"]": "keeps no LoRA pair per task",
        "bench.experts=[4]": "only 3 tasks",
        "bench.held_out=1.0": "at most 0.9",
        "bench.metods=1": "Did you mean 'methods'",
        "bench=1": "write it as section.key",
        "tasks.count=1": "two tasks at least",
        "method.name=lorrm": "no such method",
        "method.name=ridge": "method.name = 'ridge': experts are fine-tuned by it, and it trains no LoRA pair",
        "method.name=joint": "method.name = 'joint': experts are fine-tuned by it, and it trains no LoRA pair",
        "bench.grid=3": "bench.grid = 3: must be sections",
        "bench.models='x'": "bench.models = 'x': must be sections",
        "bench.methods=['lorrm']": "bench.methods: 'lorrm'",
    }.items(),
)
def test_bad_overrides_stop_it_before_anything_is_trained(override, message, bench_file, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["merge-bench", str(bench_file), "--output", str(out), "--set", override]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_without_a_bench_section_it_says_what_to_write(tmp_path, capsys):
    (tmp_path / "x.toml").write_text("[tasks]\ncount = 2\n")
    assert main(["merge-bench", str(tmp_path / "x.toml")]) == 2
    assert "[bench]" in capsys.readouterr().err


def test_seeds_are_named_once_each(bench_file, capsys):
    assert main(["merge-bench", str(bench_file), "--seeds", "1,1"]) == 2
    assert "names one twice" in capsys.readouterr().err


def test_the_command_writes_tables_and_pictures_and_a_second_call_uses_the_experts_again(bench_file, tmp_path, capsys):
    out = tmp_path / "out"
    call = ["merge-bench", str(bench_file), "--output", str(out)]
    assert main(call) == 0
    first = capsys.readouterr().out
    assert {p.name for p in out.iterdir()} == {
        "results.json", "table.csv", "table.md", "sweep.png", "merged-fcil_vit_tiny.png", "experts"
    }  # fmt: skip
    results = json.loads((out / "results.json").read_text())["results"]
    assert main(call) == 0
    second = capsys.readouterr().out
    assert first.count("trained") == second.count("found") == 3
    again = json.loads((out / "results.json").read_text())["results"]
    assert [{**r, "seconds": 0} for r in again] == [{**r, "seconds": 0} for r in results]
    merges = [r for r in results if r["merge"]]
    assert [(len(r["tasks"]), r["label"].partition("(")[0]) for r in merges] == [
        (n, name) for n in (2, 3) for name in ("task_arithmetic", "task_arithmetic", "lorm")
    ]
    assert merges[1]["settings"] == ""
    rows = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    assert len(rows) == len(results)
    for row, r in zip(rows, results, strict=True):
        assert float(row["task 1 mean"]) * r["own"][0] == pytest.approx(r["accuracy"][0])


# ---- tables and pictures ---------------------------------------------------------------------------------------------


LABELS = ("expert", "merge", "merge two | x")


def results(seeds=2, counts=(2, 3), models=("vit_a", "vit b/16")):
    rng = np.random.default_rng(0)
    return [
        Result(
            model, seed, tuple(range(count)), label, label.startswith("m"), "scale = 1", tuple(rng.random(3)),
            (0.9, 1.0, 0.8), tuple(np.sort(rng.random(3))), 0.1,
        )
        for model in models for seed in range(seeds) for count in counts for label in LABELS
    ]  # fmt: skip


def test_lines_are_means_and_sample_deviations_over_seeds():
    rows = results()
    lines = mean_lines(rows)
    assert len(lines) == 12
    chosen = [r for r in rows if (r.model, len(r.tasks), r.label) == ("vit_a", 2, "merge")]
    line = next(x for x in lines if (x.model, x.experts, x.label) == ("vit_a", 2, "merge"))
    names = to_csv(rows).splitlines()[0].split(",")[6::2]
    at = names.index("held out mean")
    assert line.mean()[at] == pytest.approx(np.mean([r.on_other_tasks for r in chosen]))
    assert line.std()[at] == pytest.approx(np.std([r.on_other_tasks for r in chosen], ddof=1))
    assert line.settings == "scale = 1"


def test_markdown_has_one_row_a_line_and_escapes_bars():
    text = to_markdown(results(models=("vit_a",)))
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 6
    assert {line.replace("\\|", "").count("|") for line in table} == {table[0].count("|")}
    assert "held out" in table[0]
    whole = to_markdown(results(counts=(3,), seeds=1))
    assert "task 3" in whole
    assert "held out" not in whole
    assert "90.0, 100.0, 80.0" in whole


def test_pictures_show_the_figures_that_they_name():
    names = figure_names(4)
    assert [names[i] for i in (HELD_IN, HELD_OUT, JOINT, JOINT + 2)] == ["held in", "held out", "hits@1", "hits@5"]


@pytest.mark.rendered
@pytest.mark.parametrize("seeds", [1, 2])
def test_pictures_are_drawn_and_the_same_again(seeds, tmp_path):
    built = mean_lines(results(seeds))
    for name, paint in (("merged.png", accuracy_by_method), ("sweep.png", accuracy_by_expert_count)):
        paint(tmp_path / name, built)
        first = (tmp_path / name).read_bytes()
        paint(tmp_path / name, built)
        assert (tmp_path / name).read_bytes() == first
        with pytest.raises(ValueError, match="no "):
            paint(tmp_path / "never.png", [])


# ---- the configurations that come with it ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_configurations_are_valid(path):
    suite = load_suite(path)
    assert len(suite.entries) >= 4
    assert {(c.partition.clients, c.run.exchange) for c in suite.configs.values()} == {(1, "inline")}
    assert max(suite.bench.experts, default=0) <= load_config(path).tasks.count
    assert {e.text.partition("(")[0] for e in suite.entries} <= set(method_names())
