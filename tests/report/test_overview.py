"""The overview of a sweep: every method at every value, the best in bold, and marks on what lacks something."""

import io
import math

import pytest
from rich.console import Console

from fcil.report.overview import bounds_of, overview_latex, overview_markdown, overview_rich
from fcil.report.rows import COLUMNS, Row

NAN = math.nan


def row(label, final, forgetting=0.1, runs=3, std=0.01, **changes):
    figures = {"final_accuracy": final, "average_accuracy": final, "forgetting": forgetting}
    mean = tuple(figures.get(column.key, 0.0) for column in COLUMNS)
    return Row(label, runs, mean, tuple(NAN if math.isnan(figure) or runs < 2 else std for figure in mean), **changes)


POINTS = {"partition.beta=0.5": {"partition.beta": 0.5}, "partition.beta=0.1": {"partition.beta": 0.1}}
TABLES = {
    "partition.beta=0.5": [row("a", 0.801, 0.05), row("b", 0.8012, 0.02), row("joint", 0.9, NAN)],
    "partition.beta=0.1": [row("a", 0.702, 0.05), row("c|_d", 0.7), row("joint", 0.9, NAN)],
}


def lines_of(markdown, title):
    table = markdown.split(f"**{title}**\n\n")[1].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]


def test_every_method_has_a_line_and_every_value_a_column():
    lines = lines_of(overview_markdown(POINTS, TABLES, {"joint"}), "final [%] by partition.beta")
    assert lines[0] == ["method", "0.5", "0.1"]
    assert [line[0] for line in lines[2:]] == ["a", "b", "joint", r"c\|_d"]
    assert lines[2][1:] == ["**80.1** ± 1.0", "**70.2** ± 1.0"]
    assert lines[3][1:] == ["**80.1** ± 1.0", "-"], "what looks equal is equally good; b was not run at 0.1"
    assert lines[4][1:] == ["90.0 ± 1.0", "90.0 ± 1.0"], "a bound is no winner"
    assert lines[5][1:] == ["-", "70.0 ± 1.0"]


def test_the_least_forgetting_is_the_best_and_who_has_none_is_left_out():
    lines = lines_of(overview_markdown(POINTS, TABLES, ()), "forgetting [points] by partition.beta")
    assert [line[1] for line in lines[2:]] == ["5.0 ± 1.0", "**2.0** ± 1.0", "-", "-"]
    first = {**TABLES, "partition.beta=0.5": TABLES["partition.beta=0.5"][::-1]}  # the one without a figure is first
    lines = lines_of(overview_markdown(POINTS, first, ()), "forgetting [points] by partition.beta")
    assert [line[1] for line in lines[2:]] == ["-", "**2.0** ± 1.0", "5.0 ± 1.0", "-"]
    none = {name: [row("joint", 0.9, NAN)] for name in POINTS}
    assert lines_of(overview_markdown(POINTS, none, ()), "forgetting [points] by partition.beta")[2] == [
        "joint",
        "-",
        "-",
    ]


def test_what_lacks_updates_or_seeds_is_marked_and_the_marks_are_explained():
    tables = {
        "partition.beta=0.5": [row("a", 0.8, missing=2, asked=9), row("b", 0.7, runs=1)],
        "partition.beta=0.1": [row("a", 0.8), row("b", 0.7, tuned="on held-out images")],
    }
    text = overview_markdown(POINTS, tables, ())
    lines = lines_of(text, "final [%] by partition.beta")
    assert lines[2][1:] == ["**80.0** ± 1.0*", "**80.0** ± 1.0"]
    assert lines[3][1:] == ["70.0+", "70.0 ± 1.0"]
    assert "*: without some of the clients' updates." in text
    assert "+: fewer seeds than other rows." in text
    assert "Tuned on held-out images: b. Not tuned: a." in text
    plain = overview_markdown(POINTS, TABLES, ())
    assert "*:" not in plain
    assert "+:" not in plain


def test_latex_has_the_same_cells_escaped():
    text = overview_latex(POINTS, TABLES, {"joint"})
    assert text.count(r"\begin{tabular}{lrr}") == 3
    assert r"\paragraph{final [\%] by partition.beta}" in text
    assert r"a & \textbf{80.1} $\pm$ 1.0 & \textbf{70.2} $\pm$ 1.0 \\" in text
    assert r"c|\_d & - & 70.0 $\pm$ 1.0 \\" in text


def test_of_several_settings_each_column_has_the_values_in_the_order_of_the_title():
    values = [(b, r) for b in (0.5, 0.1) for r in (4, [6, 9])]
    points = {f"partition.beta={b},method.rank={r}": {"partition.beta": b, "method.rank": r} for b, r in values}
    tables = {name: [row("a", 0.5)] for name in points}
    lines = lines_of(overview_markdown(points, tables, ()), "final [%] by partition.beta, method.rank")
    assert lines[0] == ["method", "0.5, 4", "0.5, [6,9]", "0.1, 4", "0.1, [6,9]"]


def test_the_terminals_has_final_accuracies_without_bold():
    console = Console(file=io.StringIO(), width=80)
    console.print(overview_rich(POINTS, TABLES))
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    assert ["final", "[%]", "by", "partition.beta"] in lines
    assert ["a", "80.1", "±", "1.0", "70.2", "±", "1.0"] in lines
    assert "**" not in console.file.getvalue()


@pytest.mark.parametrize(("stream", "is_bound"), [("federated", False), ("at_once", True), (None, False)])
def test_bounds_are_rows_of_who_holds_all_data(stream, is_bound):
    run = {"label": "x", **({"stream": stream} if stream else {})}
    assert bounds_of([run]) == ({"x"} if is_bound else set())
