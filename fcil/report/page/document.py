"""Put a page together: one file of HTML with its style and script in it, which may load nothing from anywhere."""

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib import metadata
from importlib.resources import files
from pathlib import Path

from fcil.engine.grid import GRID, run_state
from fcil.errors import ConfigError
from fcil.report.grid_view import GridView
from fcil.report.html import made_of
from fcil.report.page.comparison_parts import filter_form, results_sections, runs_table, standing
from fcil.report.page.parts import Section, paragraph
from fcil.report.page.phase_parts import phase_name
from fcil.report.page.run_parts import run_sections
from fcil.report.page.subject import Subject, of_comparison, of_runs
from fcil.report.run_result import Run
from fcil.words import counted

__all__ = ["policy", "report_page", "run_page", "subject_page"]

MOST_RUNS = 24
"""Runs of which a page of several tells all; of more only tables, since the file would grow by 100 kB a run."""


@cache
def _asset(name: str) -> str:
    return (files("fcil.report.page") / name).read_text()


@cache
def policy() -> str:
    """Say what a browser may load for a page: its style, the one script whose hash this names, and newer versions."""
    digest = base64.b64encode(hashlib.sha256(_asset("script.js").encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'"
    )


def _document(
    title: str, lead: str, sections: Sequence[tuple[str, Section]], seconds: float = 0, above: str = ""
) -> str:
    """Write a page of HTML out of its sections.

    Args:
        lead: HTML below the title.
        sections: anchor and section.
        seconds: between two looks for a newer page, where it is served; 0 for a file.
        above: HTML above the sections.
    """
    shown = [(anchor, section) for anchor, section in sections if section.body]
    links = "".join(
        f'<li{made_of(section.runs)}><a href="#{anchor}">{escape(section.title)}</a></li>' for anchor, section in shown
    )
    body = "".join(section.html(anchor) for anchor, section in shown)
    live = f'<p id="live" role="status" class="dim" data-seconds="{seconds:g}">live</p>' if seconds else ""
    again = f'<noscript><meta http-equiv="refresh" content="{4 * seconds:g}"></noscript>' if seconds else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy())}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title>{again}'
        f"<style>{_asset('style.css')}</style></head><body>"
        f'<a class="skip" href="#content">Skip to the content</a>{live}<div id="page">'
        f"<header><h1>{escape(title)}</h1>{lead}</header>"
        f'<nav aria-label="Contents"><ul>{links}</ul></nav>'
        f'<main id="content" tabindex="-1">{above}{body}</main>'
        f'<footer class="dim">Made by fcil {escape(metadata.version("fcil"))} from the records of the runs.</footer>'
        f"</div><script>{_asset('script.js')}</script></body></html>\n"
    )


def _anchor(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def run_page(run: Run, seconds: float = 0, back: str = "") -> str:
    """Write the page of one run.

    Args:
        seconds: see `_document`.
        back: where the page of the comparison is that the run belongs to.
    """
    state, name = run_state(run.folder), run.folder.resolve().name
    link = f'<p><a href="{escape(back)}">All runs</a></p>' if back else ""
    if state == "not begun":
        return _document(name, paragraph("not begun") + link, [], seconds)
    data, census = run.config.data.name, run.census
    clients = f", {counted(census.clients, 'client')}" if census else ""
    lead = paragraph(f"{data}{clients}, run folder {name}; {state}{_place(run) if state == 'running' else ''}") + link
    return _document(run.title, lead, [(_anchor(s.title), s) for s in run_sections(run)], seconds)


def _place(run: Run) -> str:
    """Say in which phase a run is."""
    phases = [event for event in run.events if event["event"] == "phase"]
    return f", task {phases[-1]['task'] + 1}, {phase_name(phases[-1])}" if phases else ""


def _run_folds(subject: Subject) -> str:
    """Tell all of every run, each behind a line that opens it."""
    parts = []
    for number, entry in enumerate(subject.entries):
        place = f"run-{number + 1}"
        title = f"{entry.label}, seed {entry.facts['seed']}" + ("" if entry.state == "finished" else f", {entry.state}")
        varied = ", ".join(f"{k} = {v}" for k, v in entry.facts.items() if k not in ("method", "seed"))
        sections, name = _sections_of(entry.run, entry.state), f"{place}-name"
        inner = "".join(s.html(f"{place}-{_anchor(s.title)}", 3, name) for s in sections)
        summary = f'<summary id="{name}">{escape(f"{title} ({varied})" if varied else title)}</summary>'
        parts.append(f'<details class="run" id="{place}"{made_of([number])}>{summary}{inner}</details>')
    return "".join(parts)


def _sections_of(run: Run, state: str) -> list[Section]:
    return run_sections(run) if state != "not begun" else []


def subject_page(
    subject: Subject,
    seconds: float = 0,
    targets: Sequence[str] = (),
    view: GridView | None = None,
    results: Sequence[Section] | None = None,
) -> str:
    """Write the page of several runs.

    Args:
        seconds: see `_document`.
        targets: where the page of each run is; without them their parts are in this one, folded.
        view: where the runs of a comparison stand.
        results: `results_sections` of the subject, where they are made already.
    """
    entries, sections = subject.entries, [Section("Where the runs stand", standing(view))] if view else []
    sections += results_sections(subject) if results is None else results
    places = targets or [f"#run-{i + 1}" for i in range(len(entries))] if len(entries) <= MOST_RUNS else targets
    sections.append(Section("Runs", runs_table(entries, places)))
    if not targets:
        content = _run_folds(subject) if places else paragraph(
            f"Of more than {MOST_RUNS} runs the page has tables only; `fcil report RUN --html FILE` tells all of one."
        )  # fmt: skip
        sections.append(Section("Each run", content))
    return _document(subject.title, "", [(_anchor(s.title), s) for s in sections], seconds, filter_form(entries))


def report_page(folders: Sequence[Path]) -> str:
    """Write the page of a comparison, of one run, or of several that are compared.

    Raises:
        ConfigError: a folder that holds neither, or a comparison among others.
    """
    comparisons = [folder for folder in folders if (folder / GRID).exists()]
    if comparisons and len(folders) > 1:
        raise ConfigError(f"{comparisons[0]}: is a comparison, which has a page of its own; name it alone")
    if comparisons:
        subject = of_comparison(folders[0])
        return subject_page(subject, view=GridView(subject.cells, folders[0]))
    subject = of_runs(folders)
    return run_page(subject.entries[0].run) if len(folders) == 1 else subject_page(subject)
