"""Makes a JSON schema of configuration files, by which editors complete and check TOML.

It is made from the same dataclasses that settings are read into (`fcil.options`), so that it cannot say anything else.
What a schema cannot say is left to reading: that sizes sum to the classes, that a method fits its data.
"""

import re
import types
from collections.abc import Iterable
from typing import Any, Literal, Union, get_args, get_origin

from fcil.config import SECTIONS
from fcil.config.rows import RowFacts
from fcil.options import Option, typed
from fcil.registry import installed_names, method_class, method_names

__all__ = ["settings_schema"]

DRAFT = "http://json-schema.org/draft-07/schema#"
"""The version that editors' TOML plugins read."""
Schema = dict[str, Any]
NUMBERS = {int: "integer", float: "number"}


def settings_schema() -> Schema:
    """Describe all that a configuration file may hold: sections, methods with their settings, rows, sweeps."""
    sections = {name: _section(schema) for name, schema in SECTIONS.items()}
    settings = {**sections, "method": _method(method_names())}
    of_a_row = {"type": "object", "properties": {**_section(RowFacts)["properties"], **_references(settings)},
                "additionalProperties": False}  # fmt: skip
    return {
        "$schema": DRAFT, "title": "Configuration of fcil", "type": "object", "definitions": settings,
        "properties": {
            "base": {"type": "string", "description": "file below this one, relative to it; what this one says wins"},
            **_references(settings),
            "compare": {"type": "object", "description": "rows of a comparison", "additionalProperties": of_a_row},
            "sweep": {"type": "object", "description": "settings, section.key, and the values that are swept over",
                      "additionalProperties": {"type": ["array", "string", "boolean"]}},
            "bench": {"type": "object", "description": "of fcil merge-bench alone"},
        },
        "additionalProperties": False,
    }  # fmt: skip


def _references(settings: Iterable[str]) -> Schema:
    return {name: {"$ref": f"#/definitions/{name}"} for name in settings}


def _section(schema: type) -> Schema:
    """Describe a section of settings, none of which has to be there."""
    properties = {}
    for name, (kind, default, option) in typed(schema).items():
        value = _values(kind, option) | {"description": option.help + (f" [{option.unit}]" if option.unit else "")}
        properties[name] = value | {"default": list(default) if isinstance(default, tuple) else default}
        if option.former:
            properties[option.former] = value | {"deprecationMessage": f"now {name}"}
    described = (schema.__doc__ or "").partition(": ")[2].partition("\n")[0]
    return {"type": "object", "description": described, "properties": properties, "additionalProperties": False}


def _method(names: Iterable[str]) -> Schema:
    """Describe the method's section: settings depend on the name, and are not checked where the base has the name."""
    names = list(names)
    path = {"type": "string", "pattern": r"[/:.]", "description": "path of a file, or module:Class"}
    name = {"anyOf": [{"enum": [*names, *installed_names()]}, path]}
    rules = []
    for method in names:
        section = _section(method_class(method))
        section["description"] = (method_class(method).__doc__ or "").partition("\n")[0]
        then = section | {"properties": {"name": {"description": section["description"]}, **section["properties"]}}
        condition = {"properties": {"name": {"const": method}}, "required": ["name"]}
        rules.append({"if": condition, "then": then})
    return {"type": "object", "properties": {"name": name}, "allOf": rules}


def _values(kind: Any, option: Option) -> Schema:
    """Describe the values that a setting of this type takes."""
    if get_origin(kind) in (Union, types.UnionType):
        return {"anyOf": [_values(part, option) for part in get_args(kind) if part is not type(None)]}
    if get_origin(kind) is Literal:
        return {"enum": list(get_args(kind))}
    if get_origin(kind) is tuple:
        return {"type": "array", "items": _values(get_args(kind)[0], option)}
    if kind is str:
        forms = "|".join(re.escape(form).replace("<k>", "[1-9][0-9]*") for form in option.forms)
        return {"type": "string", "pattern": f"^({forms})$"} if forms else {"type": "string"}
    if kind is bool:
        return {"type": "boolean"}
    bounds = {"minimum": option.low, "maximum": option.high, "exclusiveMinimum": option.above}
    return {"type": NUMBERS[kind]} | {key: bound for key, bound in bounds.items() if bound is not None}
