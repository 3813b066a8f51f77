"""The documentation as a site: built strictly, every page in the navigation, nothing loaded from elsewhere."""

import doctest
import json
import re
from dataclasses import MISSING, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import pytest

import fcil
import sitebuilder.links
from fcil.config import SECTIONS
from fcil.options import Option, describe
from fcil.registry import method_names
from sitebuilder import Trouble, building, html, methods, navigation
from sitebuilder import __main__ as command
from sitebuilder.docstrings import escaped, markdown
from sitebuilder.staging import Staging
from sitebuilder.tables import settings_table
from sitebuilder.traffic import Rehearsed, traffic_section

ROOT = Path(__file__).parent.parent
needs_builder = pytest.mark.skipif(
    not (find_spec("zensical") and find_spec("mkdocstrings_handlers")),
    reason='builds the site, which takes the extra "docs": pip install -e ".[docs]"',
)


# ---- the whole site, as `make docs` builds it but for the rehearsals -------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return building.build(tmp_path_factory.mktemp("docs"), traffic=False)  # strict: it raises where anything is wrong


def text_of(page):
    return re.sub(r"<[^>]+>", "", page.read_text().partition("<article")[2].partition("</article>")[0])


@needs_builder
def test_the_site_is_built_strictly_and_has_what_it_generates(site):
    for name in method_names():
        page = text_of(site / "methods" / methods.file_of(name).replace(".md", ".html"))
        assert all(setting.name in page for setting in describe(methods.method_class(name, name))), name
    settings = text_of(site / "settings.html")
    assert all(setting.name in settings for schema in SECTIONS.values() for setting in describe(schema))
    api = (site / "api" / "fcil.html").read_text()
    assert not [name for name in fcil.__all__ if f'id="fcil.{name}"' not in api]
    assert "Raises:" in text_of(site / "api" / "fcil.html")
    assert "&lt;k&gt;" in (site / "methods" / "lorm.html").read_text()  # of "sketch:<k>", which is no tag
    # the log is there for those who follow a link to it, and nowhere where a reader looks for help
    assert (site / "log.html").exists()
    assert not [entry for entry in json.loads((site / "search.json").read_text())["items"] if "log.html" in str(entry)]
    assert 'href="log.html"' not in (site / "index.html").read_text()


# ---- strictness ------------------------------------------------------------------------------------------------------


def test_a_page_that_no_navigation_lists_is_an_error_that_says_what_to_do():
    nav = [{"Start": "index.md"}, {"More": [{"A": "a.md"}, {"A again": "a.md"}, {"Gone": "gone.md"}]}]
    with pytest.raises(Trouble) as trouble:
        navigation.check(nav, {"index.md", "a.md", "new.md", "log.md"}, {"log.md", "old.md"})
    assert [line.removeprefix("docs/zensical.toml: ") for line in str(trouble.value).splitlines()] == [
        "nav lists gone.md, which does not exist",
        "nav lists a.md twice",
        "not_in_nav lists old.md, which does not exist",
        'docs/new.md is in no navigation: add { "Title" = "new.md" } to nav where a reader looks for it, '
        "or new.md to not_in_nav",
    ]
    navigation.check(nav[:1], {"index.md", "log.md"}, {"log.md"})


def test_a_generated_folder_stands_for_its_pages_and_an_unknown_one_is_an_error():
    folders = {"methods/": [{"All": "methods/index.md"}, {"Merges": [{"lorm": "methods/lorm.md"}]}]}
    nav = [{"Start": "index.md"}, {"Methods": ["methods/", {"Guide": "guide.md"}]}, {"Again": "methods/"}]
    whole = navigation.expanded(nav, folders)
    generated = ["methods/index.md", "methods/lorm.md"]
    assert navigation.listed(whole) == ["index.md", *generated, "guide.md", *generated]
    assert dict(navigation.titles(whole))["guide.md"] == "Guide"
    with pytest.raises(Trouble, match="'other/'"):
        navigation.expanded([{"X": ["other/"]}], folders)


