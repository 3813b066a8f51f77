"""A run that merged without some updates says so beside all its figures; one without losses says nothing of it."""

import csv
import io
import json

import numpy as np
import pytest
from test_tables_and_plots import CORRECT, TOTAL, run_of, shown

from fcil.engine.simulation import prepare, simulate
from fcil.exchange.inline import Inline
from fcil.report import comparison, comparison_plots, figure, tables
from fcil.report import diagnostics as drawn_diagnostics
from fcil.report import rows as rows_of
from fcil.report.missing_updates import missing_updates
from fcil.report.run import draw_run
from fcil.server.replies import Failure

CLEAN = run_of("fedavg", refused=0, asked=30)
LOSSY = [run_of("lorm", 0, refused=3, asked=30), run_of("lorm", 1, refused=0, asked=30)]


@pytest.mark.parametrize(
    ("runs", "text"),
    [
        ([CLEAN], ""), ([run_of()], ""), (LOSSY[:1], "3 of 30 updates missing"), (LOSSY, "3 of 60 updates missing"),
        ([run_of(refused=1)], "1 update missing"), ([*LOSSY, run_of(refused=2)], "5 updates missing"),
    ],
)  # fmt: skip
def test_missing_updates_in_words(runs, text):
    """A summary of before `asked` was recorded leaves the number out: it would be too small."""
    assert missing_updates(runs) == text


def test_the_table_of_a_run_says_of_how_many():
    text = shown(tables.run_table(LOSSY[0], CORRECT, TOTAL))
    assert "3 of 30" in next(line for line in text.splitlines() if "updates refused or missing" in line)
    assert "missing" not in shown(tables.run_table(CLEAN, CORRECT, TOTAL))


def test_every_table_of_a_comparison_says_it_on_the_row():
    rows = rows_of.compare_rows([*LOSSY, CLEAN])
    for text in (shown(tables.to_rich(rows), 160), tables.to_markdown(rows), tables.to_latex(rows)):
        assert "missing" in text
        (row,) = [line for line in text.splitlines() if "lorm" in line]
        assert "3 of 60" in row
        (row,) = [line for line in text.splitlines() if "fedavg" in line]
        assert "0 of 30" in row
    first, second = csv.DictReader(io.StringIO(tables.to_csv(rows)))
    assert (first["method"], first["updates_missing"], first["updates_asked"]) == ("lorm", "3", "60")
    assert (second["method"], second["updates_missing"], second["updates_asked"]) == ("fedavg", "0", "30")
    body = [line for line in tables.to_latex(rows).splitlines() if line.endswith(r"\\")]
    assert {line.count("&") for line in body} == {len(rows_of.COLUMNS) + 2}
    assert {line.count("|") for line in tables.to_markdown(rows).splitlines()} == {len(rows_of.COLUMNS) + 4}


def test_tables_without_losses_do_not_mention_them():
    rows = rows_of.compare_rows([CLEAN])
    for text in (shown(tables.to_rich(rows)), tables.to_markdown(rows), tables.to_latex(rows), tables.to_csv(rows)):
        assert "missing" not in text


def curves(run, value):
    return {**run, "correct": CORRECT, "total": TOTAL, "value": value, "swept": {"a.b": int(value[-1])}, "settings": {}}


def test_a_sweep_keeps_its_columns_and_its_pictures_name_the_loss(tmp_path, monkeypatch):
    named = {}
    for plot in ("accuracy_over_tasks", "accuracy_against_traffic", "accuracy_against_seconds"):
        monkeypatch.setattr(
            comparison_plots, plot, lambda path, runs, *_: named.setdefault(path.parent.name, []).extend(runs)
        )
    for value in ("a.b=1", "a.b=2"):
        (tmp_path / value).mkdir()
    comparison.write_comparison(tmp_path, [curves(CLEAN, "a.b=1"), *(curves(run, "a.b=2") for run in LOSSY)])
    lost = "lorm (3 of 60 updates missing)"
    assert named == {"a.b=1": ["fedavg"] * 3, "a.b=2": [lost] * 3}
    assert "missing" not in (tmp_path / "a.b=1" / "comparison.csv").read_text()
    together = list(csv.DictReader((tmp_path / "comparison.csv").read_text().splitlines()))
    assert [(row["a.b"], row["updates_missing"], row["updates_asked"]) for row in together] == [
        ("1", "0", "30"), ("2", "3", "60")
    ]  # fmt: skip


@pytest.fixture
def texts(monkeypatch):
    """What is written in pictures, by file name."""
    result, draw = {}, figure.draw

    def listening(path, size, paint):
        def painted(figure, axes):
            paint(figure, axes)
            said = [t.get_text() for t in figure.findobj(lambda artist: hasattr(artist, "get_text"))]
            result[path.name] = "\n".join(said)

        draw(path, size, painted)

    monkeypatch.setattr("fcil.report.plots.draw", listening)
    monkeypatch.setattr(drawn_diagnostics, "draw", listening)
    return result


class Losing(Inline):
    """Client 1 is lost in the first phase."""

    def __call__(self, request):
        for reply in super().__call__(request):
            yield Failure(1, "ill") if (request.phase.index, reply.client) == (0, 1) else reply


@pytest.mark.parametrize("exchange", [Inline, Losing])
def test_a_run_counts_whom_it_asked_and_its_pictures_say_who_is_missing(digits_config, tmp_path, texts, exchange):
    config = digits_config(
        {"data": {"train_limit": 60, "test_limit": 20}, "method": {"name": "fedavg", "rank": 2}},
        {"run": {"diagnostics": True}},
    )
    session = prepare(config, tmp_path / "run")
    summary = simulate(session, tmp_path / "run", exchange=exchange(session.worker))
    draw_run(session, tmp_path / "run", summary)
    assert (summary["refused"], summary["asked"]) == (int(exchange is Losing), 12)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["asked"] == 12
    about_results = {"accuracy.png", "matrix.png", "kinship_clients.png", "kinship_tasks.png", "intruders.png"}
    assert about_results | {"clients.png"} == texts.keys()
    for name in about_results:
        assert ("1 of 12 updates missing" in texts[name]) == (exchange is Losing), name
        assert ("missing" in texts[name]) == (exchange is Losing), name


def test_a_title_of_two_lines_is_not_cut_off(tmp_path):
    from PIL import Image

    from fcil.report.plots import accuracy_heatmap

    accuracy_heatmap(tmp_path / "a.png", np.full((2, 2), 0.5), "lorm+ranpac on digits\n3 of 60 updates missing")
    with Image.open(tmp_path / "a.png") as image:
        grey = np.asarray(image.convert("L"))
    assert (np.concatenate([grey[:2].ravel(), grey[-1], grey[:, -1]]) == 255).all()
