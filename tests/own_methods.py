"""Methods of a user's own, as files that tests write into temporary folders."""

MINE = '''
from dataclasses import dataclass
from typing import Annotated

from fcil.options import Option
from fcil.strategies import LoraMethod


@dataclass(frozen=True, kw_only=True)
class Mine(LoraMethod):
    """Averages pairs, like many others."""

    pull: Annotated[float, Option("strength of nothing", low=0)] = 0.5
'''


def write(folder, name="mine.py", source=MINE):
    """Write a method's file and return its path."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    return path
