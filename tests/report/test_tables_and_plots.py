"""Tables against figures worked out by hand; pictures that are written whole; lines that a pipe can take."""

import csv
import io
import time
from types import SimpleNamespace
from typing import Annotated

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from fcil.data import progress
from fcil.options import Described, Option
from fcil.report import cost_plots, figure, plots, settings_table, tables
from fcil.report import live as live_module
from fcil.report import rows as rows_of
from fcil.report.live import Live
from fcil.server.plan import phase_weights

CORRECT, TOTAL = [[9], [8, 14]], [10, 20]


def run_of(label="lorm", seed=0, final=0.75, **changes):
    return {
        "label": label, "seed": seed, "final_accuracy": final, "final_accuracy_task_mean": 0.7,
        "average_accuracy": 0.8125, "forgetting": 0.1, "upload_bytes": 12_340_000, "download_bytes": 5_000_000,
        "seconds": {"clients": 10.0, "merging": 1.5, "evaluation": 2.0, "total": 14.4}, "refused": 0,
        "sha256": "ab" * 32, **changes,
    }  # fmt: skip


def shown(renderable, width=120):
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(renderable)
    return console.file.getvalue()


# ---- tables ----------------------------------------------------------------------------------------------------------


def test_run_table_shows_accuracy_when_learned_at_the_end_and_pooled():
    text = shown(tables.run_table(run_of(), CORRECT, TOTAL), width=80)
    lines = [line.split() for line in text.splitlines()]
    assert ["1", "90.0", "80.0", "90.0"] in lines
    assert ["2", "70.0", "70.0", "73.3"] in lines
    for words in ("75.0 %", "70.0 %", "81.2 %", "10.0 points", "12.34 / 5.00 MB", "10.0 s", "1.50 s", "14.4 s"):
        assert words in text
    assert "refused" not in text
    assert "refused" in shown(tables.run_table(run_of(refused=3), CORRECT, TOTAL))
    assert max(map(len, text.splitlines())) <= 80


def test_run_table_of_an_unfinished_run():
    assert ["1", "90.0", "90.0", "90.0"] in [
        line.split() for line in shown(tables.run_table(run_of(), CORRECT[:1], TOTAL)).splitlines()
    ]


def test_rows_hold_mean_and_sample_deviation_per_label():
    rows = rows_of.compare_rows([run_of(final=0.7), run_of("fedavg"), run_of(seed=1, final=0.8)])
    assert [(row.label, row.runs) for row in rows] == [("lorm", 2), ("fedavg", 1)]
    assert rows[0].mean[0] == pytest.approx(0.75)
    assert rows[0].std[0] == pytest.approx(0.1 / np.sqrt(2))  # of a sample: divided by n - 1
    assert rows[0].cells("±")[:3] == ["lorm", "2", "75.0 ± 7.1"]
    assert rows[1].cells("±")[2] == "75.0", "one seed has no deviation, and none is shown"
    assert np.isnan(rows[1].std).all()


def test_a_figure_that_a_method_does_not_have_is_a_dash_and_an_empty_cell():
    rows = rows_of.compare_rows([run_of(seed=seed, average_accuracy=None) for seed in (0, 1)])
    assert rows[0].cells("±")[4] == "-"
    (row,) = csv.DictReader(io.StringIO(tables.to_csv(rows)))
    assert (row["average_accuracy_mean"], row["average_accuracy_std"]) == ("", "")
    assert float(row["final_accuracy_mean"]) == 0.75
    text = shown(tables.run_table(run_of(average_accuracy=None, forgetting=None), [[8, 14]], TOTAL))
    lines = [line.split() for line in text.splitlines()]
    assert ["1", "-", "80.0", "-"] in lines
    assert ["2", "70.0", "70.0", "73.3"] in lines


def test_settings_that_rows_do_not_share_are_named_below_every_table():
    runs = [
        run_of("lorm", common={"method.rank": 4, "train.lr": 0.1, "method.wire": "float32"}),
        run_of("fedavg", common={"method.rank": 16, "train.lr": 0.1}),
        run_of("ncm", common={"train.lr": 0.1}),
        run_of("other", common={"method.rank": 16, "train.lr": 0.1}),
    ]
    said = "method.rank = 4 (lorm), 16 (fedavg, other)"
    rows = rows_of.compare_rows(runs)
    assert rows_of.unlike_settings(rows) == f"Settings that rows do not share: {said}."
    for text in (shown(tables.to_rich(rows), 160), tables.to_markdown(rows)):
        assert said in " ".join(text.split())
        assert "train.lr" not in text
    latex = tables.to_latex(rows)
    assert said in latex[latex.index(r"\end{tabular}") :]
    assert "wire" not in latex
    own = [("lorm", {"method.name": "lorm"}), ("ncm", {"method.name": "ncm"})]
    assert rows_of.unshared(own) == "", "a row that is named after its method says it already"
    assert rows_of.unshared([own[0], ("fast", {"method.name": "ncm"})]) == (
        "Settings that rows do not share: method.name = lorm (lorm), ncm (fast)."
    )
    for same in (runs[1:], [runs[0], runs[2]]):
        rows = rows_of.compare_rows(same)
        assert rows_of.unlike_settings(rows) == ""
        assert tables.to_markdown(rows).count("\n") == len(rows) + 2
        assert tables.to_latex(rows).endswith("\\end{tabular}\n")


