"""Find the columns of a table for images, labels, parts and domains: by usual names, or as `data.columns` says."""

from collections.abc import Sequence

from fcil.data.settings import Data
from fcil.data.splits import some
from fcil.errors import ConfigError
from fcil.options import nearest

__all__ = ["find_column", "named_columns"]

USUAL = {
    "image": ("image", "img", "path", "file", "filename", "file_name", "filepath", "image_path"),
    "label": ("label", "class", "target", "category", "class_name", "fine_label"),
    "split": ("split", "part", "subset"),
    "domain": ("domain",),
}
"""Content of a column -> the names by which it is found, in small letters."""
NEEDED = ("image", "label")


def named_columns(settings: Data) -> dict[str, str]:
    """Read `data.columns`: what a column holds -> its name; empty text for none.

    Raises:
        ConfigError: an entry is written otherwise, or speaks of something else.
    """
    named = {}
    for text in settings.columns:
        what, equals, name = (piece.strip() for piece in text.partition("="))
        if not equals or what not in USUAL:
            raise ConfigError(f'data.columns: {text!r}: write "image=NAME"; {nearest(what, USUAL)}')
        named[what] = name
    return named


def find_column(what: str, columns: Sequence[str], settings: Data, where: str) -> str:
    """The column that holds images, labels, parts or domains; empty where there is none and none is needed.

    Raises:
        ConfigError: there is no such column, or it cannot be told which of several.
    """
    named = named_columns(settings)
    if what in named:
        if named[what] and named[what] not in columns:
            raise ConfigError(f"data.columns: {where} has no column {named[what]!r}. {nearest(named[what], columns)}")
        return named[what]
    candidates = [column for column in columns if column.lower() in USUAL[what]]
    if len(candidates) == 1:
        return candidates[0]
    if not candidates and what not in NEEDED:
        return ""
    problem = f"several columns may hold the {what}: {some(candidates)}" if candidates else f"no column for the {what}"
    raise ConfigError(
        f'{where}: {problem}. Name it, data.columns = ["{what}=NAME"]; the columns are: {", ".join(columns)}'
    )
