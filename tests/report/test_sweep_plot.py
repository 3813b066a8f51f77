"""The plot of a sweep: values at their places, rows that a value lacks left out."""

import math

import pytest

from fcil.report import sweep_plot
from fcil.report.sweep_plot import accuracy_over_values

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


def test_a_picture_is_written(tmp_path):
    accuracy_over_values(tmp_path / "a.png", "s", ["1"], {"a": [(0.5, 0.01)], "b": [(0.4, 0.02)]})
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
