"""Refuse settings that would change nothing beside others."""

from collections.abc import Mapping
from dataclasses import fields

from fcil.errors import ConfigError
from fcil.method import Method

__all__ = ["refuse_idle"]


def refuse_idle(method: Method, reasons: Mapping[str, str]) -> None:
    """Raise ConfigError where a setting that has no effect is given, which is to say that it differs from its default.

    Args:
        reasons: settings without effect -> why they have none.
    """
    for setting in (f for f in fields(method) if f.name in reasons):
        value = getattr(method, setting.name)
        if value != setting.default:
            raise ConfigError(f"method.{setting.name} = {value!r}: {reasons[setting.name]}; leave it out")
