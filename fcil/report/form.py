"""Choose the form in which figures are written: file formats, a width for print, and the range of accuracy axes."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import Self

from fcil.errors import ConfigError

__all__ = ["FORMATS", "WIDTHS", "Form", "form", "written_as"]

FORMATS = ("png", "svg", "pdf")
WIDTHS = {"column": 3.25, "text": 6.75}
"""Inches of a column and of the whole text in the two-column style of most conferences."""
NARROW = 4.5
"""Inches; legends of narrower figures lie below the axes."""


@dataclass(frozen=True)
class Form:
    """The form of figures. Text keeps its size in points whatever the width, so that it is readable as printed.

    Raises:
        ConfigError: a format that is not known, or none.
    """

    formats: tuple[str, ...] = ("png",)
    """Formats of files; each figure is written in every one of them."""
    width: str = ""
    """A name of `WIDTHS`; empty: each figure has the width that suits it."""
    zoom: bool = False
    """Let accuracy axes hold the values closely, in place of 0 to 100 %."""

    def __post_init__(self) -> None:
        if unknown := [name for name in self.formats if name not in FORMATS]:
            raise ConfigError(f"--format {','.join(unknown)}: must be among {','.join(FORMATS)}")
        if not self.formats:
            raise ConfigError(f"--format: name at least one of {','.join(FORMATS)}")
        if self.width and self.width not in WIDTHS:
            raise ConfigError(f"--width {self.width}: must be one of {', '.join(WIDTHS)}")

    @property
    def narrow(self) -> bool:
        """Tell whether a legend beside the axes would leave too little room for them."""
        return 0 < self.inches(0) < NARROW

    def inches(self, usual: float) -> float:
        """Return the width that was asked for, or the usual one of a figure where none was."""
        return WIDTHS.get(self.width, usual)

    def options(self) -> list[str]:
        """Write the form as options of a command, for processes that draw as this one does."""
        width = ["--width", self.width] if self.width else []
        return ["--format", ",".join(self.formats), *width, *(["--zoom"] if self.zoom else [])]

    def written(self) -> str:
        """Write the form as JSON, for a process of ours elsewhere."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Self:
        """Read what `written` wrote."""
        table = json.loads(text)
        return cls(**{**table, "formats": tuple(table["formats"])})


_form: ContextVar[Form] = ContextVar("form", default=Form())  # noqa: B039  (it is frozen)


def form() -> Form:
    """Return the form in which figures are written here."""
    return _form.get()


@contextmanager
def written_as(chosen: Form) -> Iterator[None]:
    """Write all figures in this form until the context ends; other threads keep theirs.

    >>> with written_as(Form(formats=("pdf",), width="column")):
    ...     form().inches(5.0)
    3.25
    """
    token = _form.set(chosen)
    try:
        yield
    finally:
        _form.reset(token)
