"""Download one published file over plain HTTP(S): resumable, checked by MD5, and complete or absent."""

import hashlib
import http.client
import urllib.error
import urllib.request
from contextlib import nullcontext
from pathlib import Path

from fcil.data.family import File
from fcil.data.progress import bar
from fcil.errors import ConfigError

__all__ = ["fetch", "md5"]

BLOCK = 1 << 20
LARGE = 1 << 28
"""Bytes of a file from which on its checksum takes long enough for a bar."""
TIMEOUT = 30.0
"""Seconds without a byte after which the connection counts as lost."""


def md5(path: Path) -> str:
    """The MD5 of a file: the hash that authors publish, which detects damage but is no protection against malice."""
    digest, size = hashlib.md5(usedforsecurity=False), path.stat().st_size
    shown = bar(f"checking {path}", size) if size > LARGE else nullcontext(lambda done: None)
    with open(path, "rb") as file, shown as advance:
        while block := file.read(BLOCK):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


def _receive(url: str, aside: Path) -> None:
    """Append the rest of the file to `aside`; start again where the server cannot resume."""
    offset = aside.stat().st_size if aside.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={offset}-"} if offset else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as reply:
        resumed = reply.status == http.client.PARTIAL_CONTENT
        length = reply.headers.get("Content-Length")
        remaining = int(length) if length else None
        with open(aside, "ab" if resumed else "wb") as file, bar(f"fetching {url}", remaining) as advance:
            while block := reply.read(BLOCK):
                file.write(block)
                advance(len(block))
                remaining = remaining - len(block) if remaining is not None else None
    if remaining:
        raise http.client.IncompleteRead(b"", remaining)


def fetch(file: File, root: Path) -> Path:
    """Download `file` into `root` unless it is there; a broken transfer is kept as NAME.part and resumed next time.

    Raises:
        ConfigError: the file has no address, there is no connection, or the content is not the authors'.
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
            aside.unlink()  # longer than the file, so not a beginning of it
            _receive(file.url, aside)
    except (OSError, http.client.HTTPException) as error:
        raise ConfigError(
            f"{file.url}: cannot be fetched ({error}). The same command goes on with what has come so far; or put "
            f"{file.name} into {root} by hand"
        ) from None
    if file.md5 and (digest := md5(aside)) != file.md5:
        aside.unlink()
        raise ConfigError(f"{file.url}: its MD5 is {digest}, not the authors' {file.md5}; it was deleted. Try again")
    return aside.replace(path)
