"""Parses command lines by argparse, and answers mistakes as others are answered: one message, what to do, exit 2."""

import argparse
import difflib
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from fcil.errors import ConfigError

__all__ = ["Parser"]

REQUIRED = "the following arguments are required: "
"""How argparse says that something is missing."""
CLOSE = 0.6
"""Likeness from which a name is suggested for a misspelt one."""


class Parser(argparse.ArgumentParser):
    """A parser that raises a ConfigError where argparse prints its usage and exits; so do those of its commands."""

    def __init__(self, **settings: Any) -> None:
        """Take the settings of `argparse.ArgumentParser`."""
        super().__init__(**settings, exit_on_error=False)
        self._given: list[str] = []

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse a command line, of which nothing may be left.

        Raises:
            ConfigError: an unknown, missing or doubled argument, or a value that does not fit.
        """
        import sys

        self._given = list(sys.argv[1:] if args is None else args)
        try:
            parsed, rest = super().parse_known_args(self._given, namespace)
        except argparse.ArgumentError as error:
            raise ConfigError(f"{self._place()}{self._about(error)}{self._help()}") from None
        if rest:
            self._check_options(rest)
            raise ConfigError(f"{self._place()}{rest[0]}: one word too many.{self._help()}")
        return parsed, rest

    def error(self, message: str) -> NoReturn:
        """Raise a ConfigError in place of printing the usage and exiting."""
        if not message.startswith(REQUIRED):
            raise ConfigError(f"{self._place()}{message}.{self._help()}")
        self._check_options(self._given)
        names = message.removeprefix(REQUIRED).split(", ")
        if names == ["COMMAND"]:
            raise ConfigError(f"{self._place()}name a command, for example: {self.prog} run configs/quickstart.toml."
                              f"{self._help()}")  # fmt: skip
        missing = [f"{name} is missing{self._meaning(name)}" for name in names]
        raise ConfigError(f"{self._place()}{'; '.join(missing)}.{self._help()}")

    def _place(self) -> str:
        """The command, before what is wrong with it; nothing for `fcil` itself."""
        words = self.prog.split()[1:]
        return f"{' '.join(words)}: " if words else ""

    def _help(self) -> str:
        return f" See: {self.prog} --help"

    def _named(self, name: str) -> argparse.Action | None:
        """The argument that argparse's messages call so."""
        for action in self._actions:
            if name in ("/".join(action.option_strings), action.metavar, action.dest):
                return action
        return None

    def _meaning(self, name: str) -> str:
        action = self._named(name)
        if isinstance(action, argparse._SubParsersAction):
            return f" ({_listed(action.choices)})"
        return f" ({action.help})" if action and action.help and action.help != argparse.SUPPRESS else ""

    def _about(self, error: argparse.ArgumentError) -> str:
        """Say what is wrong with the value of an argument."""
        name, text = error.argument_name or "", str(error.message)
        action = self._named(name)
        if text.startswith("expected") and action:
            shown = action.metavar if isinstance(action.metavar, str) else "a value"
            return f"{name} needs {shown}{self._meaning(name)}."
        text = "takes no value" if text.startswith("ignored explicit argument") else text
        text = text if text.endswith(("?", ".")) else f"{text}."
        return f"{name} {text}" if text.startswith(("'", '"')) else f"{name}: {text}" if name else text

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Name the nearest of the values or commands that an argument admits, where it is none of them."""
        choices = list(action.choices or ())
        if not choices or value in choices:
            return
        if not isinstance(action, argparse._SubParsersAction):
            raise argparse.ArgumentError(
                action, f"{value!r}: must be {_listed(choices)}.{_nearest(str(value), choices)}"
            )
        if str(value).endswith(".toml"):
            raise ConfigError(
                f"{self._place()}{value}: a command comes first; to run it: {self.prog} run {value}.{self._help()}"
            )
        what = str(action.metavar or "command").lower()
        raise ConfigError(f"{self._place()}{value}: no such {what}.{_nearest(str(value), choices)}{self._help()}")

    def _options(self) -> list[str]:
        return [text for action in self._actions for text in action.option_strings]

    def _check_options(self, words: Sequence[str]) -> None:
        """Raise ConfigError for the first of some words that is meant as an option and is none."""
        options = self._options()
        for word in words:
            if word == "--":
                return
            name = word.partition("=")[0]
            if word.startswith("-") and not word[1:2].isdigit() and not any(text.startswith(name) for text in options):
                raise ConfigError(f"{self._place()}{name}: no such option.{self._meant(name, options)}{self._help()}")

    def _meant(self, name: str, options: Sequence[str]) -> str:
        """Suggest an option, or the setting that was meant for one."""
        word, near = name.lstrip("-").replace("-", "_"), _nearest(name, options)
        if "--set" not in options:
            return near
        if setting := _setting(word):
            return f" It is a setting: --set {setting}=VALUE."
        return near or " Settings are given as --set SECTION.KEY=VALUE; `fcil settings` lists them."


def _listed(entries: Iterable[Any]) -> str:
    *first, last = map(str, entries)
    return f"{', '.join(first)} or {last}" if first else last


def _nearest(name: str, candidates: Iterable[Any]) -> str:
    """Name the known word that is most like another one; nothing where none is close."""
    words = {str(word).lstrip("-"): str(word) for word in candidates}
    close = difflib.get_close_matches(name.lstrip("-"), words, n=1, cutoff=CLOSE)
    return f" Did you mean {words[close[0]]!r}?" if close else ""


def _setting(word: str) -> str:
    """The setting, `section.key`, of which a word is all or the key; empty where it is none, or of several sections."""
    from fcil.config import SECTIONS
    from fcil.options import keys_of

    section, dot, key = word.partition(".")
    if dot:
        return word if section in (*SECTIONS, "method") and key else ""
    settings = [f"{name}.{word}" for name, schema in SECTIONS.items() if word in keys_of(schema)]
    return settings[0] if len(settings) == 1 else ""