def test_csv_reads_back_at_full_precision():
    rows = rows_of.compare_rows([run_of(final=1 / 3), run_of(seed=1, final=2 / 7), run_of('odd, "name"')])
    first, second = csv.DictReader(io.StringIO(tables.to_csv(rows)))
    assert float(first["final_accuracy_mean"]) == np.mean([1 / 3, 2 / 7])
    assert float(first["final_accuracy_std"]) == np.std([1 / 3, 2 / 7], ddof=1)
    assert (first["seeds"], float(first["upload_bytes_mean"])) == ("2", 12_340_000)
    assert (second["method"], second["final_accuracy_std"]) == ('odd, "name"', "")


def test_latex_escapes_what_latex_would_take_for_commands():
    text = tables.to_latex(rows_of.compare_rows([run_of(r"a_b & 5% $x$ #1 {c} ~ ^ \d"), run_of("z"), run_of("z", 1)]))
    escaped = r"a\_b \& 5\% \$x\$ \#1 \{c\} \~{} \^{} \textbackslash{}d"
    assert f"\n{escaped} & 1 & 75.0 & " in text
    assert r"z & 2 & 75.0 $\pm$ 0.0 & " in text
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.replace(r"\&", "").count("&") for line in body} == {len(rows_of.COLUMNS) + 1}


def test_markdown_has_a_cell_for_every_column():
    text = tables.to_markdown(rows_of.compare_rows([run_of("a|b"), run_of("c")]))
    assert r"| a\|b | 1 | 75.0 | 70.0 | 81.2 | 10.0 | 12.3 | 5.0 | 14 |" in text
    assert {line.replace(r"\|", "").count("|") for line in text.splitlines()} == {len(rows_of.COLUMNS) + 3}


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_table_loses_nothing(width):
    """Units in brackets look like rich's markup, and narrow columns must fold instead of ending in dots."""
    rows = rows_of.compare_rows([run_of("lorm [s]"), run_of("lorm [s]", 1, 0.8), run_of("fedavg-long")])
    text = shown(tables.to_rich(rows), width)
    for part in ("[%]", "[points]", "[s]", "[MB]", "forgetting", "77.5 ±", "3.5"):
        assert part in text
    assert text.count("[s]") == 2, "the unit of time, and the label's"
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width


def test_method_table_writes_settings_as_toml_does():
    settings = [
        Described("rank", "integer", 16, Option("rank of a pair", "rows", low=1, high=64)),
        Described("beta", "number", 0.5, Option("strength", above=0)),
        Described("on", "true or false", True, Option("[green]whether[/]")),
        Described("sizes", "list of integer", (1, 2), Option("")),
    ]
    text = shown(settings_table.method_table(settings, "First line.\n\n    Second [1]."))
    assert text.startswith("First line.\n\nSecond [1].")
    for part in ("integer >= 1, <= 64 rows", "number > 0", "true", "[green]whether[/]", "[1, 2]"):
        assert part in text
    assert "True" not in text


def test_method_table_of_a_setting_without_default():
    from dataclasses import dataclass

    from fcil.options import describe

    @dataclass(frozen=True, kw_only=True)
    class Needy:
        path: Annotated[str, Option("where")]

    assert "required" in shown(settings_table.method_table(describe(Needy), ""))


# ---- pictures --------------------------------------------------------------------------------------------------------


def lower_triangle(tasks):
    return np.where(np.tri(tasks) > 0, np.linspace(0.2, 1, tasks * tasks).reshape(tasks, tasks), np.nan)


