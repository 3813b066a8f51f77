"""Parse settings into annotated dataclasses, each the one place for the default, unit, range and meaning of a setting.

>>> @dataclasses.dataclass(frozen=True, kw_only=True)
... class Partition:
...     beta: Annotated[float, Option("Dirichlet concentration", above=0)] = 0.5
>>> parse(Partition, {"beta": 0.1}, "partition.{}".format)
Partition(beta=0.1)

Whatever does not fit raises a ConfigError that says where, what and why.

>>> parse(Partition, {"beta": -1}, "partition.{}".format)
Traceback (most recent call last):
fcil.errors.ConfigError: partition.beta = -1: must be greater than 0
"""

import dataclasses
import difflib
import math
import re
import tomllib
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from fcil.errors import ConfigError

__all__ = [
    "Described",
    "Option",
    "describe",
    "keys_of",
    "nearest",
    "parse",
    "parse_call",
    "split_list",
    "toml_or_text",
    "typed",
]

T = TypeVar("T")
_CALL = re.compile(r"\s*(\w[\w+.-]*(?::\w+)?|.+?\.py(?::\w+)?)\s*(?:\((.*)\))?\s*", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Option:
    """A setting's meaning, unit and admitted values: numbers (`low` and `high` included, `above` excluded) or texts."""

    help: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    above: float | None = None
    forms: tuple[str, ...] = ()
    """Admitted texts, any if empty; `<k>` in one stands for a whole number from 1 on."""
    key: str = ""
    """Name of the setting where the field has another one; the field's unless given."""
    former: str = ""
    """An earlier name of the setting, which is still read."""
    was: float | str | None = None
    """What runs of before there was the setting did, where its default is something else: they do not go on with it."""

    def text_complaint(self, value: str) -> str | None:
        """Say which texts are admitted if `value` is not; None if it is."""
        patterns = [re.escape(form).replace("<k>", "[1-9][0-9]*") for form in self.forms]
        if not patterns or any(re.fullmatch(pattern, value) for pattern in patterns):
            return None
        return "must be " + " or ".join(f'"{form}"' for form in self.forms)

    def complaint(self, value: float) -> str | None:
        """Say which range a number violates; None if it is admitted."""
        if not math.isfinite(value):
            return "must be a finite number"
        if self.above is not None and value <= self.above:
            return f"must be greater than {self.above:g}"
        if self.low is not None and value < self.low:
            return f"must be at least {self.low:g}"
        if self.high is not None and value > self.high:
            return f"must be at most {self.high:g}"
        return None


class Described(NamedTuple):
    """A setting as it is shown to users."""

    name: str
    type: str
    default: object
    option: Option


def toml_or_text(value: str) -> Any:
    """Parse the value of a setting, as after --set: in TOML, or taken as text where it is not TOML.

    >>> toml_or_text("[1, 2]"), toml_or_text("lorm")
    ([1, 2], 'lorm')
    """
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return value.strip()


def split_list(text: str) -> list[str]:
    """Split at commas that stand in no brackets and no quotes.

    >>> split_list('lorm, ridge(layers=[6, 9]), "a,b"')
    ['lorm', 'ridge(layers=[6, 9])', '"a,b"']
    """
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'" and (depth > 0 or not parts[-1].strip()):  # elsewhere it is a part of a word
            quote = letter
        else:
            depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth <= 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def parse_call(
    text: str, where: str, expected: str = 'a method, "ties", or a method with its settings, "ties(top = 0.3)"'
) -> tuple[str, dict[str, Any]]:
    """Split `name` or `name(key = value, ...)`, the values in TOML, into a name and settings, not yet checked.

    Args:
        where: how to point at the text in a message.
        expected: what is to be written there, for a message.

    Raises:
        ConfigError: it is written otherwise.
    """
    call = _CALL.fullmatch(text)
    try:
        settings = tomllib.loads(f"own = {{{call[2] or ''}}}")["own"] if call else None
    except tomllib.TOMLDecodeError:
        settings = None
    if call is None or settings is None:
        raise ConfigError(f"{where}: write {expected}")
    return call[1], settings


def nearest(name: str, names: Iterable[str]) -> str:
    """Suggest the known name that is closest to a misspelt one, or list all known names where none is close.

    >>> nearest("lrom", ["lorm", "fedavg"])
    "Did you mean 'lorm'?"
    """
    names = sorted(names)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(names) or 'none'}."


def _split(hint: Any) -> tuple[Any, Option]:
    if get_origin(hint) is Annotated:
        kind, *notes = get_args(hint)
        return kind, next((note for note in notes if isinstance(note, Option)), Option(""))
    return hint, Option("")


def keys_of(schema: type) -> dict[str, str]:
    """Setting -> the field of the schema that holds it, in the order of the fields."""
    hints = get_type_hints(schema, include_extras=True)
    names = [field.name for field in dataclasses.fields(schema) if field.init]
    return {_split(hints[name])[1].key or name: name for name in names}


