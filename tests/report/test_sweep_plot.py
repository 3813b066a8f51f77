"""Plots of a sweep: values at their places, rows that a value lacks left out, a panel for each value of others."""

import math

import pytest

from fcil.config import grid
from fcil.report import sweep_plot
from fcil.report.rows import Row
from fcil.report.sweep_plot import accuracy_in_panels, accuracy_over_values, draw_sweep, measured_on, sweep_panels

NAN = math.nan


@pytest.fixture
def painted(monkeypatch):
    """Axes of the picture in place of a file."""
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.subplots()
    monkeypatch.setattr(sweep_plot, "draw", lambda path, size, paint: paint(figure, axes))
    return axes


def test_numbers_stand_at_their_place_in_their_order_whatever_the_order_of_runs(painted, tmp_path):
    accuracy_over_values(
        tmp_path / "a.png", "method.layers", ["6", "1", "12"], {"a": [(0.6, NAN), (0.1, NAN), (0.9, NAN)]}
    )
    line = painted.lines[0]
    assert list(line.get_xdata()) == [1, 6, 12]
    assert list(line.get_ydata()) == pytest.approx([10, 60, 90])
    assert painted.get_xscale() == "linear"
    assert painted.get_xlabel() == "method.layers"
    assert [tick.get_text() for tick in painted.get_xticklabels()] == ["6", "1", "12"]


def test_two_decades_are_logarithmic_and_words_stand_side_by_side(painted, tmp_path):
    accuracy_over_values(tmp_path / "a.png", "s", ["0.01", "1"], {"a": [(0.5, 0.1), (0.4, 0.1)]})
    assert painted.get_xscale() == "log"
    painted.clear()
    accuracy_over_values(tmp_path / "a.png", "s", ["b", "a"], {"x": [(0.5, NAN), (0.4, NAN)]})
    assert list(painted.lines[0].get_xdata()) == [0, 1]


def test_a_row_that_a_value_lacks_has_a_gap(painted, tmp_path):
    accuracy_over_values(
        tmp_path / "a.png", "s", ["1", "2"], {"a": [(0.5, NAN), (NAN, NAN)], "b": [(0.4, NAN), (0.3, NAN)]}
    )
    gap = painted.lines[0].get_ydata()
    assert gap[0] == pytest.approx(50)
    assert math.isnan(gap[1])
    low, high = painted.get_ylim()
    assert low < 30
    assert high > 50


def test_accuracies_of_other_than_test_images_are_said_to_be_so(painted, tmp_path):
    points, tables = swept({"m.x": [1, 2]}, held_out=0.2)
    draw_sweep(tmp_path, points, tables)
    assert painted.get_title("left").startswith("on training images that were held out")
    assert measured_on(swept({"m.x": [1, 2]}, evaluated_on="validation")[1]) == "on the validation part"
    assert measured_on(swept({"m.x": [1, 2]})[1]) == ""


def test_a_picture_is_written(tmp_path):
    accuracy_over_values(tmp_path / "a.png", "s", ["1"], {"a": [(0.5, 0.01)], "b": [(0.4, 0.02)]})
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(("values", "scale"), [
    (["3e-4", "1e-3", "3e-3"], "log"), (["2", "4", "8"], "log"), (["1", "2", "3"], "linear"),
    (["0.1", "0.5"], "linear"), (["4", "8", "12"], "linear"), (["-1", "0.1", "1"], "linear"),
])  # fmt: skip
def test_numbers_that_grow_by_factors_are_logarithmic(painted, tmp_path, values, scale):
    accuracy_over_values(tmp_path / "a.png", "s", values, {"a": [(0.5, NAN)] * len(values)})
    assert painted.get_xscale() == scale


def test_numbers_that_lie_close_together_are_logarithmic_too(painted, tmp_path):
    accuracy_over_values(tmp_path / "a.png", "rank", ["4", "8", "16", "64"], {"a": [(0.5, NAN)] * 4})
    assert painted.get_xscale() == "log"
    assert [tick.get_text() for tick in painted.get_xticklabels()] == ["4", "8", "16", "64"]
    assert not painted.get_xticks(minor=True).size
    painted.clear()
    accuracy_over_values(tmp_path / "a.png", "layer", [str(i) for i in range(1, 13)], {"a": [(0.5, NAN)] * 12})
    assert painted.get_xscale() == "linear"
    painted.clear()
    accuracy_over_values(tmp_path / "a.png", "zero", ["0", "1", "100"], {"a": [(0.5, NAN)] * 3})
    assert painted.get_xscale() == "linear"


def test_words_that_do_not_fit_side_by_side_stand_upright(painted, tmp_path):
    for length, angle in ((3, 0), (40, 90)):
        painted.clear()
        accuracy_over_values(tmp_path / "a.png", "s", [c * length for c in "abc"], {"x": [(0.5, NAN)] * 3})
        assert {tick.get_rotation() for tick in painted.get_xticklabels()} == {angle}


