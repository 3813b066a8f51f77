"""Find functions of a user's class that are misspelt ones of the contract, or of another kind than those."""

import difflib
import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType

from fcil.errors import ConfigError

__all__ = ["check_names", "miskinded", "misnamed"]

NEAR = 0.8
"""Likeness from which a name is taken for a misspelt one: `losss` and `los` for `loss`, but not `close`."""


def _functions(kind: type) -> Iterator[tuple[str, FunctionType]]:
    """Yield the names and functions that a class itself defines, behind properties and static functions too."""
    for name, value in vars(kind).items():
        wrapped = [value, *(getattr(value, part, None) for part in ("fget", "func", "__func__"))]
        yield from ((name, one) for one in wrapped if isinstance(one, FunctionType))


def _used(code: CodeType) -> Iterator[str]:
    """Yield the names that a function looks up, those inside its own functions too."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _used(constant)


def misnamed(kind: type) -> dict[str, str]:
    """Public functions of this class that nothing in its module calls -> the one of a base that they resemble."""
    contract = {name for base in kind.__mro__[1:-1] for name, _ in _functions(base) if not name.startswith("_")}
    module = inspect.getmodule(kind)
    beside = list(vars(module).values()) if module else []
    classes = [kind, *(one for one in beside if isinstance(one, type) and one.__module__ == kind.__module__)]
    functions = [function for one in classes for _, function in _functions(one)]
    functions += [one for one in beside if isinstance(one, FunctionType)]
    used = {name for function in functions for name in _used(function.__code__)}
    additions = {name for name, _ in _functions(kind) if not name.startswith("_")} - contract - used
    near = {
        name: difflib.get_close_matches(name, sorted(contract - set(vars(kind))), 1, NEAR) for name in sorted(additions)
    }
    return {name: meant[0] for name, meant in near.items() if meant}


def miskinded(kind: type) -> dict[str, str]:
    """Names of this class -> what to do, where a base has a property and this a function, or the other way round.

    A function in the place of a property counts as true wherever it is asked for, and nobody calls it.
    """
    advice: dict[str, str] = {}
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
    for name, meant in misnamed(kind).items():
        raise ConfigError(
            f"{where}: {kind.__name__}.{name}: nothing calls it. Did you mean {meant!r}? If not, begin its name with _"
        )
