"""What can go wrong through no fault of the program: one clear message for a person, no traceback."""

__all__ = ["ConfigError", "FcilError", "MergeError", "MethodError", "RunError"]


class FcilError(Exception):
    """A mistake in what the program was given; the command line prints it and exits with `exit_code`."""

    exit_code = 2


class ConfigError(FcilError):
    """A setting, a file or a command that cannot work, found before anything ran."""


class MergeError(FcilError):
    """Arrays that cannot be merged: no clients, names or shapes that differ, values that are not finite."""


class MethodError(FcilError):
    """A method that breaks the contract."""

    exit_code = 1


class RunError(FcilError):
    """A run that had to stop on the way; its last checkpoint is good and `fcil resume` goes on from there."""

    exit_code = 1
