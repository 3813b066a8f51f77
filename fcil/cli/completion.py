"""Complete commands in bash, zsh and fish, by argcomplete: methods, data sets, and the settings that a command takes.

The shell starts `fcil` at every Tab with _ARGCOMPLETE in its environment; argcomplete is imported then alone.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args, get_origin

from fcil.errors import ConfigError

__all__ = ["OPTIONS", "SHELLS", "completion_command", "offer", "values_of"]

SHELLS = {
    "bash": 'in ~/.bashrc: eval "$(fcil completion bash)"',
    "zsh": 'in ~/.zshrc, after compinit: eval "$(fcil completion zsh)"',
    "fish": "in ~/.config/fish/config.fish: fcil completion fish | source",
}
"""Shell -> where the line goes that switches completion on."""
Completer = Callable[..., list[str]]


def _method_names() -> list[str]:
    from fcil.registry import installed_names, method_names

    return [*method_names(), *installed_names()]


def _data_names() -> list[str]:
    from fcil.data import FAMILIES

    return list(FAMILIES)


def _adapter_names() -> list[str]:
    from fcil.model.adapters import ADAPTERS, HEAD

    return [*ADAPTERS, HEAD]


def _logger_names() -> list[str]:
    from fcil.loggers import BUILT_IN

    return list(BUILT_IN)


def _words(names: Callable[[], list[str]]) -> Completer:
    return lambda prefix, **_: [name for name in names() if name.startswith(prefix)]


def _list_of(names: Callable[[], list[str]]) -> Completer:
    """Complete the last of several words with commas between them."""

    def complete(prefix: str, **_: object) -> list[str]:
        before, comma, last = prefix.rpartition(",")
        return [f"{before}{comma}{name}" for name in names() if name.startswith(last)]

    return complete


def _schemas(args: argparse.Namespace) -> Iterator[tuple[str, type]]:
    """Yield section -> the class of its settings, with that of the method which the command line or file names."""
    from fcil.config import SECTIONS, load_config
    from fcil.registry import method_class

    yield from SECTIONS.items()
    try:
        named = [text.partition("=")[2] for text in args.set or () if text.startswith("method.name=")]
        yield "method", method_class(named[-1] if named else load_config(args.config).method.name)
    except (ConfigError, AttributeError, TypeError):  # no method that could be told
        return


def values_of(kind: Any) -> list[str]:
    """List the values of a setting's type that can be listed: words of a choice, true and false."""
    if kind is bool:
        return ["true", "false"]
    if get_origin(kind) is Literal:
        return [str(word) for word in get_args(kind)]
    return [word for part in get_args(kind) if part is not kind for word in values_of(part)]


def _settings(prefix: str, parsed_args: argparse.Namespace, **others: object) -> list[str]:
    """Complete `section.key=value`: the keys, and values where they are words."""
    from typing import get_type_hints

    from fcil.options import describe, keys_of

    section, _, rest = prefix.partition(".")
    schemas = dict(_schemas(parsed_args))
    if section not in schemas:
        return [f"{name}." for name in schemas if name.startswith(section)]
    key, equals, value = rest.partition("=")
    if not equals:
        names = [setting.name for setting in describe(schemas[section])] + (["name"] if section == "method" else [])
        return [f"{section}.{name}=" for name in names if name.startswith(key)]
    words = {"method.name": _method_names, "data.name": _data_names}.get(f"{section}.{key}")
    field = keys_of(schemas[section]).get(key, "")
    candidates = words() if words else values_of(get_type_hints(schemas[section]).get(field))
    before, comma, last = value.rpartition(",")  # of --sweep and --grid
    return [f"{section}.{key}={before}{comma}{word}" for word in candidates if word.startswith(last)]


OPTIONS: dict[str, Completer] = {
    "set": _settings, "sweep": _settings, "grid": _settings, "methods": _list_of(_method_names),
    "log": _list_of(_logger_names), "method": _words(_method_names),
}  # fmt: skip
"""Name of an argument, of whatever command -> what completes it."""
NAMES: dict[str, Callable[[], list[str]]] = {
    "methods": _method_names, "check-method": _method_names, "adapters": _adapter_names, "prepare": _data_names,
}  # fmt: skip
"""Command -> what its argument `name` can be."""


def _equip(parser: argparse.ArgumentParser, command: str = "") -> None:
    """Give every argument of a parser, and of those below it, what completes it; files where nothing else does."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                _equip(below, name)
        elif action.dest == "name" and command in NAMES:
            action.completer = _words(NAMES[command])  # type: ignore[attr-defined]
        elif action.dest in OPTIONS:
            action.completer = OPTIONS[action.dest]  # type: ignore[attr-defined]


def offer(parser: argparse.ArgumentParser) -> None:
    """Answer a shell that asks for completions, and exit; do nothing where none asks."""
    if "_ARGCOMPLETE" not in os.environ:
        return
    import argcomplete

    _equip(parser)
    argcomplete.autocomplete(parser)


def _print_script(args: argparse.Namespace, console: object) -> None:
    try:
        from argcomplete.shell_integration import shellcode
    except ImportError:
        raise ConfigError(
            "completion: takes the package argcomplete, which is missing; install it with "
            '`pip install "fcil[completion]"`'
        ) from None
    print(f"# {SHELLS[args.shell]}")
    print(shellcode(["fcil"], shell=args.shell))


def completion_command(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command `completion`."""
    parser = command("completion", _print_script, "print what makes a shell complete fcil's commands and settings")
    places = "; ".join(SHELLS.values())
    parser.add_argument(
        "shell", choices=SHELLS, metavar="SHELL", help=f"{', '.join(SHELLS)}. To switch it on: {places}"
    )
