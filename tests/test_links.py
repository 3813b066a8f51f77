"""Links between the pages of the repository lead to a file that there is, and to a heading that it has."""

from functools import cache
from pathlib import Path

import pytest

from sitebuilder.links import anchors, headings, links, slug, with_lists_apart, without_code

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


@cache
def anchors_of(path):
    return anchors(path.read_text())


def complaints(page):
    """What is wrong with the links of a page."""
    for _, target in links(page.read_text()):
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        if target.startswith(("https:", "http:", "mailto:")):
            continue
        if not path.exists():
            yield f"{target}: there is no such file"
        elif anchor and anchor not in anchors_of(path):
            yield f"{target}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert not list(complaints(page))


def test_there_are_links_and_anchors_to_check():
    targets = [link.target for page in PAGES for link in links(page.read_text())]
    assert len(targets) > 150
    assert sum("#" in target for target in targets) > 15


def test_a_link_to_nowhere_is_found(tmp_path):
    page = tmp_path / "a.md"
    (tmp_path / "b.md").write_text("# Here\n\n```\n# not a heading\n```\n")
    page.write_text(
        "# A\n\n[a](b.md) [b](b.md#here) [c](c.md) [d](b.md#there) [e](b.md#not-a-heading) [f](#a) `[g](g)`\n"
    )
    assert [complaint.partition(":")[0] for complaint in complaints(page)] == [
        "c.md", "b.md#there", "b.md#not-a-heading",
    ]  # fmt: skip


def test_code_holds_no_links():
    text = "a `x[0](y)` b\n\n```python\nz[1](w)\n```\n\n~~~\n[k](l)\n~~~\n\n``a ` [m](n)`` ![o](p.png)\n"
    assert [link.target for link in links(text)] == ["p.png"]
    assert len(without_code(text)) == len(text)


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("`fcil plan`: before a run", "fcil-plan-before-a-run"),
        ("a & b", "a--b"),
        ("[x](y.md) c_i", "x-c_i"),
        ("É é", "é-é"),
    ],
)
def test_headings_are_named_as_github_names_them(heading, anchor):
    assert slug(heading) == anchor


def test_the_second_heading_of_a_name_has_a_number_and_ids_count():
    text = '# A\n\n## B\n\n## B\n\n<a id="own"></a>\n'
    assert anchors(text) == {"a", "b", "b-1", "own"}
    assert headings(text) == ["A", "B", "B"]


def test_a_list_after_a_paragraph_stands_apart_and_the_rest_stays():
    text = "a\n- b\n  c\n- d\n\n```\ne\n- f\n```\n1. g\n"
    assert with_lists_apart(text) == "a\n\n- b\n  c\n- d\n\n```\ne\n- f\n```\n\n1. g\n"
