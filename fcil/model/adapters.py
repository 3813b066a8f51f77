"""The adapters that change weights, by the names that settings give them."""

import json
from collections.abc import Mapping
from functools import lru_cache

from fcil.errors import ConfigError
from fcil.model.full import Full
from fcil.model.loftq import Loftq
from fcil.model.lora import Lora
from fcil.model.snell import Snell, Snella
from fcil.model.weight_adapter import WeightAdapter
from fcil.options import Described, describe, nearest, parse, parse_call

__all__ = ["ADAPTERS", "HEAD", "adapter_class", "adapter_settings", "parse_adapter", "whole_text"]

ADAPTERS: Mapping[str, type[WeightAdapter]] = {
    "lora": Lora,
    "snell": Snell,
    "snella": Snella,
    "loftq": Loftq,
    "full": Full,
}
HEAD = "head"
"""The name that stands for no adapter: the head's rows train alone."""
RANK = "rank"
EXPECTED = 'an adapter, "lora", or one with its settings, texts in quotes: snell(sparsity = 0.9, competition = "paper")'


def adapter_class(name: str, where: str) -> type[WeightAdapter] | None:
    """The class of an adapter; None for the head alone.

    Args:
        where: how to point at the name in a message.

    Raises:
        ConfigError: no such adapter, with the nearest name.
    """
    if name not in ADAPTERS and name != HEAD:
        raise ConfigError(f"{where}: no such adapter. {nearest(name, [*ADAPTERS, HEAD])}")
    return ADAPTERS.get(name)


def adapter_settings(kind: type[WeightAdapter] | None) -> list[Described]:
    """The settings of an adapter that its call may have: all that are described, but for the method's own rank."""
    return [setting for setting in describe(kind) if setting.option.help and setting.name != RANK] if kind else []


def whole_text(text: str, rank: int) -> str:
    """The setting with all settings of its adapter written out, for the records.

    >>> whole_text("snell(sparsity = 0.5, targets = ['*.fc1'])", 8)
    'snell(sparsity = 0.5, competition = "code", targets = ["*.fc1"])'
    """
    adapter, name = parse_adapter(text, rank), text.partition("(")[0].strip()
    if adapter is None:
        return name
    values = {s.name: getattr(adapter, s.name) for s in adapter_settings(type(adapter))}
    settings = ", ".join(f"{key} = {json.dumps(value)}" for key, value in values.items())
    return f"{name}({settings})" if settings else name


@lru_cache(maxsize=64)
def parse_adapter(text: str, rank: int) -> WeightAdapter | None:
    """The adapter that the setting names, `name` or `name(key = value, ...)`; None for the head alone.

    Raises:
        ConfigError: no such adapter, or settings that it does not admit.
    """
    where = f"method.adapter = {text!r}"
    name, settings = parse_call(text, where, EXPECTED)
    kind = adapter_class(name, where)
    names = {setting.name for setting in adapter_settings(kind)}
    if RANK in settings:
        raise ConfigError(f"{where}: leave out rank; method.rank sets it")
    for key in settings:
        if key not in names:
            raise ConfigError(f"{where}: {name} has no setting {key!r}. {nearest(key, names)}")
    if kind is None:
        return None
    inherited = {RANK: rank} if any(setting.name == RANK for setting in describe(kind)) else {}
    return parse(kind, {**settings, **inherited}, lambda key: f"{where}: {key}")