def typed(schema: type) -> dict[str, tuple[Any, object, Option]]:
    """Setting -> its type without notes, its default and its option, in the order of the schema's fields."""
    hints = get_type_hints(schema, include_extras=True)
    defaults = {field.name: field.default for field in dataclasses.fields(schema)}
    settings = {}
    for name, field in keys_of(schema).items():
        kind, option = _split(hints[field])
        settings[name] = kind, defaults[field], option
    return settings


def _type_name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " | ".join(f'"{choice}"' if isinstance(choice, str) else str(choice) for choice in get_args(kind))
    if get_origin(kind) is tuple:
        return f"list of {_type_name(get_args(kind)[0])}"
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_type_name(part) for part in get_args(kind) if part is not type(None))
    return {int: "integer", float: "number", str: "text", bool: "true or false"}.get(kind, str(kind))


def describe(schema: type) -> list[Described]:
    """List the settings of a schema in the order of its fields."""
    settings = typed(schema).items()
    return [Described(name, _shown(kind, option), default, option) for name, (kind, default, option) in settings]


def _shown(kind: Any, option: Option) -> str:
    """Name the admitted values: the forms of a text, beside the other kinds where there are any."""
    if not option.forms:
        return _type_name(kind)
    others = [_type_name(part) for part in get_args(kind) if part is not str]
    return " or ".join([*others, " | ".join(f'"{form}"' for form in option.forms)])


def _convert(value: object, kind: Any, option: Option) -> object:
    """Convert `value` to `kind`; a ValueError says what was expected."""
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError("must fit into 64 bits")  # as TOML says, though Python's reader lets longer ones through
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return None if value is None else _convert(value, _fitting(value, kind, option), option)
    if origin is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in get_args(kind)):
            near = f". {nearest(value, map(str, get_args(kind)))}" if isinstance(value, str) else ""
            raise ValueError(f"must be {_type_name(kind)}{near}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"must be a {_type_name(kind)}")
        return tuple(_convert(item, get_args(kind)[0], option) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"must be {_type_name(kind)}")
    complaint = option.text_complaint(value) if isinstance(value, str) else None
    if isinstance(value, int | float) and kind is not bool:
        complaint = option.complaint(value)
    if complaint:
        raise ValueError(complaint)
    return value


def _about_several(value: object, kind: Any, option: Option) -> str:
    """Say how to run with several values, if a text that does not fit is a list of those that would; else nothing."""
    parts = split_list(value) if isinstance(value, str) else []
    try:
        for part in parts:
            _convert(toml_or_text(part), kind, option)
    except ValueError:
        return ""
    return f". For runs with each of these values: fcil compare CONFIG --sweep SECTION.KEY={value}" if parts[1:] else ""


def _fitting(value: object, kind: Any, option: Option) -> Any:
    """The kind of a union that a value's form fits; a ValueError says what was expected."""
    kinds = [part for part in get_args(kind) if part is not type(None)]
    words = [part for part in kinds if get_origin(part) is Literal and isinstance(value, str)]
    if words and value not in get_args(words[0]):  # number | Literal["auto"]
        raise ValueError(f"must be {_type_name(kind)}. {nearest(str(value), get_args(words[0]))}")
    texts = [part for part in kinds if part is str and isinstance(value, str)]
    if texts and option.text_complaint(str(value)):
        raise ValueError(f"must be {_shown(kind, option)}")
    lists = [part for part in kinds if get_origin(part) is tuple and isinstance(value, list | tuple)]
    numbers = [part for part in kinds if part in (int, float) and type(value) in (int, part)]
    truths = [part for part in kinds if part is bool and isinstance(value, bool)]
    if not (fitting := [*words, *texts, *lists, *numbers, *truths]):
        raise ValueError(f"must be {_shown(kind, option)}")
    return fitting[0]


def parse(schema: type[T], table: Mapping[str, object], where: Callable[[str], str]) -> T:
    """Build an instance of `schema` from a table of settings.

    Args:
        where: setting -> its place as told in messages, for example `quickstart.toml: partition.beta`.

    Raises:
        ConfigError: a setting is unknown (names the nearest known one), of the wrong type, or out of range.
    """
    hints = get_type_hints(schema, include_extras=True)
    fields, values = keys_of(schema), {}
    options = {name: _split(hints[field])[1] for name, field in fields.items()}
    now = {option.former: name for name, option in options.items() if option.former}
    for key, value in table.items():
        name = now.get(key, key)
        if name != key and name in table:
            raise ConfigError(f"{where(key)}: the earlier name of {name!r}, which is set as well; leave this one out")
        if name not in fields:
            raise ConfigError(f"{where(name)}: unknown setting. {nearest(name, fields)}")
        try:
            values[fields[name]] = _convert(value, *_split(hints[fields[name]]))
        except ValueError as error:
            hint = _about_several(value, *_split(hints[fields[name]]))
            raise ConfigError(f"{where(key)} = {value!r}: {error}{hint}") from None
    for one in dataclasses.fields(schema):  # type: ignore[arg-type]
        has_default = one.default is not dataclasses.MISSING or one.default_factory is not dataclasses.MISSING
        if one.init and one.name not in values and not has_default:
            key = next((name for name, target in fields.items() if target == one.name), one.name)
            raise ConfigError(f"{where(key)}: not given, and the setting has no default")
    return schema(**values)
