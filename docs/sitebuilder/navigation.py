"""Reads `docs/zensical.toml`: the navigation, which must have every page, and the builder's other settings.

In the navigation `{ "Title" = "folder/" }` stands for all pages of a generated folder.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from .trouble import Trouble

__all__ = ["Folders", "check", "expanded", "listed", "titles"]

Nav = list[Any]
Folders = Mapping[str, Nav]
"""`folder/` -> the navigation of the pages in it."""


def expanded(nav: Nav, folders: Folders) -> Nav:
    """Put the pages of generated folders in the place of the folders.

    Raises:
        Trouble: a folder that nothing is generated for.
    """
    out: Nav = []
    for entry in nav:
        if isinstance(entry, Mapping):
            ((name, value),) = entry.items()
            entry = {name: expanded(value if isinstance(value, list) else [value], folders)}
            if not isinstance(value, list) and not value.endswith("/"):
                entry = {name: value}
            out.append(entry)
        elif entry.endswith("/"):
            if entry not in folders:
                raise Trouble(f"docs/zensical.toml: nav: {entry!r}: generated are {', '.join(sorted(folders))}")
            out += folders[entry]
        else:
            out.append(entry)
    return out


def titles(nav: Nav, above: str = "") -> Iterator[tuple[str, str]]:
    """Yield each page with its title in the navigation."""
    for entry in nav:
        if isinstance(entry, Mapping):
            ((name, value),) = entry.items()
            yield from titles(value, name) if isinstance(value, list) else [(value, name)]
        else:
            yield entry, above


def listed(nav: Nav) -> list[str]:
    """List the pages of a navigation in its order."""
    return [page for page, _ in titles(nav)]


def check(nav: Nav, pages: set[str], left_out: set[str]) -> None:
    """Compare the navigation with the pages that there are.

    Args:
        left_out: pages that are on purpose in no navigation.

    Raises:
        Trouble: names every page that is listed and missing, not listed, or listed twice.
    """
    named = listed(nav)
    complaints = [f"nav lists {page}, which does not exist" for page in named if page not in pages]
    complaints += [f"nav lists {page} twice" for page in sorted({p for p in named if named.count(p) > 1})]
    complaints += [f"not_in_nav lists {page}, which does not exist" for page in sorted(left_out - pages)]
    complaints += [
        f'docs/{page} is in no navigation: add {{ "Title" = "{page}" }} to nav where a reader looks for it, or '
        f"{page} to not_in_nav"
        for page in sorted(pages - set(named) - left_out)
    ]
    if complaints:
        raise Trouble("\n".join(f"docs/zensical.toml: {complaint}" for complaint in complaints))
