"""Writes values, dataclasses and named functions as text, by which two that do the same can be told to be equal."""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import numpy as np

from fcil.registry.files import SHA256

__all__ = ["Undescribed", "described", "sha256_of"]

OURS = ("builtins", "fcil", "numpy", "strategies")
"""Packages whose functions and classes a name stands for: their code is hashed, or its version is known."""


class Undescribed(Exception):
    """A value of which it cannot be told whether another one does the same: a closure, say, or an open file."""


def _name(thing: Any) -> str:
    """The full name of a class or function of the project.

    Raises:
        Undescribed: it was made inside another function, or is another package's, or of a file named by its path.
    """
    module, name = str(thing.__module__), str(thing.__qualname__)
    of_a_file = hasattr(sys.modules.get(module), SHA256)  # it may use others, of which nobody knows the content
    if "<" in name or module.partition(".")[0] not in OURS or of_a_file:
        raise Undescribed(f"{module}.{name}")
    return f"{module}.{name}"


def _function(function: Callable[..., Any]) -> Any:
    if isinstance(function, partial):
        return ["partial", described(function.func), described(function.args), described(function.keywords)]
    if isinstance(function, MethodType):
        return ["method", described(function.__self__), function.__func__.__qualname__]
    if isinstance(function, FunctionType) and function.__closure__:
        raise Undescribed(f"{function.__qualname__}: it remembers values of the function that made it")
    return ["function", _name(function)]


def described(value: Any) -> Any:
    """A value as lists and texts that JSON can hold: types told apart, dataclasses by their fields, arrays by a hash.

    Raises:
        Undescribed: it holds something that has no such form.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return [type(value).__name__, repr(value)]
    if isinstance(value, np.ndarray):
        content = np.ascontiguousarray(value)
        return ["array", content.dtype.str, list(value.shape), hashlib.sha256(content.tobytes()).hexdigest()]
    if isinstance(value, list | tuple):
        return [_name(type(value)), [described(item) for item in value]]
    if isinstance(value, Mapping):
        return ["mapping", [[described(key), described(item)] for key, item in value.items()]]
    if is_dataclass(value) and not isinstance(value, type):
        parts = [[field.name, described(getattr(value, field.name))] for field in fields(value)]
        return ["dataclass", _name(type(value)), parts]
    if isinstance(value, type):
        return ["class", _name(value)]
    if callable(value):
        return _function(value)
    raise Undescribed(f"{type(value).__name__}")


def sha256_of(value: Any) -> str:
    """SHA-256 of a value's description. Raises Undescribed as `described`."""
    return hashlib.sha256(json.dumps(described(value)).encode()).hexdigest()
