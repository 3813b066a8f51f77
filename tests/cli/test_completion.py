"""What the shell is offered at Tab."""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from fcil.cli.completion import OPTIONS, SHELLS, values_of
from fcil.cli.main import main
from fcil.config import SECTIONS

ROOT = Path(__file__).parents[2]


def offered(option, prefix, *settings):
    args = argparse.Namespace(config=ROOT / "configs" / "quickstart.toml", set=list(settings))
    return OPTIONS[option](prefix=prefix, parsed_args=args)


def test_settings_are_completed_section_by_section():
    assert offered("set", "par") == ["partition."]
    assert set(offered("set", "")) == {f"{name}." for name in (*SECTIONS, "method")}
    assert offered("set", "partition.bet") == ["partition.beta="]
    assert offered("set", "nonsense.") == []
    assert offered("set", "run.nonsense=") == []


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("run.exchange=", ["run.exchange=inline", "run.exchange=ray"]),
        ("run.diagnostics=t", ["run.diagnostics=true"]),
        ("method.name=lorm", ["method.name=lorm", "method.name=lorm+ranpac"]),
        ("data.name=fa", ["data.name=fashion-mnist"]),
        ("train.lr=", []),
    ],
)
def test_values_that_are_words_are_completed(prefix, expected):
    assert offered("set", prefix) == expected


def test_a_methods_own_settings_are_those_of_the_one_that_is_named():
    assert "method.gram_b=" in offered("set", "method.")  # of the file's
    assert "method.gram_b=" not in offered("set", "method.", "method.name=fedavg")
    assert offered("set", "method.", "method.name=of_nobody") == []


def test_of_several_words_the_last_is_completed():
    assert offered("methods", "lorm,ri") == ["lorm,ridge"]
    assert offered("log", "csv,w") == ["csv,wandb"]
    assert offered("sweep", "run.diagnostics=true,f") == ["run.diagnostics=true,false"]


def test_words_of_a_type():
    assert values_of(bool) == ["true", "false"]
    assert values_of(float | Literal["auto", "gcv"]) == ["auto", "gcv"]
    assert values_of(tuple[int, ...]) == values_of(str) == values_of(None) == []


def test_a_shell_that_asks_is_answered(tmp_path):
    pytest.importorskip("argcomplete", reason="argcomplete is not installed: pip install fcil[completion]")
    line = "fcil run configs/quickstart.toml --set method.gram_b="
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"}
    env = (
        os.environ | asked | {"_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "out"), "_ARGCOMPLETE_COMP_WORDBREAKS": ""}
    )
    code = "import sys; from fcil.cli.main import main; sys.exit(main())"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, check=True, timeout=60)
    assert (tmp_path / "out").read_text().split() == ["method.gram_b=exact", "method.gram_b=diagonal"]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_of_every_shell_is_printed(shell, capsys):
    pytest.importorskip("argcomplete", reason="argcomplete is not installed: pip install fcil[completion]")
    assert main(["completion", shell]) == 0
    assert "_ARGCOMPLETE" in capsys.readouterr().out


def test_without_the_package_its_command_is_told(monkeypatch, capsys):
    for name in ("argcomplete", "argcomplete.shell_integration"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["completion", "bash"]) == 2
    assert 'pip install "fcil[completion]"' in capsys.readouterr().err
