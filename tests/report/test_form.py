"""The form of figures: formats, widths of print, axes of 0 to 100, and labels that leave each other readable."""

import re
from io import StringIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fcil.cli.main import main
from fcil.errors import ConfigError
from fcil.report import cost_plots, plots
from fcil.report.comparison_plots import draw_table_plots, seconds_points
from fcil.report.cost_plots import place_labels
from fcil.report.form import FORMATS, WIDTHS, Form, form, written_as
from fcil.report.rows import compare_rows

CURVES = {"lorm": np.array([[0.9, 0.8], [0.8, 0.7]]), "fedavg": np.array([0.7, 0.3])}


def test_each_format_has_a_file_and_equal_figures_equal_bytes(tmp_path):
    with written_as(Form(FORMATS)):
        for name in ("a", "b"):
            plots.accuracy_over_tasks(tmp_path / f"{name}.png", CURVES)
    assert {p.name for p in tmp_path.iterdir()} == {f"{name}.{kind}" for name in "ab" for kind in FORMATS}
    for kind in FORMATS:
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
    pdf = (tmp_path / "a.pdf").read_bytes()
    assert b"/Type3" not in pdf
    assert b"/FontFile2" in pdf, "the font is embedded as TrueType"
    assert b"CreationDate" not in pdf
    svg = (tmp_path / "a.svg").read_text()
    assert "<dc:date>" not in svg
    assert ">tasks learned</text>" in svg, "text stays text"


@pytest.mark.parametrize(("rows", "bands"), [(plots.BANDS, plots.BANDS), (plots.BANDS + 1, 0)])
def test_bands_are_drawn_while_they_can_be_told_apart_and_the_title_says_so(tmp_path, rows, bands):
    curves = {f"row {i}": np.array([[0.9, i / 20], [0.8, i / 30]]) for i in range(rows)}
    with written_as(Form(("svg",))):
        plots.accuracy_over_tasks(tmp_path / "a.png", curves)
    svg = (tmp_path / "a.svg").read_text()
    assert svg.count(".band0") == bands
    assert ("± 1 std" in svg) == (bands > 0)
    assert ("their spread is in the table" in svg) == (bands == 0)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_figure_for_print_is_as_wide_as_asked(tmp_path, width):
    with written_as(Form(width=width)):
        plots.accuracy_over_tasks(tmp_path / "curves.png", CURVES)
        plots.class_holders(tmp_path / "holders.png", np.ones((3, 4), int), list("abcd"), [2, 2])
    for path in tmp_path.iterdir():
        with Image.open(path) as image:
            assert image.width == pytest.approx(200 * WIDTHS[width], abs=1), path.name
            grey = np.asarray(image.convert("L"))
        assert (grey[:, -1] == 255).all(), f"{path.name}: something is cut off at the right"


def test_accuracies_have_axes_of_0_to_100_unless_zoomed():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    plots.percent_axis(axes, np.array([40.0, 45.0]))
    assert axes.get_ylim() == (-2, 102)
    with written_as(Form(zoom=True)):
        plots.percent_axis(axes, np.array([40.0, 45.0]))
    assert 30 < axes.get_ylim()[0] < 40
    assert 45 < axes.get_ylim()[1] < 55
    assert form() == Form(), "a context leaves nothing behind"


@pytest.mark.parametrize("wrong", [{"formats": ("gif",)}, {"formats": ()}, {"width": "page"}])
def test_a_form_that_does_not_exist_is_refused(wrong):
    with pytest.raises(ConfigError, match="--"):
        Form(**wrong)


def test_the_command_line_refuses_a_format_before_anything_is_done(capsys, tmp_path):
    assert main(["report", str(tmp_path), "--format", "png,gif"]) == 2
    assert "--format gif: must be among png,svg,pdf" in capsys.readouterr().err


def test_options_are_read_back_as_the_same_form():
    from fcil.cli.arguments import figure_form
    from fcil.cli.main import _parser

    for chosen in (Form(), Form(("svg", "pdf"), "column", True)):
        assert figure_form(_parser().parse_args(["report", "run", *chosen.options()])) == chosen


def overlap(a, b):
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


@given(seed=st.integers(0, 1000), count=st.integers(1, 15))
def test_labels_cover_neither_each_other_nor_points_where_there_is_room(seed, count):
    rng = np.random.default_rng(seed)
    places = rng.uniform(150, 850, (count, 2))
    sizes = np.stack([rng.uniform(20, 60, count), np.full(count, 8.0)], 1)
    dots = np.hstack([places - 3, places + 3])
    boxes = place_labels(places, sizes, dots, np.array([0, 0, 1000, 1000.0]))
    np.testing.assert_allclose(boxes[:, 2:] - boxes[:, :2], sizes)
    for i, box in enumerate(boxes):
        assert box.min() >= 0
        assert box.max() <= 1000
        assert not any(overlap(box, dot) > 1e-9 for dot in dots)
        assert not any(overlap(box, boxes[j]) > 1e-9 for j in range(i))
        nearest = np.clip(places[i], box[:2], box[2:])
        assert np.hypot(*(nearest - places[i])) <= cost_plots.REACHES[-1] + 1e-9


def test_labels_without_room_still_stand_somewhere():
    boxes = place_labels(np.zeros((9, 2)), np.full((9, 2), 50.0), np.zeros((0, 4)), np.array([-5, -5, 5, 5.0]))
    assert np.isfinite(boxes).all()


def run_of(label, **changes):
    return {
        "label": label, "seed": 0, "final_accuracy": 0.5, "final_accuracy_task_mean": 0.5, "average_accuracy": 0.5,
        "forgetting": 0.0, "upload_bytes": 10**6, "download_bytes": 10**6, "seconds": {"total": 4.0},
        "correct": [[5]], "total": [10], **changes,
    }  # fmt: skip


def test_only_honest_times_are_plotted_and_a_picture_of_before_goes_away(tmp_path):
    runs = [run_of("alone"), run_of("reusing", reused=3), run_of("resumed", resumed=1)]
    rows = compare_rows(runs)
    assert {label: cost for label, (_, _, cost) in seconds_points(rows).items() if cost > 0} == {"alone": 4.0}
    draw_table_plots(tmp_path, rows, runs)
    assert {p.name for p in tmp_path.iterdir()} == {"accuracy.png", "traffic.png", "seconds.png"}
    draw_table_plots(tmp_path, rows[1:], runs[1:])
    assert not (tmp_path / "seconds.png").exists()
    text = StringIO()
    cost_plots.accuracy_against_seconds(text, seconds_points(rows))
    assert "not timed alone, so left out: 2" in text.getvalue()
    assert re.search(r">alone</text>", text.getvalue())
    assert ">resumed<" not in text.getvalue()
