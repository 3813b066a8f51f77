"""Errors that are not faults of the program: each is shown to the user as one clear message, without a traceback."""

__all__ = ["ConfigError", "FcilError", "FilesMissing", "FolderInUse", "MergeError", "MethodError", "RunError"]


class FcilError(Exception):
    """The base of these errors; the command line prints the message and exits with `exit_code`."""

    exit_code = 2


class ConfigError(FcilError):
    """A setting, a file or a command that cannot work; raised before anything runs."""


class FilesMissing(ConfigError):
    """A data set whose files are not there."""


class FolderInUse(ConfigError):
    """A run folder on which another process works: its run is that process's until it ends."""


class MergeError(FcilError):
    """Arrays that cannot be merged: no clients, names or shapes that differ, values that are not finite."""


class MethodError(FcilError):
    """A method that breaks the contract."""

    exit_code = 1


class RunError(FcilError):
    """A run that had to stop before its end; its last checkpoint is good and `fcil resume` continues from there."""

    exit_code = 1
