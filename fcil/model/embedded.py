"""Find the files that ship with the package, beside the code or through the installed distribution.

Code may run from a copy that carries only .py and .toml files (Flower ships an app that way); the weights are then
those of the installed distribution.
"""

import json
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlparse

from fcil.errors import ConfigError

__all__ = ["asset"]


def _places() -> list[Path]:
    places = [Path(__file__).parents[1]]
    try:
        distribution = metadata.distribution("fcil")
    except metadata.PackageNotFoundError:
        return places
    places.append(Path(str(distribution.locate_file("fcil"))))
    origin = json.loads(distribution.read_text("direct_url.json") or "{}").get("url", "")
    if origin.startswith("file://"):  # an editable install
        places.append(Path(unquote(urlparse(origin).path)) / "fcil")
    return places


def asset(name: str) -> Path:
    """Find an embedded file and return its path.

    Raises:
        ConfigError: the file is not there, which means a broken installation.
    """
    places = [place / "assets" / name for place in _places()]
    for path in places:
        if path.is_file():
            return path
    raise ConfigError(f"{name} is missing from {places[0].parent}: install fcil again (pip install -e .)")