PICTURES = {
    "one run": lambda p: plots.accuracy_over_tasks(p, {"lorm": np.array([0.9, 0.8, 0.7])}),
    "one task": lambda p: plots.accuracy_over_tasks(p, {"lorm": np.array([0.9])}),
    "methods and seeds": lambda p: plots.accuracy_over_tasks(
        p, {f"$m_{i}": np.linspace([0.9, 0.92], 0.5 + i / 30, 20).T for i in range(12)}
    ),
    "unfinished seed": lambda p: plots.accuracy_over_tasks(
        p, {"a": np.array([[0.9, 0.8], [0.8, np.nan]]), "b": np.array([0.5])}
    ),
    "matrix": lambda p: plots.accuracy_heatmap(p, lower_triangle(5), "lorm, 5 % of $x"),
    "large matrix": lambda p: plots.accuracy_heatmap(p, lower_triangle(40), ""),
    "unfinished matrix": lambda p: plots.accuracy_heatmap(p, lower_triangle(10)[:3], "three tasks of ten"),
    "small matrix": lambda p: plots.accuracy_heatmap(p, lower_triangle(1), "lorm"),
    "holders": lambda p: plots.class_holders(p, np.arange(50).reshape(5, 10), list("abcdefghij"), [2] * 5),
    "many holders": lambda p: plots.class_holders(
        p, np.arange(10_000).reshape(50, 200) % 7, ["a very long name of a class"] * 200, [120, 60, 20]
    ),
    "nobody": lambda p: plots.class_holders(p, np.zeros((2, 3), int), ["a", "b", "c"], [3]),
    "traffic": lambda p: cost_plots.accuracy_against_traffic(
        p, {"a": (0.8, 0.01, 12.0), "b": (0.7, float("nan"), 9000.0)}
    ),
    "traffic of one": lambda p: cost_plots.accuracy_against_traffic(p, {"a": (0.8, 0.0, 0.03)}),
}  # fmt: skip


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_written_with_something_on_them(name, tmp_path):
    path = tmp_path / "folder" / "picture.png"
    PICTURES[name](path)
    with Image.open(path) as image:
        grey = np.asarray(image.convert("L"))
        assert image.info["dpi"] == pytest.approx((200, 200), abs=0.1)
    assert 2 * 200 <= grey.shape[1] <= 10.5 * 200
    assert (grey < 128).mean() > 0.002, "hardly anything is drawn"
    assert (np.concatenate([grey[:2].ravel(), grey[-1]]) == 255).all(), "something is cut off at the top or bottom"
    assert [p.name for p in path.parent.iterdir()] == ["picture.png"]


def test_the_same_picture_has_the_same_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        PICTURES["holders"](tmp_path / name)
    written = (tmp_path / "a.png").read_bytes()
    assert written == (tmp_path / "b.png").read_bytes()
    assert b"tEXt" not in written, "no program's version, no date"


