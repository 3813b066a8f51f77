"""Builds the documentation as a site: `make docs`, or `PYTHONPATH=docs python -m sitebuilder build/docs`.

The pages of `docs/` are copied beside pages that are generated (methods, settings, Python API, linked files), Zensical
makes HTML of them, and the HTML is checked: every link, every anchor, and that nothing is loaded from elsewhere.

links        links and headings of a Markdown text, outside code
navigation   `docs/zensical.toml`: a page that it does not list is an error
staging      the copy of `docs/`, with links that lead out of it turned into links that hold in the site
methods      a page for each method, from its class; `traffic` rehearses what it sends
settings     the settings of a run, and of what clients train
api          the pages for mkdocstrings
html         the check of the built site
building     all of it, in order
"""

from .building import build
from .trouble import Trouble

__all__ = ["Trouble", "build"]
