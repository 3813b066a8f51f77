"""Checks the built site: links and anchors inside it, pictures, and that a page loads nothing from elsewhere."""

from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["complaints"]

_LOADS = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("video", "src")}
"""Tags whose attribute is fetched when a page is opened."""
_RELATIONS = {"stylesheet", "preload", "preconnect", "icon", "modulepreload", "dns-prefetch"}
"""Relations of a `link` tag that are fetched too."""


class _Page(HTMLParser):
    """The names and the links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.links: list[tuple[str, bool]] = []
        """Each address, and whether it is fetched when the page is opened."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect what a tag names and where it leads."""
        values = {name: value or "" for name, value in attrs}
        self.names |= {values[name] for name in ("id", "name") if name in values}
        for name in ("href", "src"):
            if name in values:
                fetched = (tag, name) in _LOADS or bool(
                    tag == "link" and _RELATIONS & set(values.get("rel", "").split())
                )
                self.links.append((values[name], fetched))


@cache
def _read(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def _complaint(path: Path, address: str, fetched: bool) -> str:
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return (
            f"loads {address}, but a page must load nothing from elsewhere"
            if fetched and parts.scheme != "data"
            else ""
        )
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if target.is_dir():
        target /= "index.html"
    if not target.exists():
        return f"link to {address}: there is no such file"
    if parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in _read(target).names:
        return f"link to {address}: there is no such anchor"
    return ""


def complaints(site: Path) -> list[str]:
    """Say what is wrong with a built site; nothing if all is well."""
    _read.cache_clear()
    found = []
    for path in sorted(site.rglob("*.html")):
        if path.name == "404.html":
            continue  # its links begin at the site's root, wherever that is
        for address, fetched in dict.fromkeys(_read(path).links):
            if complaint := _complaint(path, address, fetched):
                found.append(f"{path.relative_to(site)}: {complaint}")
    return found
