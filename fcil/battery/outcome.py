"""What a check may say other than that its promise holds."""

from fcil.errors import MethodError
from fcil.method import Phase

__all__ = ["Broken", "NotAsked", "NotReached"]


class Broken(MethodError):
    """A promise that a method breaks: which phase, which array, what to do."""

    def __init__(self, message: str, *functions: str, phase: Phase | None = None) -> None:
        """Say it.

        Args:
            functions: names of the method's functions, or properties, of which one is to blame; an exception of the
                method's own, if there is one, is this exception's cause.
            phase: in which it came out.
        """
        super().__init__(f"{phase}: {message}" if phase else message)
        self.functions, self.phase = functions, phase


class NotAsked(Exception):
    """The promise is none that this method makes; says why."""


class NotReached(MethodError):
    """The trial run broke off before what is to be checked."""
