"""Says what failed when a run's folder cannot be written."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from fcil.errors import ConfigError, RunError

__all__ = ["writing"]


@contextmanager
def writing(folder: Path, begun: bool = True) -> Iterator[None]:
    """Turn the errors of a disk into one message: full, read-only, taken away, or the folder moved.

    Args:
        begun: whether the folder holds a run that can be gone on with.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
        if not begun:
            raise ConfigError(f"{folder}: cannot be written ({reason}); choose another --output") from None
        if not folder.exists():
            reason = f"it is not there any more, so it was moved or deleted: {reason}"
        raise RunError(
            f"{folder}: cannot be written ({reason}). The last checkpoint is good: make room or put the folder back, "
            "and go on with `fcil resume` and its place"
        ) from None
