"""`fcil methods` says of a method what the method itself declares."""

import io
import re
from dataclasses import dataclass

import pytest
from rich.console import Console
from small import phase

from fcil.cli.main import main
from fcil.method import REPORT, TRAIN, Local, Method, Pass, Task
from fcil.options import describe
from fcil.registry import build_method, method_class, method_names
from fcil.report.methods import method_info, method_page, methods_table, needs, source
from fcil.statistics.inputs import InputEnergy, InputGram


def shown(renderable, width=300):
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    return console.file.getvalue()


@dataclass(frozen=True, kw_only=True)
class Draft(Method):
    """A draft."""

    def phases(self, task, rounds):
        return (TRAIN,) * rounds + (REPORT,)

    def local(self, phase):
        return Local(passes=(Pass((InputGram(),) if phase.kind == "report" else (InputEnergy(),)),))


def test_what_is_needed_is_what_the_phases_ask_for():
    assert needs(Draft()) == "input energy; at a task's end input gram"


def test_what_it_merges_is_what_the_method_declares():
    result = {name: build_method(name, {}).merges for name in ("fedavg", "ties", "lorm", "opcm", "ridge", "joint")}
    assert result == {
        "fedavg": "rounds, inexactly (arrays, not changes)", "ties": "tasks, or rounds",
        "lorm": "rounds, tasks", "opcm": "tasks",
        "ridge": "sums, once a task", "joint": "nothing (one client)",
    }  # fmt: skip


def test_sources_are_arxiv_numbers():
    assert source("One line.\n\nA. Author, ICLR 2020, arXiv 2001.01234, and arXiv 2002.02345.") == "arXiv 2001.01234"
    assert source("of\narXiv\n2001.01234") == "arXiv 2001.01234"
    assert source("Nothing of 2001.01234.") == ""


def test_the_list_fits_80_columns_and_says_a_sentence_of_each(capsys):
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == method_names()
    for name in method_names():
        summary = method_info(name).summary
        assert summary[0].isupper()
        assert summary.endswith(".")
        assert len(summary) <= 76, name


@pytest.mark.parametrize("name", method_names())
def test_every_method_is_listed_with_its_line_and_has_a_page_with_its_settings(name):
    row = next(line for line in shown(methods_table([name])).splitlines() if line.strip().startswith(name))
    assert method_class(name).__doc__.partition("\n")[0] in row
    page = shown(method_page(name))
    for setting in describe(method_class(name)):
        line = next(line for line in page.splitlines() if re.match(rf"\s*{setting.name}\b", line))
        assert setting.option.help in line
    works = [build_method(name, {}).acting(phase(r)).local(phase(r)) for r in (1, 2)]
    reports = any(work.passes or work.training or work.computed for work in works)
    ends = "report" in build_method(name, {}).phases(Task(0, 0, 1), 2)
    assert method_info(name).reports in page
    assert ("data-free" in method_info(name).reports) == (not reports and not ends)
