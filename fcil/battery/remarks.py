"""Remarks on a method's own file: what is no mistake by itself, and often one."""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fcil.method import Adapter, Method
from fcil.method.defaults import unannotated
from fcil.registry.misnamed import uncalled

__all__ = ["Remark", "remarks"]

NEAR = 0.5
"""Likeness from which a name of the contract is suggested for a function that nothing calls."""


@dataclass(frozen=True)
class Remark:
    """Something in a method's file that its author may want to look at."""

    message: str
    place: str = ""
    """`file.py:12`, where that is known."""


def remarks(kind: type[Method]) -> list[Remark]:
    """List what is odd in the file that defines a method, which is read and not run."""
    module = sys.modules[kind.__module__]
    path = Path(getattr(module, "__file__", None) or "")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    here = [one for one in vars(module).values() if isinstance(one, type) and one.__module__ == module.__name__]
    kinds = list(dict.fromkeys(one for one in [*kind.__mro__, *here] if one.__module__ == module.__name__))
    messages = [pair for one in kinds for pair in _of_class(one)]
    told = [Remark(message, _place(path, lines, *where)) for where, message in messages]
    return [*told, *(Remark(line.strip(' #"'), f"{path}:{n}") for n, line in enumerate(lines, 1) if "TODO" in line)]


def _of_class(kind: type) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield remarks on a class, each with the class's name and a pattern of its line."""
    if Method not in kind.__mro__ and Adapter not in kind.__mro__:
        return
    for name, value in unannotated(kind).items():
        written = f'{name}: Annotated[{type(value).__name__}, Option("what it means")] = {value!r}'
        message = f"{name} = {value!r} is a constant of {kind.__name__} and no setting, as it has no annotation: write "
        yield (kind.__name__, rf"\s+{name}\b\s*="), f"{message}{written}, or {name.upper()} for a constant"
    for name, meant in uncalled(kind, NEAR).items():
        guess = f"; did you mean {meant!r}?" if meant else ""
        message = f"nothing in this file calls {kind.__name__}.{name}, which is no function of the contract{guess}"
        yield (kind.__name__, rf"\s+def {name}\b"), message


def _place(path: Path, lines: list[str], kind: str, pattern: str) -> str:
    """Find the first line of a class that matches; empty where there is none."""
    begin = next((n for n, line in enumerate(lines) if re.match(rf"\s*class {kind}\b", line)), len(lines))
    found = (n for n, line in enumerate(lines[begin:], begin + 1) if re.match(pattern, line))
    return next((f"{path}:{n}" for n in found), "")
