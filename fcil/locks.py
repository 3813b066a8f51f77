"""Gives POSIX file locks, on which run folders and caches rely; says in one message where a system has none."""

from fcil.errors import ConfigError

try:
    import fcntl
except ImportError:
    raise ConfigError(
        "this system has no POSIX file locks, with which fcil keeps two processes out of one run folder; on Windows "
        "install and run fcil inside WSL 2 (docs/running.md, Operating systems)"
    ) from None

__all__ = ["fcntl"]
