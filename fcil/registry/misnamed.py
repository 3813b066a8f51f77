"""Find functions of a user's class that are misspelt ones of the contract, or of another kind than those."""

import difflib
import inspect
from collections.abc import Iterator
from types import FunctionType
from typing import Annotated, get_args, get_origin

from fcil.errors import ConfigError
from fcil.method.code import names_used

__all__ = ["check_names", "miskinded", "misnamed", "uncalled"]

NEAR = 0.8
"""Likeness from which a name is taken for a misspelt one: `losss` and `los` for `loss`, but not `close`."""

ADAPTER = (
    "a property of the contract that gives an Adapter, and no text: call the field adapter_text, Annotated[str, "
    'Option("what trains", key="adapter")] = "lora", and let the property adapter return '
    "fcil.model.adapters.parse_adapter(self.adapter_text, self.rank); the setting is still method.adapter"
)


def _functions(kind: type) -> Iterator[tuple[str, FunctionType]]:
    """Yield the names and functions that a class itself defines, behind properties and static functions too."""
    for name, value in vars(kind).items():
        wrapped = [value, *(getattr(value, part, None) for part in ("fget", "func", "__func__"))]
        yield from ((name, one) for one in wrapped if isinstance(one, FunctionType))


def uncalled(kind: type, near: float) -> dict[str, str]:
    """Public functions of this class that no base has and nothing in its module calls -> the nearest one of a base.

    Args:
        near: likeness from which one of a base is near; where none is, the text is empty.
    """
    contract = {name for base in kind.__mro__[1:-1] for name, _ in _functions(base) if not name.startswith("_")}
    module = inspect.getmodule(kind)
    beside = list(vars(module).values()) if module else []
    classes = [kind, *(one for one in beside if isinstance(one, type) and one.__module__ == kind.__module__)]
    functions = [function for one in classes for _, function in _functions(one)]
    functions += [one for one in beside if isinstance(one, FunctionType)]
    used = {name for function in functions for name in names_used(function.__code__)}
    additions = {name for name, _ in _functions(kind) if not name.startswith("_")} - contract - used
    left = sorted(contract - set(vars(kind)))
    return {name: "".join(difflib.get_close_matches(name, left, 1, near)) for name in sorted(additions)}


def misnamed(kind: type) -> dict[str, str]:
    """Public functions of this class that nothing in its module calls -> the one of a base that they resemble."""
    return {name: meant for name, meant in uncalled(kind, NEAR).items() if meant}


def _is_text(hint: object) -> bool:
    """Tell whether an annotation, which may be written as a text itself, is that of a text."""
    if isinstance(hint, str):
        return hint.removeprefix("Annotated[").partition(",")[0].strip() == "str"
    return hint is str or (get_origin(hint) is Annotated and get_args(hint)[0] is str)


def miskinded(kind: type) -> dict[str, str]:
    """Names of this class -> what to do, where a base has a property and this a function, or the other way round.

    A function in the place of a property counts as true wherever it is asked for, and nobody calls it.
    """
    advice: dict[str, str] = {}
    if _is_text(inspect.get_annotations(kind).get("adapter")) or isinstance(vars(kind).get("adapter"), str):
        advice["adapter"] = ADAPTER
    for name, value in vars(kind).items():
        older = next((vars(base)[name] for base in kind.__mro__[1:-1] if name in vars(base)), None)
        if isinstance(older, property) and isinstance(value, FunctionType):
            advice[name] = "a property of the contract: put @property above it"
        elif isinstance(older, FunctionType) and not name.startswith("_"):
            if isinstance(value, property):
                advice[name] = "a function of the contract, which is called: leave @property out"
            elif not callable(value) and not hasattr(value, "__get__"):
                advice[name] = "a function of the contract: call the setting otherwise"
    return advice


def check_names(kind: type, where: str) -> None:
    """Refuse a class with a function that looks like a misspelt one of its bases, or is of another kind.

    Raises:
        ConfigError: names both.
    """
    for name, advice in miskinded(kind).items():
        raise ConfigError(f"{where}: {kind.__name__}.{name} is {advice}")
    for owner in (one for one in kind.__mro__ if one.__module__ == kind.__module__):
        for name, meant in misnamed(owner).items():
            raise ConfigError(
                f"{where}: {owner.__name__}.{name}: nothing calls it. Did you mean {meant!r}? If not, begin its name "
                "with _"
            )
