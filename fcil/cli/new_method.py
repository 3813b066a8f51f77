"""Run `fcil new-method NAME`: write a method's file and its test, from templates that work as they are."""

import argparse
import keyword
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from string import Template

from rich.console import Console

from fcil.errors import ConfigError

__all__ = ["KINDS", "new_method", "new_method_command"]

KINDS = {
    "lora": "trains LoRA pairs with a local objective of its own",
    "merge": "merges changes of weights, of tasks or clients, in a way of its own",
    "closed-form": "solves a head from sums of frozen features; nothing trains",
}
"""Kind of method -> what it does; a template and a test for each are in fcil/assets/new_method."""
TAKEN = {*sys.stdlib_module_names, "fcil", "numpy", "strategies", "torch"}
"""Names of modules that a file of the same name beside the test would hide."""


def _check_name(name: str) -> None:
    if not (name.isascii() and name.isidentifier() and name == name.lower()) or keyword.iskeyword(name):
        raise ConfigError(f"new-method {name}: write it in small letters, digits and _, as in my_method")
    if name in TAKEN or name.startswith("test_"):
        raise ConfigError(f"new-method {name}: is the name of a module that {name}.py would hide; choose another")


def new_method(name: str, kind: str, folder: Path) -> list[Path]:
    """Write NAME.py and test_NAME.py into a folder; returns their paths.

    Args:
        kind: one of `KINDS`.

    Raises:
        ConfigError: a name that no module can have, or a file that is there already; nothing is written then.
    """
    _check_name(name)
    words = {"name": name, "kind": "".join(part.capitalize() for part in name.split("_"))}
    words["title"] = words["kind"]
    templates = files("fcil") / "assets" / "new_method"
    texts = {
        folder / f"{before}{name}.py": Template((templates / f"{before}{kind}.py.txt").read_text()).substitute(words)
        for before in ("", "test_")
    }
    for path in texts:
        if path.exists():
            raise ConfigError(f"{path}: exists, and is not overwritten; choose another name or --output")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            path.write_text(text)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror}); choose another --output") from None
    return list(texts)


def _new_method(args: argparse.Namespace, console: Console) -> None:
    path, test = new_method(args.name, args.kind, args.output)
    quickstart = Path("configs", "quickstart.toml")  # a checkout has it
    config = quickstart if quickstart.exists() else "CONFIG.toml"
    console.print(
        f"{path}: a method that {KINDS[args.kind]}\n{test}: its test\n\n"
        f"fcil check-method {path}\npytest {test}\n"
        f"fcil run {config} --set method.name={path}\n\n"
        "What a method can change: docs/adding-a-method.md", soft_wrap=True, markup=False,
    )  # fmt: skip


def new_method_command(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command `new-method`."""
    parser = command("new-method", _new_method, "write a method's file and its test, to begin with")
    parser.add_argument("name", metavar="NAME", help="of the method and its file, in small letters: my_method")
    kinds = "; ".join(f"{kind}: {text}" for kind, text in KINDS.items())
    parser.add_argument("--kind", choices=KINDS, default="lora", help=f"{kinds} (default: lora)")
    parser.add_argument(
        "--output", type=Path, default=Path(), metavar="DIR", help="folder to write into (default: the current one)"
    )
