"""Lets griffe, which reads the code for mkdocstrings, give every docstring as Markdown."""

from typing import Any

import griffe

from sitebuilder.docstrings import markdown

__all__ = ["DocstringExtension"]


class DocstringExtension(griffe.Extension):
    """An extension of griffe that rewrites docstrings."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of an object that was just read."""
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)
