"""Copies `docs/` for the site. Links that lead out of it become links that hold there too.

What a page links to                  what the site has
a page, picture or other file of docs/    the same
`strategies/`, `strategies/NAME.py`   the list of methods, the page of that method
`fcil/PACKAGE`                        the page of that package's API
any other text file                   a page that shows the file, in no navigation
a folder of docs/                     its `index.md`
"""

import re
import shutil
from collections.abc import Iterator
from os.path import relpath
from pathlib import Path, PurePosixPath

from .links import replaced, with_lists_apart
from .trouble import Trouble

__all__ = ["LANGUAGES", "Staging", "own_pages"]

LANGUAGES = {".py": "python", ".toml": "toml", ".sh": "bash", ".cff": "yaml", ".txt": "text", ".md": "markdown"}
"""Endings of files that get a page, with the language that colours them."""
_SHALLOW = re.compile(r"^ {1,3}(?:```|~~~)", re.MULTILINE)
TEXT = ("Makefile", "LICENSE")
BUILDER = "sitebuilder"
"""The folder of `docs/` that holds this code."""
HIDDEN = "---\nsearch:\n  exclude: true\n---\n\n"
"""Front matter of a page that search does not find."""


def own_pages(docs: Path) -> Iterator[str]:
    """Yield the pages that are written by hand, as paths inside `docs/`."""
    for path in sorted(docs.rglob("*.md")):
        if BUILDER not in path.relative_to(docs).parts:
            yield path.relative_to(docs).as_posix()


def _check_fences(page: str, text: str) -> None:
    """Refuse a fence in a list that GitHub sees and the site does not."""
    if shallow := _SHALLOW.search(text):
        line = text.count("\n", 0, shallow.start()) + 1
        raise Trouble(f"docs/{page}, line {line}: indent a fence in a list by four spaces, as the site needs it")


class Staging:
    """A copy of `docs/` on its way to the site."""

    def __init__(self, root: Path, pages: Path) -> None:
        """Begin with an empty folder.

        Args:
            root: the repository.
            pages: the folder for the pages, which is made anew.
        """
        self.root, self.docs, self.pages = root, root / "docs", pages
        self.shown: set[str] = set()
        """Files of the repository that have a page."""
        shutil.rmtree(pages, ignore_errors=True)
        pages.mkdir(parents=True)

    def write(self, page: str, text: str) -> None:
        """Write a page; its links may lead to files of the repository, as seen from `docs/`."""
        path = self.pages / page
        path.parent.mkdir(parents=True, exist_ok=True)
        text = replaced(with_lists_apart(text), lambda target: self._target(page, target))
        path.write_text(text, encoding="utf-8")

    def copy(self, left_out: set[str]) -> None:
        """Copy pages, pictures and other files.

        Args:
            left_out: pages in no navigation, which search does not find either.
        """
        for path in sorted(self.docs.rglob("*")):
            name = path.relative_to(self.docs).as_posix()
            if BUILDER in path.parts or path.is_dir() or path.suffix in (".py", ".toml", ".pyc"):
                continue
            if path.suffix == ".md":
                text = path.read_text(encoding="utf-8")
                _check_fences(name, text)
                self.write(name, (HIDDEN if name in left_out else "") + text)
            else:
                (self.pages / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, self.pages / name)

    def sources(self) -> None:
        """Write a page for every other file of the repository that a page links to."""
        for name in sorted(self.shown):
            path = self.root / name
            language = LANGUAGES.get(path.suffix, "text")
            text = path.read_text(encoding="utf-8")
            fence = "`" * 4
            page = (
                f"{HIDDEN}# {path.name}\n\n`{name}`, as it is in the repository.\n\n{fence}{language}\n{text}{fence}\n"
            )
            target = self.pages / self._source_page(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(page, encoding="utf-8")

    @staticmethod
    def _source_page(name: str) -> str:
        return f"files/{name}.md"

    def _target(self, page: str, target: str) -> str:
        """Translate a link of a page into one that holds in the site."""
        if target.startswith(("#", "http:", "https:", "mailto:")):
            return target
        file, _, anchor = target.partition("#")
        folder = PurePosixPath("docs", page).parent
        name = relpath((self.root / folder / file), self.root).replace("\\", "/")
        found = self._page_of(name, f"docs/{page}: link to {target}")
        return relpath(found, PurePosixPath(page).parent).replace("\\", "/") + (f"#{anchor}" if anchor else "")

    def _page_of(self, name: str, where: str) -> str:
        """Find the page or file of the site for a file of the repository.

        Raises:
            Trouble: there is none.
        """
        path = self.root / name
        inside = name.removeprefix("docs/")
        if name.startswith("docs/") and (self.pages / inside).is_file():
            return inside  # generated
        if not path.exists():
            raise Trouble(f"{where}: there is no {name}")
        if path == self.root / "strategies":
            return "methods/index.md"
        if path.parent == self.root / "strategies" and path.suffix == ".py" and not path.stem.startswith("_"):
            return f"methods/{path.stem}.md"
        if (page := f"api/{name.removeprefix('fcil/').removesuffix('.py')}.md") and (self.pages / page).is_file():
            return page
        if name.startswith("docs/") and path.is_dir():
            return f"{inside}/index.md"
        if name.startswith("docs/") and path.suffix not in (".py", ".toml"):
            return inside
        if path.is_file() and (path.suffix in LANGUAGES or path.name in TEXT):
            self.shown.add(name)
            return self._source_page(name)
        raise Trouble(f"{where}: {name} is outside of docs/ and not a text file, so the site cannot show it")
