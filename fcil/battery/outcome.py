"""Exceptions by which a check says that its promise is broken, was never made, or could not be checked."""

from fcil.errors import MethodError
from fcil.method import Phase

__all__ = ["Broken", "NotAsked", "NotReached"]


class Broken(MethodError):
    """Raised where a method breaks a promise; the text names the phase and the array, and says what to do."""

    def __init__(self, message: str, *functions: str, phase: Phase | None = None) -> None:
        """Note what is broken, in which phase, and whose fault it may be.

        Args:
            functions: names of the method's functions, or properties, of which one is to blame; an exception of the
                method's own, if there is one, is this exception's cause.
            phase: the phase in which it came out.
        """
        super().__init__(f"{phase}: {message}" if phase else message)
        self.functions, self.phase = functions, phase


class NotAsked(Exception):
    """Raised where a check is about a promise that this method does not make; the text says why."""


class NotReached(MethodError):
    """Raised where the trial run broke off before what is to be checked."""
