"""Bars on a terminal, and nothing or a line elsewhere."""

import io
import time

import pytest
from rich.console import Console

from fcil.data import progress


def console(terminal):
    return Console(file=io.StringIO(), force_terminal=terminal, width=100)


@pytest.fixture
def said(monkeypatch):
    """What is said on standard error, where two seconds of silence are a hundredth of one."""
    lines = []
    monkeypatch.setattr(progress, "SILENCE", 0.01)
    monkeypatch.setattr(progress, "tell", lines.append)
    return lines


def until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_a_moving_bar_says_on_a_terminal_what_goes_on_and_vanishes():
    shown = console(True)
    with progress.moving(shown, "loading [weights]") as step:
        step("merging ties(top = [1, 2])", 0.5)
        shown.print("a line")
    text = shown.file.getvalue()
    for words in ("loading [weights]", "merging ties(top = [1, 2])", "50 %", "a line"):
        assert words in text


def test_elsewhere_work_of_less_than_two_seconds_says_nothing(capsys):
    shown = console(False)
    with progress.moving(shown, "loading") as step:
        step("merging", 0.5)
    with progress.waiting(shown, "loading"), progress.waiting(None, "nowhere"):
        pass
    assert shown.file.getvalue() == ""
    assert capsys.readouterr() == ("", "")


def test_elsewhere_longer_work_is_named_once_and_not_on_standard_output(said):
    shown = console(False)
    with progress.moving(shown, "loading") as step:
        until(lambda: said)
        step("merging", 0.5)
        until(lambda: len(said) > 1)
        time.sleep(0.05)
    assert said == ["loading", "merging (50 % done)"]
    assert shown.file.getvalue() == ""


def test_a_line_that_was_heard_begins_the_silence_anew(said, monkeypatch):
    monkeypatch.setattr(progress, "SILENCE", 0.5)
    lines = progress.Lines("loading")
    for _ in range(30):  # without these the line would come after 0.5 s
        time.sleep(0.02)
        lines.heard()
    assert said == []
    lines.stop()


def test_on_a_terminal_waiting_shows_what_for_and_a_bar_meanwhile_takes_its_place(monkeypatch):
    shown, errors = console(True), console(True)
    monkeypatch.setattr(progress, "_console", lambda: errors)
    with progress.waiting(shown, "loading [code]") as step:
        outer = progress._MOVING[0]
        with progress.bar("unpacking", 2):
            assert not outer.live.is_started
            assert progress._MOVING[-1].live.is_started
        assert outer.live.is_started
        progress.tell("a line")
        step("checking")
    assert progress._MOVING == []
    assert "loading [code]" in shown.file.getvalue()
    assert "checking" in shown.file.getvalue()
    assert "a line" in errors.file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_of_units_is_one_line_where_there_is_no_terminal(terminal, monkeypatch):
    shown = console(terminal)
    monkeypatch.setattr(progress, "_console", lambda: shown)
    with progress.bar("unpacking a.zip", 2) as advance:
        advance(1)
        advance(1)
    assert "unpacking a.zip" in shown.file.getvalue()
    assert ("%" in shown.file.getvalue()) == terminal
