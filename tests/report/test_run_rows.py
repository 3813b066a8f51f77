"""The tidy table of a comparison: one row a run, its settings that differ, its figures."""

import csv
import io

from test_tables_and_plots import run_of

from fcil.report.run_rows import differing_settings, runs_csv


def run(label, seed, settings, swept=(), **changes):
    return run_of(label, seed, settings={"run.seed": seed, **settings}, swept=dict(swept), **changes)


RUNS = [
    run("lorm", 0, {"method.name": "lorm", "method.rank": 4, "train.lr": 0.1, "method.gram": "full"}, final=1 / 3),
    run("lorm", 1, {"method.name": "lorm", "method.rank": 4, "train.lr": 0.1, "method.gram": "full"}, refused=2),
    run("fed", 0, {"method.name": "fedavg", "method.rank": 16, "train.lr": 0.1}, average_accuracy=None, asked=30),
    run("ncm", 0, {"method.name": "ncm", "train.lr": 0.1}),
]


def test_every_run_has_a_row_with_the_settings_that_differ():
    assert differing_settings(RUNS) == ["method.name", "method.rank"]
    rows = list(csv.DictReader(io.StringIO(runs_csv(RUNS))))
    assert [(r["method"], r["seed"], r["method.name"], r["method.rank"]) for r in rows] == [
        ("lorm", "0", "lorm", "4"), ("lorm", "1", "lorm", "4"), ("fed", "0", "fedavg", "16"), ("ncm", "0", "ncm", "")
    ]  # fmt: skip
    assert float(rows[0]["final_accuracy"]) == 1 / 3
    assert rows[2]["average_accuracy"] == ""
    assert [(r["updates_missing"], r["updates_asked"]) for r in rows] == [("0", ""), ("2", ""), ("0", "30"), ("0", "")]
    assert {r["sha256"] for r in rows} == {"ab" * 32}
    assert "train.lr" not in rows[0]


def test_swept_settings_come_first_even_with_one_value_and_lists_and_words_read_back():
    runs = [run("r", 0, {"m.w": w, "m.l": [6, 9]}, {"m.l": [6, 9], "m.w": w}) for w in ('a, "b"', "c")]
    rows = list(csv.DictReader(io.StringIO(runs_csv(runs))))
    assert list(rows[0])[:4] == ["method", "seed", "m.l", "m.w"]
    assert [(r["m.l"], r["m.w"]) for r in rows] == [("[6,9]", 'a, "b"'), ("[6,9]", "c")]