def test_every_shipped_method_is_in_one_group_and_a_name_that_is_none_is_an_error(monkeypatch):
    groups = methods.grouped()
    assert sorted(name for names in groups.values() for name in names) == sorted(method_names())
    assert {"joint", "alone"} <= set(groups["Bounds"])  # one is listed, one is found by who has its data
    monkeypatch.setitem(methods.GROUPS, "Baselines", ("", "lorm brand_new"))
    with pytest.raises(Trouble, match=r"must be brand_new, lorm$"):
        methods.grouped()


@pytest.fixture
def repository(tmp_path):
    """A little repository, and the staging of its site."""
    files = (
        "docs/more/b.md docs/images/p.png docs/examples/e.py docs/sitebuilder/x.md strategies/lorm.py configs/c.toml"
    )
    for name in [*files.split(), "fcil/method/__init__.py", "Makefile", "picture.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text\n")

    def stage(text):
        (tmp_path / "docs" / "more" / "b.md").write_text(text)
        staging = Staging(tmp_path, tmp_path / "build")
        staging.write("api/method.md", "# M\n")
        staging.copy({"more/b.md"})
        staging.sources()
        return staging.pages

    return stage


def test_links_out_of_the_pages_hold_in_the_site(repository):
    held = {
        "../images/p.png": "../images/p.png",
        "../../strategies/lorm.py#x": "../methods/lorm.md#x",
        "../../strategies": "../methods/index.md",
        "../../fcil/method": "../api/method.md",
        "../../configs/c.toml": "../files/configs/c.toml.md",
        "../examples/e.py": "../files/docs/examples/e.py.md",
        "../../Makefile": "../files/Makefile.md",
        "https://x.org/y": "https://x.org/y",
        "#here": "#here",
    }
    pages = repository("\n".join(f"[a]({link})" for link in held) + "\n`[a](../../strategies)`\n")
    staged = (pages / "more" / "b.md").read_text()
    assert re.findall(r"\]\((.*?)\)", staged) == [*held.values(), "../../strategies"]
    assert "exclude: true" in staged  # it is in no navigation
    assert "```python\ntext" in (pages / "files" / "docs" / "examples" / "e.py.md").read_text()
    assert not (pages / "sitebuilder").exists()


@pytest.mark.parametrize(
    ("link", "why"),
    [
        ("../gone.md", "there is no docs/gone.md"),
        ("../../picture.png", "cannot show"),
        ("../../configs", "cannot show"),
    ],
)
def test_a_link_that_the_site_cannot_follow_is_an_error(repository, link, why):
    with pytest.raises(Trouble, match=rf"docs/more/b.md: link to {re.escape(link)}: .*{why}"):
        repository(f"[a]({link})\n")


def test_a_fence_that_the_site_would_not_see_is_an_error(repository):
    repository("- a\n\n    ```\n    b\n    ```\n")
    with pytest.raises(Trouble, match=r"docs/more/b\.md, line 3: indent"):
        repository("- a\n\n  ```\n  b\n  ```\n")


def test_the_html_is_checked_for_links_anchors_and_what_is_loaded_from_elsewhere(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "index.html").write_text('<h1 id="here">x</h1><a href="../a.html#top">a</a>')
    good = '<a id="top"></a><a href="sub/#here">b</a><a href="https://x.org">c</a><img src="data:image/png;base64,">'
    (tmp_path / "a.html").write_text(good)
    assert html.complaints(tmp_path) == []
    bad = (
        '<a href="sub/#there">b</a><a href="no.html">b</a><img src="no.png"><script src="https://x.org/x.js"></script>'
    )
    fonts = '<link rel="stylesheet" href="https://fonts.org/x"><link rel="canonical" href="https://x.org/a">'
    (tmp_path / "a.html").write_text(good + bad + fonts)
    assert [complaint.partition(",")[0] for complaint in html.complaints(tmp_path)] == [
        "a.html: link to sub/#there: there is no such anchor",
        "a.html: link to no.html: there is no such file",
        "a.html: link to no.png: there is no such file",
        "a.html: loads https://x.org/x.js",
        "a.html: loads https://fonts.org/x",
    ]


