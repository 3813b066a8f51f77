"""Builds the site, step by step, and is strict: whatever is not right ends it with a message."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import tomli_w
from rich.console import Console
from rich.progress import track

from . import html, navigation
from .api import api_pages
from .links import headings
from .methods import grouped, method_nav, method_pages
from .settings import settings_page
from .staging import Staging, own_pages
from .traffic import Rehearsed
from .trouble import Trouble

__all__ = ["ROOT", "build", "run_zensical", "stage"]

ROOT = Path(__file__).parents[2]
"""The repository."""


def _settings(docs: Path) -> tuple[dict[str, Any], set[str]]:
    """Read `zensical.toml`, and from it the pages that are in no navigation."""
    settings = tomllib.loads((docs / "zensical.toml").read_text(encoding="utf-8"))
    return settings, set(settings["project"].pop("not_in_nav", "").split())


def _decisions(docs: Path, own: list[str]) -> tuple[str, list[Any]]:
    """Write the list of decisions, and their navigation."""
    pages = [page for page in own if re.match(r"decisions/\d+-", page)]
    titles = {page: headings((docs / page).read_text(encoding="utf-8"))[0] for page in pages}
    lines = "".join(f"- [{titles[page]}]({page.removeprefix('decisions/')})\n" for page in pages)
    text = f"# Decisions\n\nWhy things are as they are: what was asked, what was chosen, and what follows.\n\n{lines}"
    return text, [{"All decisions": "decisions/index.md"}, *({titles[page]: page} for page in pages)]


def run_zensical(folder: Path) -> None:
    """Let Zensical build `folder`, strictly.

    Raises:
        Trouble: it warned or failed, or is not installed.
    """
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    environment = {
        **os.environ,
        "NO_COLOR": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "docs"), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    if "No module named zensical" in said:
        raise Trouble('the site is built by Zensical, which is not installed: pip install -e ".[docs]"')
    if done.returncode or "Warning" in said:
        raise Trouble(f"Zensical is not content:\n{said.partition('Traceback')[0].strip()}")


def _rehearsed(groups: dict[str, list[str]]) -> dict[str, Rehearsed]:
    from .rehearsal import rehearse  # needs torch, which takes seconds to import

    names = [name for names in groups.values() for name in names]
    return rehearse(track(names, "What methods send", console=Console(stderr=True), transient=True))


def stage(folder: Path, *, traffic: bool = True) -> None:
    """Write all pages and the builder's settings into `folder`.

    Args:
        traffic: rehearse every method and say what it sends, which takes some twenty seconds.

    Raises:
        Trouble: the navigation and the pages differ, or a link leads nowhere.
    """
    docs = ROOT / "docs"
    settings, left_out = _settings(docs)
    own = list(own_pages(docs))
    decisions, decision_nav = _decisions(docs, own)
    apis, groups = api_pages(), grouped()
    folders = {"methods/": method_nav(), "decisions/": decision_nav, "api/": list(apis)}
    nav = settings["project"]["nav"] = navigation.expanded(settings["project"]["nav"], folders)
    guides = {
        page: (name, (docs / page).read_text(encoding="utf-8"))
        for page, name in navigation.titles(nav)
        if page in own and page != "index.md" and not page.startswith("decisions/")
    }  # fmt: skip
    rehearsed = _rehearsed(groups) if traffic else {}
    generated = {
        "decisions/index.md": decisions, "settings.md": settings_page(), **apis, **method_pages(guides, rehearsed)
    }  # fmt: skip
    navigation.check(nav, {*own, *generated}, left_out)
    staging = Staging(ROOT, folder / "pages")
    for page in generated:
        (staging.pages / page).parent.mkdir(parents=True, exist_ok=True)
        (staging.pages / page).touch()  # so that links to it are known
    for page, text in generated.items():
        staging.write(page, text)
    staging.copy(left_out)
    staging.sources()
    (staging.pages / "assets").mkdir(exist_ok=True)
    shutil.copyfile(docs / "sitebuilder" / "site.css", staging.pages / "assets" / "site.css")
    (folder / "zensical.toml").write_text(tomli_w.dumps(settings), encoding="utf-8")


def build(folder: Path, *, traffic: bool = True) -> Path:
    """Build the site in `folder`, and return where its HTML is.

    Args:
        traffic: rehearse every method and say what it sends, which takes some twenty seconds.

    Raises:
        Trouble: says what is not right, and where.
    """
    stage(folder, traffic=traffic)
    site = folder / "site"
    shutil.rmtree(site, ignore_errors=True)
    run_zensical(folder)
    if found := html.complaints(site):
        raise Trouble("The built site is not right:\n" + "\n".join(found))
    return site
