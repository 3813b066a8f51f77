"""What code can remember outside the contract: globals of a method's modules, attributes of its classes and itself."""

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from fcil.method import Method

__all__ = ["Memory", "modules_of"]


def _parts(method: Method) -> Iterator[Method]:
    """Yield the method and those that it is made of."""
    yield method
    for part in vars(method).values():
        if isinstance(part, Method):
            yield from _parts(part)


def modules_of(kind: type[Method]) -> list[ModuleType]:
    """List the modules that define a method's class and its bases, but for the contract's and Python's own."""
    names = dict.fromkeys(one.__module__ for one in kind.__mro__)
    own = (n for n in names if n.partition(".")[0] not in sys.stdlib_module_names and not n.startswith("fcil.method"))
    return [sys.modules[name] for name in own if name in sys.modules]


def _values(holder: object) -> dict[str, Any]:
    """The values that a module, a class or an instance itself holds, but for code and what Python keeps there."""
    return {
        name: value
        for name, value in vars(holder).items()
        if not name.startswith("__") and not callable(value) and not isinstance(value, ModuleType | property)
    }


def _copies(values: dict[str, Any]) -> dict[str, Any]:
    """Copy values as deeply as they go; what cannot be copied is left out."""
    copies: dict[str, Any] = {}
    for name, value in values.items():
        try:
            copies[name] = copy.deepcopy(value)
        except Exception:  # locks, files, tensors in the midst of a graph
            continue
    return copies


def _put(holder: object, values: dict[str, Any], others: set[str]) -> None:
    """Set the values of a holder, and delete those of other names."""
    for name in others - values.keys():
        vars(holder).pop(name, None) if isinstance(holder, Method) else delattr(holder, name)
    for name, value in values.items():
        if isinstance(holder, Method):
            vars(holder)[name] = value  # it is frozen
        else:
            setattr(holder, name, value)


class Memory:
    """The values around a method's code as they were when this was made."""

    def __init__(self, method: Method) -> None:
        parts = list(_parts(method))
        modules = list(dict.fromkeys(module for part in parts for module in modules_of(type(part))))
        classes = [
            value
            for module in modules
            for value in vars(module).values()
            if isinstance(value, type) and value.__module__ == module.__name__
        ]
        made_on_the_way = [kind for part in parts for kind in type(part).__mro__ if "<locals>" in kind.__qualname__]
        self._holders: list[object] = [*modules, *dict.fromkeys([*classes, *made_on_the_way]), *parts]
        self._first = [_copies(_values(holder)) for holder in self._holders]
        self._left_out = [
            _values(holder).keys() - first.keys() for holder, first in zip(self._holders, self._first, strict=True)
        ]

    @contextmanager
    def forgotten(self) -> Iterator[None]:
        """Work for a block as another process would that has just been started: with the values of the beginning."""
        now = [_values(holder) for holder in self._holders]
        try:
            for holder, first, values, out in zip(self._holders, self._first, now, self._left_out, strict=True):
                _put(holder, _copies(first), values.keys() - out)
            yield
        finally:
            for holder, values in zip(self._holders, now, strict=True):
                _put(holder, values, set(_values(holder)))
