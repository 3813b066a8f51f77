"""Every optional package is in the extra that `make test-extras` installs, and has a test that is run with it."""

import re
import tomllib
from pathlib import Path

from optional import ASKS

ROOT = Path(__file__).parent.parent
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
NOT_FOR_USERS = {"dev", "docs", "extras", "light", "test"}
"""Those for who works on fcil itself."""


def packages(extra):
    """The names of an extra's packages, those of other extras in it included."""
    names = set()
    for requirement in EXTRAS[extra]:
        name, inner = re.match(r"([\w-]+)(?:\[(.*)\])?", requirement).groups()
        names |= {p for other in inner.split(",") for p in packages(other)} if inner else {name}
    return names


def of_users():
    return set().union(*(packages(name) for name in EXTRAS.keys() - NOT_FOR_USERS))


def test_the_extra_of_all_optional_packages_lacks_none():
    assert {"argcomplete", "datasets", "wandb"} <= of_users() <= packages("extras")


def test_every_optional_package_is_asked_for_by_a_test():
    texts = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    asked = set(re.findall(rf'{ASKS}\("(\w+)', texts))
    alone = {re.match(r"[\w-]+", requirement)[0] for requirement in EXTRAS["extras"]} - {"fcil"}
    assert {name.replace("-", "_") for name in of_users() | alone} <= asked
