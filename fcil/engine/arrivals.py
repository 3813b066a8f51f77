"""Keeps in the run folder of which clients secure sums may have been had, so that a resumed run asks for no others."""

import json
from collections.abc import Collection
from pathlib import Path

from fcil.engine.disk import writing
from fcil.errors import ConfigError
from fcil.files import write_atomic
from fcil.server.arrivals import Arrivals

__all__ = ["ARRIVALS", "KeptArrivals"]

ARRIVALS = "secure_sums.json"
"""Name of the file: phase -> the clients in its sum."""


class KeptArrivals(Arrivals):
    """`Arrivals` that outlive the server's process: written to disk before shares are asked for."""

    def __init__(self, folder: Path) -> None:
        """Read what an earlier process wrote into the run folder.

        Raises:
            ConfigError: the file is damaged.
        """
        self.path = folder / ARRIVALS
        super().__init__(_read(self.path))

    def keep(self, phase: int, clients: Collection[int]) -> None:
        """Write the clients of a phase. Raises RunError where the disk does not take it."""
        super().keep(phase, clients)
        table = {str(phase): sorted(clients) for phase, clients in sorted(self._known.items())}
        with writing(self.path.parent):
            write_atomic(self.path, (json.dumps(table) + "\n").encode())


def _read(path: Path) -> dict[int, list[int]]:
    try:
        return {
            int(phase): [int(client) for client in clients] for phase, clients in json.loads(path.read_text()).items()
        }
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: damaged ({error}). It says of which clients sums were had, and a sum of others in the same phase "
            "would tell single clients' numbers: put back a good copy, or begin another run with another run.seed"
        ) from None