@needs_builder
def test_what_the_builder_warns_of_is_an_error(tmp_path):
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "index.md").write_text("# A\n\n[b](b.md) [c](index.md#c)\n")
    (tmp_path / "zensical.toml").write_text('[project]\nsite_name = "x"\ndocs_dir = "pages"\n')
    with pytest.raises(Trouble, match=r"(?s)b\.md.*page does not exist|page does not exist.*anchor does not exist"):
        building.run_zensical(tmp_path)


def test_the_command_says_what_is_wrong_and_ends_with_1(monkeypatch, capsys):
    def broken(folder, traffic):
        raise Trouble(f"{folder}: {traffic}")

    monkeypatch.setattr(command, "build", broken)
    assert command.main(["out", "--no-traffic"]) == 1
    assert capsys.readouterr().err == "out: False\n"


# ---- docstrings and tables -------------------------------------------------------------------------------------------


def test_docstrings_become_markdown():
    doc = """Sum x[i] * y <k>, `a[i] * b`.

    With G_i it is

        z = x^T [y]
          + 1

    after arXiv 2410.17961, arXiv: 1602.05629.

    >>> [1]
    [1]

    Args:
        one, two_b: a * b
            and on.
        three: c.

    Raises:
        Wrong: d.
    """
    assert markdown(doc) == (
        "Sum x\\[i\\] \\* y &lt;k>, `a[i] * b`.\n\nWith G_i it is\n\n\n```text\nz = x^T [y]\n  + 1\n```\n\n"
        "after [arXiv 2410.17961](https://arxiv.org/abs/2410.17961), "
        "[arXiv 1602.05629](https://arxiv.org/abs/1602.05629).\n\n\n"
        "```pycon\n>>> [1]\n[1]\n```\n\n\n"
        "Args:\n    one: a \\* b\n        and on.\n    two_b: a \\* b\n        and on.\n"
        "    three: c.\n\nRaises:\n    Wrong: d."
    )
    assert escaped("plain `*`") == "plain `*`"


@dataclass(frozen=True)
class Example:
    must: Annotated[int, Option("must be given", "images", low=1)]
    kind: Annotated[Literal["a", "b"], Option("one | other")] = "a"
    some: Annotated[tuple[str, ...], Option("list <x>")] = ("u", "v")
    rate: Annotated[float | None, Option("rate", above=0, high=1)] = None
    on: bool = True


def test_settings_become_a_table():
    rows = [
        line.strip("|").split(" | ") for line in settings_table(describe(Example)).splitlines() if line.startswith("| ")
    ]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["setting", "default", "admits", "unit", "meaning"],
        ["---"] * 5,
        ["`must`", "required", "integer >= 1", "images", "must be given"],
        ["`kind`", '`"a"`', '"a" \\| "b"', "", "one \\| other"],
        ["`some`", '`["u", "v"]`', "list of text", "", "list &lt;x>"],
        ["`rate`", "none", "number > 0, &lt;= 1", "", "rate"],
        ["`on`", "`true`", "true or false", "", ""],
    ]
    assert describe(Example)[0].default is MISSING
    assert "no settings" in settings_table([])


def test_traffic_is_what_the_formulas_say():
    from fcil.model.backbone import Model, describe_backbone
    from sitebuilder.rehearsal import rehearse

    (ncm,) = rehearse(["ncm"]).values()  # float64 sums of features of width 128, and counts, of five classes
    assert [(what, up) for what, up, _ in ncm.phases] == [(f"task {t}, report", (128 * 5 + 5) * 8) for t in (1, 2)]
    (ffa,) = rehearse(["ffa"]).values()
    outputs = sum(out for out, _ in describe_backbone(Model()).linears.values())
    assert ffa.phases[1][1:] == (4 * (16 * outputs + 5 * 129),) * 2  # B alone, and head rows of five classes
    section = traffic_section(
        Rehearsed((("task 1, report", 5160.0, 0.0),), {"head": 1500, "none": 0}, {"own/a": 1000, "own/b": 500})
    )
    assert "| task 1, report | 5.2 | 0.0 |" in section
    assert "end, in kB: `head` 1.5." in section
    assert "phases, in kB: `own` 1.5." in section


def test_examples_give_what_they_show():
    assert doctest.testmod(sitebuilder.links).attempted >= 4
    assert not doctest.testmod(sitebuilder.links).failed
