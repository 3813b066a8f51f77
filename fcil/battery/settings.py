"""Checks of settings and docstrings: what `fcil methods` shows must be there."""

import dataclasses
import inspect
import json
from typing import ClassVar, get_origin

from fcil.battery.outcome import Broken
from fcil.battery.trial import Trial
from fcil.errors import ConfigError
from fcil.method import Method
from fcil.options import describe, parse

__all__ = ["settings_have_defaults_and_texts"]


def settings_have_defaults_and_texts(trial: Trial) -> None:
    """Settings have defaults that build the method and a text each, and the class says in one line what it does."""
    kind = type(trial.method)
    _check_decorated(kind)
    for setting in describe(kind):
        if not setting.option.help:
            raise Broken(
                f'setting {setting.name}: no text; annotate it, Annotated[float, Option("what it means")] = 1.0'
            )
        try:
            json.dumps(setting.default)
        except TypeError:
            raise Broken(
                f"setting {setting.name}: needs a default that is a number, a text, true or false, or a tuple of them"
            ) from None
    try:
        parse(kind, {}, lambda key: f"setting {key}")
    except (ConfigError, TypeError) as error:
        raise Broken(f"cannot be built from its defaults: {error}", "__post_init__") from error
    for setting in describe(kind):
        if setting.default is not None:
            try:
                parse(kind, {setting.name: _as_given(setting.default)}, lambda key: f"the default of setting {key}")
            except ConfigError as error:
                raise Broken(str(error)) from error
    doc = (kind.__doc__ or "").partition("\n")[0].strip()
    if not doc or doc.startswith(f"{kind.__name__}("):  # what `dataclass` writes where there is nothing
        raise Broken("the class has no docstring; begin it with one line that says what the method does")


def _as_given(default: object) -> object:
    """A default as a settings file would give it."""
    return list(default) if isinstance(default, tuple) else default


def _check_decorated(kind: type[Method]) -> None:
    """Refuse annotations in a class that is no dataclass: they would be no settings, without a word."""
    annotations = {name: hint for name, hint in inspect.get_annotations(kind).items() if not name.startswith("_")}
    settings = [
        n for n, hint in annotations.items() if get_origin(hint) is not ClassVar and "ClassVar" not in str(hint)
    ]
    if settings and "__dataclass_params__" not in vars(kind):
        raise Broken(
            f"{', '.join(settings)}: no setting yet, since the class is no dataclass of its own; put "
            "@dataclass(frozen=True, kw_only=True) above it"
        )
    if not dataclasses.is_dataclass(kind):
        raise Broken("the class is no dataclass")
