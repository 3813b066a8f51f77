"""The choice of what clients train: the setting `adapter`, a name or a name with settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

from fcil.errors import ConfigError
from fcil.model.full import Full
from fcil.model.loftq import Loftq
from fcil.model.lora import Lora
from fcil.model.snell import Snell, Snella
from fcil.model.weight_adapter import WeightAdapter
from fcil.options import Option, describe, nearest, parse, parse_call

from ._lora import Rank

__all__ = ["ADAPTERS", "AdapterSettings", "parse_adapter"]

ADAPTERS: Mapping[str, type[WeightAdapter] | None] = {
    "lora": Lora,
    "snell": Snell,
    "snella": Snella,
    "loftq": Loftq,
    "full": Full,
    "head": None,
}
"""Name -> adapter; None trains the head's rows alone."""


@lru_cache(maxsize=64)
def parse_adapter(text: str, rank: int) -> WeightAdapter | None:
    """The adapter that the setting names, `name` or `name(key = value, ...)`; None for the head alone.

    Raises:
        ConfigError: no such adapter, or settings that it does not admit.
    """
    where = f"method.adapter = {text!r}"
    name, settings = parse_call(
        text, where, 'an adapter, "lora", or an adapter with its settings, "snell(sparsity = 0.9)"'
    )
    if name not in ADAPTERS:
        raise ConfigError(f"{where}: no such adapter. {nearest(name, ADAPTERS)}")
    kind = ADAPTERS[name]
    known = {s.name for s in describe(kind) if s.option.help} if kind else set()
    if "rank" in settings:
        raise ConfigError(f"{where}: leave out rank; method.rank sets it")
    for key in settings:
        if key not in known:
            raise ConfigError(f"{where}: {name} has no setting {key!r}. {nearest(key, known - {'rank'})}")
    if kind is None:
        return None
    inherited = {"rank": rank} if "rank" in known else {}
    return parse(kind, {**settings, **inherited}, lambda key: f"{where}: {key}")


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """Stands before a family of methods among a method's bases: clients train the adapter that the settings name."""

    rank: Rank = 16
    adapter_text: Annotated[
        str,
        Option(
            "what clients train: lora, snell, snella, loftq, full or head; with settings, name(key = value)",
            key="adapter",
        ),
    ] = "lora"

    def __post_init__(self) -> None:
        parse_adapter(self.adapter_text, self.rank)

    @property
    def adapter(self) -> WeightAdapter | None:
        """The adapter that `adapter` names; None trains the head's rows alone."""
        return parse_adapter(self.adapter_text, self.rank)