def test_a_drawing_that_fails_leaves_the_old_picture_alone(tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    path.write_bytes(b"old")

    def cut_short(self, file, **_):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(figure.Figure, "savefig", cut_short)
    with pytest.raises(OSError, match="disk full"):
        PICTURES["one run"](path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_drawing_leaves_no_global_state(tmp_path):
    import sys

    import matplotlib as mpl

    def global_state():  # an example of the documentation may have left figures open in this process
        pyplot = sys.modules.get("matplotlib.pyplot")
        return dict(mpl.rcParams), pyplot.get_fignums() if pyplot else []

    before = global_state()
    PICTURES["matrix"](tmp_path / "picture.png")
    assert global_state() == before


def test_bubble_areas_are_proportional_to_counts():
    counts = np.array([[0, 1], [25, 100]])
    np.testing.assert_allclose(plots.bubble_areas(counts, 50.0), [[0, 0.5], [12.5, 50]])
    assert not plots.bubble_areas(np.zeros((2, 2)), 50.0).any()


@pytest.mark.parametrize(
    ("highest", "sizes"), [(6000, [5000, 1000, 200]), (100, [100, 20, 5]), (3, [2]), (1, [1]), (0, [])]
)
def test_legend_sizes_are_round_and_not_above_the_highest(highest, sizes):
    assert plots.round_counts(highest) == sizes


def test_mean_and_deviation_over_the_seeds_that_are_there():
    mean, std = plots.mean_and_std(np.array([[0.5, 0.2, np.nan], [0.7, np.nan, np.nan]]))
    np.testing.assert_allclose(mean, [0.6, 0.2, np.nan])
    np.testing.assert_allclose(std, [0.1 * np.sqrt(2), np.nan, np.nan])


def test_many_methods_are_told_apart_without_colour():
    marks = [figure.mark(i) for i in range(30)]
    assert len({(m.marker, m.dashes) for m in marks}) == 30


def test_labels_are_thinned_to_the_room_there_is():
    assert list(figure.label_indices(10, 5.0)) == list(range(10))
    assert len(figure.label_indices(200, 6.5)) * 8.5 <= 6.5 * 72
    assert list(figure.label_indices(0, 5.0)) == []


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="no curves"):
        plots.accuracy_over_tasks("never.png", {})
    with pytest.raises(ValueError, match="4 classes, 3 names"):
        plots.class_holders("never.png", np.ones((2, 4), int), ["a", "b", "c"], [4])
    with pytest.raises(ValueError, match="megabytes"):
        cost_plots.accuracy_against_traffic("never.png", {"a": (0.5, 0.0, 0.0)})


# ---- the live display ------------------------------------------------------------------------------------------------


def plan_of(tasks=2):
    phases = [SimpleNamespace(task=SimpleNamespace(index=t), kind=k) for t in range(tasks) for k in ("train", "report")]
    return SimpleNamespace(
        phases=phases, census=SimpleNamespace(totals=range(tasks), train=np.array([[30, 10]] * tasks)),
        config=SimpleNamespace(train=SimpleNamespace(epochs=1, participation=1.0, participants=0)),
    )  # fmt: skip


def events(reason="sent NaN"):
    place = {"phase": 0, "task": 0, "round": 1}
    return [
        {"event": "phase", **place, "kind": "train", "clients": [0, 3], "download_bytes": 8},
        {"event": "client", **place, "client": 0, "images": 120.0, "loss": 0.5, "bytes": 4},
        {"event": "refused", **place, "client": 3, "reason": reason},
        {"event": "merged", **place, "updates": 1, "upload_bytes": 4, "seconds_clients": 2.0, "seconds_merge": 0.1},
        {"event": "something new", **place},
        {"event": "task", **place, "correct": [9], "total": [10], "accuracy": 0.9, "seconds": 1.0},
    ]


def feed(console, events):
    display = Live(plan_of(), 0, console)
    display.start()
    try:
        for event in events:
            display(event)
    finally:
        display.stop()
    return console.file.getvalue()


def test_piped_there_are_plain_lines_one_per_phase_and_task():
    text = feed(Console(file=io.StringIO(), width=80), events("x" * 120))
    refused, phase, task = text.splitlines()
    assert refused == f"task 1/2, round 1: client 3 has no update: {'x' * 120}"
    assert phase.startswith("task 1/2, round 1: 1/2 clients, 60 images/s, ")
    assert phase.endswith(" left")
    assert task == "after task 1/2: accuracy 90.0 %  (by task: 90.0)"
    assert all(c.isprintable() or c == "\n" for c in text)


def test_piped_a_long_silence_is_broken_on_standard_error(monkeypatch):
    said = []
    monkeypatch.setattr(progress, "SILENCE", 0.01)
    monkeypatch.setattr(progress, "tell", said.append)
    console = Console(file=io.StringIO(), width=80)
    display = Live(plan_of(), 0, console, on_ray=True)
    display.start()
    for number, event in enumerate((None, *events()[:3])):
        if event:
            display(event)
        end = time.monotonic() + 10
        while len(said) <= number:
            assert time.monotonic() < end
            time.sleep(0.002)
    display.stop()
    place = "task 1/2, round 1, clients"
    assert said == ["starting Ray", f"{place} 0/2", f"{place} 1/2", f"{place} 2/2, merging"]
    assert console.file.getvalue() == "task 1/2, round 1: client 3 has no update: sent NaN\n"


def test_the_time_left_does_not_count_the_workers_start(monkeypatch):
    """Workers need 100 s to come up; then two clients of 3 s each, one after the other, are all of the first round."""
    now = [0.0]
    monkeypatch.setattr(live_module.time, "monotonic", lambda: now[0])
    console = Console(file=io.StringIO(), width=80)
    display, weights = Live(plan_of(), 0, console), phase_weights(plan_of())
    asked, first, _, merged = events()[:4]
    for seconds, event in (
        (0, asked), (103, {**first, "train_seconds": 2.5, "report_seconds": 0.5}), (106, {**first, "client": 3}),
        (106, merged),
    ):  # fmt: skip
        now[0] = seconds
        display(event)
    left = round(6 * sum(weights[1:]) / weights[0])
    assert console.file.getvalue().strip().endswith(f", 0:{left:02d} left")


def test_a_client_cannot_write_on_the_terminal():
    hostile = "\x1b[2J\x1b]0;owned\x07 [bold]no[/bold]\r\n[/oops]"
    for console in (
        Console(file=io.StringIO(), width=80),
        Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None),
    ):  # fmt: skip
        text = feed(console, events(hostile))
        assert "\x1b[2J" not in text
        assert "\x1b]0" not in text
        assert "\x07" not in text
        assert "[/oops]" in text


def test_on_a_terminal_refusals_and_tasks_stay_above_the_moving_line():
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None, legacy_windows=False)
    text = feed(console, events())
    assert "client 3 has no update: sent NaN" in text
    assert "accuracy 90.0 %" in text
    assert "clients 2/2" in text
