"""Bars on a terminal, and nothing or a line elsewhere."""

import io

import pytest
from rich.console import Console

from fcil.data import progress


def console(terminal):
    return Console(file=io.StringIO(), force_terminal=terminal, width=100)


def test_a_moving_bar_says_on_a_terminal_what_goes_on_and_vanishes():
    shown = console(True)
    with progress.moving(shown, "loading [weights]") as step:
        step("merging ties(top = [1, 2])", 0.5)
        shown.print("a line")
    text = shown.file.getvalue()
    for words in ("loading [weights]", "merging ties(top = [1, 2])", "50 %", "a line"):
        assert words in text


def test_elsewhere_it_says_nothing():
    shown = console(False)
    with progress.moving(shown, "loading") as step:
        step("merging", 0.5)
    assert shown.file.getvalue() == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_of_units_is_one_line_where_there_is_no_terminal(terminal, monkeypatch):
    shown = console(terminal)
    monkeypatch.setattr(progress, "_console", lambda: shown)
    with progress.bar("unpacking a.zip", 2) as advance:
        advance(1)
        advance(1)
    assert "unpacking a.zip" in shown.file.getvalue()
    assert ("%" in shown.file.getvalue()) == terminal
