"""`fcil check-method` as a person sees it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from own_methods import MINE, write

from fcil.cli.main import main

ROOT = Path(__file__).parents[2]
CRASH = MINE + "\n    def loss(self, step):\n        return nothing\n"


def test_a_good_method_has_a_line_for_every_check(tmp_path, monkeypatch, capsys):
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["check-method", "mine.py:Mine", "--set", "pull=0.1", "--set", "method.rank=3"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) == 17
    assert all(line[0] in "✓–" or line.startswith(("ok ", "- ")) for line in lines)
    assert any("The order of clients does not matter" in line and line.endswith(" s") for line in lines)
    assert last.startswith("mine.py:Mine keeps to the contract: 16 checks in ")


def test_what_fails_is_told_with_its_line_and_exit_code_1(tmp_path, monkeypatch, capsys):
    write(tmp_path, source=CRASH)
    monkeypatch.chdir(tmp_path)
    assert main(["check-method", "mine.py"]) == 1
    output = capsys.readouterr()
    lines = output.out.splitlines()
    at = next(k for k, line in enumerate(lines) if "A run over two tasks goes through" in line)
    assert lines[at].startswith(("✗", "FAILS"))
    assert lines[at + 1] == "    task 1, round 1: client 0's work raised NameError: name 'nothing' is not defined"
    assert lines[at + 2] == f"    mine.py:{len(CRASH.splitlines())}"
    assert "(the run broke off before any client had answered)" in output.out
    assert output.err.startswith("fcil: mine.py: 1 of 17 checks failed, in ")


def test_a_default_out_of_its_range_fails(tmp_path, monkeypatch, capsys):
    write(tmp_path, source=MINE.replace("= 0.5", "= -0.5"))
    monkeypatch.chdir(tmp_path)
    assert main(["check-method", "mine.py"]) == 1
    assert "the default of setting pull = -0.5: must be at least 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.py"], "no such file: nowhere.py"),
        (["fedavgg"], "Did you mean 'fedavg'?"),
        (["fedavg", "--set", "rnk=2"], "method.rnk (fedavg): unknown setting. Did you mean 'rank'?"),
        (["fedavg", "--set", "rank"], "write it as key=value"),
        (["fedavg", "--set", "train.lr=2"], "write it as key=value"),
        (["fedavg", "--set", "rank=0"], "at least 1"),
        (["fedavg", "--set", "rank=100"], "width 32"),
    ],
)
def test_a_mistake_in_what_is_given_is_exit_code_2(words, message, capsys):
    assert main(["check-method", *words]) == 2
    assert message in capsys.readouterr().err


def test_marks_are_ascii_where_nothing_else_can_be_printed(tmp_path):
    path = write(tmp_path, source=CRASH)
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "fcil.cli", "check-method", str(path)], env=env, cwd=tmp_path, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stdout.isascii()
    assert "FAILS A run over two tasks goes through" in done.stdout