# ---- grids -----------------------------------------------------------------------------------------------------------


def swept(sweep, labels=("a", "b"), **changes):
    """Points of a sweep, and at each a row of every label whose accuracy tells label and point."""
    points = {point.name: dict(point.settings) for point in grid({"sweep": sweep})}
    tables = {
        name: [Row(label, 1, (0.01 * number + 0.001 * i,) * 7, (NAN,) * 7, **changes) for i, label in enumerate(labels)]
        for number, name in enumerate(points)
    }
    return points, tables


def test_there_is_a_picture_for_each_setting_and_a_panel_for_each_value_of_the_others():
    points, tables = swept({"m.x": [1, 2, 3], "m.y": [[4], [5, 6]], "m.z": ["one"]})
    pictures = {setting: (values, panels) for setting, values, panels, _ in sweep_panels(points, tables)}
    assert list(pictures) == ["m.x", "m.y"], "nothing to see over a setting with one value"
    values, panels = pictures["m.x"]
    assert values == ["1", "2", "3"]
    assert list(panels) == ["m.y = [4]", "m.y = [5,6]"]
    number = {(settings["m.x"], str(settings["m.y"])): i for i, settings in enumerate(points.values())}
    for y, title in (([4], "m.y = [4]"), ([5, 6], "m.y = [5,6]")):
        for i, label in enumerate("ab"):
            expected = [0.01 * number[x, str(y)] + 0.001 * i for x in (1, 2, 3)]
            assert [mean for mean, _ in panels[title][label]] == pytest.approx(expected)
    assert list(pictures["m.y"][1]) == ["m.x = 1", "m.x = 2", "m.x = 3"]


def test_a_sweep_of_a_single_point_has_no_picture(tmp_path):
    points, tables = swept({"m.x": [1]})
    assert draw_sweep(tmp_path, points, tables) == []
    assert not list(tmp_path.iterdir())


def test_three_settings_have_panels_in_rows_and_columns():
    points, tables = swept({"m.x": [1, 2], "m.y": [1, 2, 3], "m.z": [1, 2, 3, 4]})
    assert [(setting, len(panels), columns) for setting, _, panels, columns in sweep_panels(points, tables)] == [
        ("m.x", 12, 4), ("m.y", 8, 4), ("m.z", 6, 3)
    ]  # fmt: skip


def test_a_single_row_has_one_panel_with_a_line_for_each_value_of_the_others():
    points, tables = swept({"m.x": [1, 2], "m.y": [1, 2, 3]}, ["only"])
    (_, _, panels, _), _ = sweep_panels(points, tables)
    assert {title: list(curves) for title, curves in panels.items()} == {"only": ["m.y = 1", "m.y = 2", "m.y = 3"]}


def test_settings_side_by_side_are_one_axis(tmp_path):
    points, tables = swept({"m.x": [1, 1.5], "m.y": [3, 4], "zip": True})
    ((setting, values, panels, _),) = sweep_panels(points, tables)
    assert (setting, values, list(panels)) == ("m.x, m.y", ["1, 3", "1.5, 4"], [""])
    draw_sweep(tmp_path, points, tables)
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.png"]


def test_a_row_with_losses_is_one_line_that_names_them_all():
    points, tables = swept({"m.x": [1, 2]}, missing=2, asked=10)
    tables["m.x=1"] = swept({"m.x": [1]}, asked=10)[1]["m.x=1"]
    ((_, _, panels, _),) = sweep_panels(points, tables)
    assert list(panels[""]) == ["a (2 of 20 updates missing)", "b (2 of 20 updates missing)"]


def test_pictures_of_a_grid_are_written_with_common_axes(tmp_path, monkeypatch):
    points, tables = swept({"m.x": [1, 2, 3], "m.y": [1, 2, 3, 4, 5]})
    seen = {}
    draw = sweep_plot.draw

    def listening(path, size, paint):
        def painted(figure, axes):
            paint(figure, axes)
            seen[path.name] = [(panel.get_title("left"), panel.get_ylim()) for panel in figure.axes]

        draw(path, size, painted)

    monkeypatch.setattr(sweep_plot, "draw", listening)
    draw_sweep(tmp_path, points, tables)
    assert {path.name for path in tmp_path.iterdir()} == {"sweep-m.x.png", "sweep-m.y.png"} == set(seen)
    assert [title for title, _ in seen["sweep-m.x.png"]] == [f"m.y = {y}" for y in range(1, 6)]
    assert len({limits for _, limits in seen["sweep-m.x.png"]}) == 1
    accuracy_in_panels(tmp_path / "b.png", "s", ["1"], {"p": {"a": [(0.5, 0.1)]}, "q": {"a": [(NAN, NAN)]}})
    assert (tmp_path / "b.png").read_bytes()[:4] == b"\x89PNG"
