"""Which tests ask for an optional package, by `pytest.importorskip`, and what that is where all must be there."""

import re
import sys
import warnings

__all__ = ["needed", "needs_a_package"]

ASKS = "importorskip"


def needed(name, *_, **__):
    """Import a package as `pytest.importorskip` does, but raise where it is missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as that function does
        __import__(name)
    return sys.modules[name]


def needs_a_package(item):
    """Tell whether a test, a fixture of its or its whole file is skipped where an optional package is missing."""
    fixtures = [fixture for found in item._fixtureinfo.name2fixturedefs.values() for fixture in found]
    functions = [item.function, *(fixture.func for fixture in fixtures)]
    if any(ASKS in function.__code__.co_names for function in functions if hasattr(function, "__code__")):
        return True
    return re.search(rf"^\S.*{ASKS}\(", item.path.read_text(), re.MULTILINE) is not None
