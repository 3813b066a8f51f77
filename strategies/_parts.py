"""Find the methods that another method is made of: a setting names them, `name` or `name(key = value, ...)`."""

from collections.abc import Mapping

from fcil.errors import ConfigError
from fcil.method import Averaging
from fcil.model.lora import Lora
from fcil.options import keys_of, parse_call
from fcil.registry import build_method, method_class

__all__ = ["lora_method"]


def lora_method(
    text: str, setting: str, outer_settings: Mapping[str, object], unused: Mapping[str, str] | None = None
) -> Averaging:
    """The method that a setting of the outer method names, with those of `outer_settings` that it has as settings.

    Args:
        unused: settings of the part that would have no effect, each with the reason.

    Raises:
        ConfigError: no such method, one that trains no LoRA pairs or is itself made of others, or settings that it does
            not admit.
    """
    where = f"method.{setting} = {text!r}"
    name, settings = parse_call(text, where)
    kind = method_class(name, where)
    if odd := sorted(outer_settings.keys() & settings.keys()):
        raise ConfigError(f"{where}: leave out {', '.join(odd)}; the outer method sets it")
    if without := [key for key in unused or {} if key in settings]:
        raise ConfigError(f"{where}: leave out {without[0]}; {(unused or {})[without[0]]}")
    keys = keys_of(kind)
    inherited = {key: value for key, value in outer_settings.items() if key in keys}
    part = build_method(name, {**settings, **inherited}, lambda key: f"{where}: {key}")
    made_of_others = type(part).acting is not Averaging.acting
    if not isinstance(part, Averaging) or not isinstance(part.adapter, Lora) or made_of_others:
        raise ConfigError(f"{where}: {name} does not train LoRA pairs that another method could merge")
    if not part.adapter.starts_at_zero:
        raise ConfigError(f"{where}: parts of another method train plain LoRA pairs; leave out `adapter`")
    if part.stream != "federated":
        raise ConfigError(f"{where}: {name} has one client and merges nothing; run it by itself, as method.name")
    return part
