"""`fcil methods` says of a method what the method itself declares."""

import io
import re
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from rich.console import Console
from small import phase

from fcil.method import REPORT, TRAIN, Local, Method, Pass
from fcil.options import Option, describe
from fcil.registry import build_method, method_class, method_names
from fcil.report.methods import applies, method_page, methods_table, needs, source
from fcil.scenario.tasks import Task
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


def test_where_it_applies_is_what_its_settings_admit():
    @dataclass(frozen=True, kw_only=True)
    class Either(Draft):
        """Either."""

        at: Annotated[Literal["task", "round", "both"], Option("where")] = "task"

    @dataclass(frozen=True, kw_only=True)
    class Remembering(Draft):
        """Remembering."""

        remembers: bool = True

    @dataclass(frozen=True, kw_only=True)
    class Ordered(Remembering):
        """Ordered."""

        at: Annotated[Literal["task"], Option("where")] = "task"

    drafts = (Draft(), Either(), Remembering(), Ordered())
    assert [applies(m) for m in drafts] == ["rounds", "tasks, or rounds", "rounds, tasks", "tasks"]


def test_sources_are_arxiv_numbers():
    assert source("One line.\n\nA. Author, ICLR 2020, arXiv 2001.01234, and arXiv 2002.02345.") == "arXiv 2001.01234"
    assert source("of\narXiv\n2001.01234") == "arXiv 2001.01234"
    assert source("Nothing of 2001.01234.") == ""


@pytest.mark.parametrize("name", method_names())
def test_every_method_is_listed_with_its_line_and_has_a_page_with_its_settings(name):
    row = next(line for line in shown(methods_table([name])).splitlines() if line.strip().startswith(name))
    assert method_class(name).__doc__.partition("\n")[0] in row
    page = shown(method_page(name))
    for setting in describe(method_class(name)):
        line = next(line for line in page.splitlines() if re.match(rf"\s*{setting.name}\b", line))
        assert setting.option.help in line
    reports = any(build_method(name, {}).local(phase(r)).passes for r in (1, 2))
    ends = "report" in build_method(name, {}).phases(Task(0, 0, 1), 2)
    assert ("data-free" in row) == (not reports and not ends)
