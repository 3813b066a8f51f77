"""Writes a page for every shipped method, from its class, and one that lists them all."""

import re
from collections.abc import Iterable, Mapping
from inspect import cleandoc

from fcil.method import Method
from fcil.options import describe
from fcil.registry import method_class, method_names
from fcil.report.methods import MethodInfo, method_info

from .docstrings import markdown
from .links import headings, slug
from .tables import cell, settings_table, table
from .traffic import Rehearsed, traffic_section
from .trouble import Trouble

__all__ = ["GROUPS", "file_of", "grouped", "method_nav", "method_pages"]

GROUPS = {
    "Merges": (
        "Clients train in every task; the server makes one model of theirs, over clients, over tasks or both.",
        "fedavg ffa rolora fedex flora flexlora lorm regmean fisher mats task_arithmetic ties dare knots core_space "
        "tsv iso opcm magmax consensus emr kinship compose vpt",
    ),
    "Closed forms": (
        "The head is solved from sums that clients send once a task. Hybrids adapt the backbone first.",
        "ncm ridge ranpac lorm+ranpac stsa ccvr",
    ),
    "Baselines": (
        "Methods of federated and of continual learning, to compare with.",
        "fedprox scaffold fedavgm fedadam fedproto lwf ewc er derpp icarl l2p dualprompt codaprompt pilora fot dolfin",
    ),
    "Bounds": ("Without clients: what training could reach, and what it forgets.", "joint sequential"),
}
"""Group -> what its methods have in common, and their names in the order of the site. Names that are not here come
after those of the baselines, or of the bounds where one client has all the data."""


def grouped() -> dict[str, list[str]]:
    """List the names of the shipped methods by group.

    Raises:
        Trouble: a group names a method that is not shipped, or that another one has.
    """
    groups = {group: names.split() for group, (_, names) in GROUPS.items()}
    listed = [name for names in groups.values() for name in names]
    if wrong := {name for name in listed if listed.count(name) > 1 or name not in method_names()}:
        raise Trouble(
            f"docs/sitebuilder/methods.py: GROUPS: shipped and in one group must be {', '.join(sorted(wrong))}"
        )
    for name in sorted(set(method_names()) - set(listed)):
        groups["Baselines" if method_class(name, repr(name)).stream == "federated" else "Bounds"].append(name)
    return groups


def file_of(name: str) -> str:
    """Name the page of a method, and without its ending the module: `lorm+ranpac` is `lorm_ranpac`."""
    return f"{name.replace('+', '_')}.md"


def _paper(info: MethodInfo) -> str:
    """Write the source, as a link where it is on arXiv."""
    number = info.source.removeprefix("arXiv ")
    return f"[{info.source}](https://arxiv.org/abs/{number})" if info.source else ""


def _facts(info: MethodInfo, kind: type[Method], seen_on: Iterable[tuple[str, str]]) -> str:
    rows = [
        ("In a configuration", f'`[method]` with `name = "{info.name}"`'),
        ("Merges", cell(info.merges)),
        ("Clients report beside weights", cell(info.reports)),
    ]
    rows += [("Source", _paper(info))] if info.source else []
    rows += (
        [("Pages that speak of it", ", ".join(f"[{title}](../{page})" for page, title in seen_on))] if seen_on else []
    )
    rows += [("Code", f"`{kind.__name__}` in `strategies/{file_of(info.name)[:-3]}.py`")]
    body = "\n".join(f"| **{what}** | {value} |" for what, value in rows)
    return f'<div class="facts" markdown>\n\n| | |\n| --- | --- |\n{body}\n\n</div>\n\n'


def method_page(name: str, seen_on: Iterable[tuple[str, str]], rehearsed: Rehearsed | None) -> str:
    """Write the page of a method: docstring, facts, settings, and what a rehearsal of it sent.

    Args:
        seen_on: other pages that name it, each with its title.
    """
    info, kind = method_info(name), method_class(name, repr(name))
    body = cleandoc(kind.__doc__ or "").partition("\n")[2].strip("\n")
    parts = [f"# {name}\n", f"**{cell(info.summary)}**\n", _facts(info, kind, list(seen_on)), markdown(body), ""]
    parts += ["## Settings\n", settings_table(describe(kind))]
    parts += [traffic_section(rehearsed)] if rehearsed else []
    return "\n".join(parts)


def _index(groups: Mapping[str, list[str]]) -> str:
    count = sum(map(len, groups.values()))
    parts = [
        f"# Methods\n\nThere are {count}. Each page is generated from the method's class: what it does, its equations, "
        "its settings, and what it sends.\n`fcil methods` lists them, `fcil methods NAME` shows one. A method of your "
        "own is one class in a file of yours: [write your own method](../adding-a-method.md).\n"
    ]
    for group, names in groups.items():
        infos = map(method_info, names)
        rows = [(f"[`{i.name}`]({file_of(i.name)})", cell(i.summary), _paper(i)) for i in infos]
        parts += [f"## {group}\n", f"{GROUPS[group][0]}\n", table(("method", "what it does", "source"), rows)]
    return "\n".join(parts)


def _seen_on(name: str, pages: Mapping[str, tuple[str, str]]) -> list[tuple[str, str]]:
    """List the pages that name a method, each with its title; those with a section on it first, at that section."""
    named = re.compile(rf"`(?:name = \"|method\.name=)?{re.escape(name)}(?:\(.*?\))?\"?`")
    found: dict[str, tuple[str, str]] = {}
    for page, (title, text) in pages.items():
        about = [h for h in headings(text)[1:] if name in re.split(r", | and |: ", _as_name(h))]
        if about:
            found[page] = (f"{page}#{slug(about[0])}", f"{title}: {about[0]}")
    others = {page: (page, title) for page, (title, text) in pages.items() if named.search(text)}
    return list({**found, **{page: link for page, link in others.items() if page not in found}}.values())


def _as_name(heading: str) -> str:
    """Write a heading as names of methods are written: `DER++` is `derpp`."""
    return re.sub(r"[`*-]", "", heading).lower().replace("++", "pp")


def method_pages(pages: Mapping[str, tuple[str, str]], rehearsed: Mapping[str, Rehearsed]) -> dict[str, str]:
    """Write all pages of methods by their names, the list first.

    Args:
        pages: pages that may speak of a method: page -> title and text.
        rehearsed: what a rehearsal of a method sent, for those that have one.
    """
    groups = grouped()
    written = {"methods/index.md": _index(groups)}
    for name in (name for names in groups.values() for name in names):
        written[f"methods/{file_of(name)}"] = method_page(name, _seen_on(name, pages), rehearsed.get(name))
    return written


def method_nav() -> list[object]:
    """Lay out the navigation of the methods' pages."""
    groups = [{group: [{n: f"methods/{file_of(n)}"} for n in names]} for group, names in grouped().items()]
    return [{"All methods": "methods/index.md"}, *groups]
