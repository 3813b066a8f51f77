"""Fetching one published file over plain HTTP(S): resumable, checked, and whole or not there."""

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path

from fcil.data.family import File
from fcil.data.progress import bar
from fcil.errors import ConfigError

__all__ = ["fetch", "md5"]

BLOCK = 1 << 20
TIMEOUT = 30.0
"""Seconds without a byte after which the connection counts as lost."""


def md5(path: Path) -> str:
    """Of a file's content; authors publish MD5, which finds damage and is no protection against malice."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _receive(url: str, aside: Path) -> None:
    """Append to `aside` what it lacks; from the start where the server does not resume."""
    have = aside.stat().st_size if aside.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as reply:
        resumed = reply.status == http.client.PARTIAL_CONTENT
        length = reply.headers.get("Content-Length")
        left = int(length) if length else None
        with open(aside, "ab" if resumed else "wb") as file, bar(f"fetching {url}", left) as advance:
            while block := reply.read(BLOCK):
                file.write(block)
                advance(len(block))
                left = left - len(block) if left is not None else None
    if left:
        raise http.client.IncompleteRead(b"", left)


def fetch(file: File, root: Path) -> Path:
    """Fetch `file` into `root` unless it is there; a broken transfer is kept as NAME.part and goes on next time.

    Raises:
        ConfigError: no address, no connection, or other content than the authors'.
    """
    path, aside = root / file.name, root / f"{file.name}.part"
    if path.exists():
        return path
    if not file.url:
        raise ConfigError(f"{file.name}: its authors no longer serve it; put a copy into {root}")
    try:
        root.mkdir(parents=True, exist_ok=True)
        try:
            _receive(file.url, aside)
        except urllib.error.HTTPError as error:
            if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
            aside.unlink()  # longer than the file: no beginning of it
            _receive(file.url, aside)
    except (OSError, http.client.HTTPException) as error:
        raise ConfigError(
            f"{file.url}: cannot be fetched ({error}). The same command goes on with what has come so far; or put "
            f"{file.name} into {root} by hand"
        ) from None
    if file.md5 and (found := md5(aside)) != file.md5:
        aside.unlink()
        raise ConfigError(f"{file.url}: its MD5 is {found}, not the authors' {file.md5}; it was deleted. Try again")
    return aside.replace(path)
