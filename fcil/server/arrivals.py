"""Remember for which clients' sums shares were asked for, so that a phase that is asked again is asked of the same."""

from collections.abc import Collection, Mapping

__all__ = ["Arrivals"]


class Arrivals:
    """The clients whose secure sum the server may have had, by phase; in memory here, in the run folder in a run.

    Two sums of one phase over different clients tell the numbers of those who are in one of them alone.
    """

    def __init__(self, clients_by_phase: Mapping[int, Collection[int]] | None = None) -> None:
        self._known = {phase: frozenset(clients) for phase, clients in (clients_by_phase or {}).items()}

    def of(self, phase: int) -> frozenset[int] | None:
        """The clients of a phase for whose sum shares were asked for; None where none were."""
        return self._known.get(phase)

    def keep(self, phase: int, clients: Collection[int]) -> None:
        """Remember the clients of a phase, before any share is asked for."""
        self._known[phase] = frozenset(clients)
