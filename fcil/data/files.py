"""Find, download, check and unpack the published files of a data set under `data.root`."""

import difflib
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from fcil.data.download import fetch, md5
from fcil.data.family import Family, File
from fcil.data.progress import bar
from fcil.data.settings import Data
from fcil.errors import ConfigError

__all__ = ["ensure", "refuse", "remedy", "require", "stamps"]


MOST_GUESSES = 50
"""Most folders in a wrong one that are looked into for the right one."""


def remedy(family: Family, root: str) -> str:
    """Tell the user which files to put into `root`, and where to get them."""
    if not family.files:
        return f"It must hold: {family.source}"
    where = ", ".join(f"{f.name} from {f.url}" if f.url else f.name for f in family.files)
    served = any(f.url for f in family.files)
    fetch = f"`fcil data prepare {family.name} --root {root} --download` fetches the files, or put" if served else "Put"
    return f"{fetch} there, as they are or unpacked: {where} ({family.source})"


def _missing(family: Family, file: File, root: Path) -> ConfigError:
    missing = f"neither {file.unpacks}/ nor {file.name}" if file.unpacks else f"no {file.name}"
    meant = _meant(root, lambda folder: _exists(file, folder))
    return ConfigError(f"data.root: {missing} in {root}. {meant}{remedy(family, str(root))}")


def _meant(root: Path, fits: Callable[[Path], bool]) -> str:
    """Guess which folder was meant in place of `root`: its parent, one in it, one of a similar name; or empty."""
    root = root if root.name not in ("", "..") else root.resolve()
    try:
        inside = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
        beside = {p.name: p for p in root.parent.iterdir() if p.is_dir()} if root.parent.is_dir() else {}
        alike = [beside[name] for name in difflib.get_close_matches(root.name, sorted(beside), cutoff=0.6)]
        likely = [root.parent, *inside[:MOST_GUESSES], *alike]
        folder = next((path for path in likely if path != root and fits(path)), None)
    except OSError:  # a folder that may not be read
        return ""
    return f"Did you mean {folder}? " if folder else ""


def _exists(file: File, root: Path) -> bool:
    return (root / file.name).is_file() or (bool(file.unpacks) and (root / file.unpacks).is_dir())


def require(family: Family, root: Path) -> None:
    """Raise ConfigError, which says which files to put where, if one of the data set is missing."""
    fits = family.fits or Path.is_dir
    if not family.files and not (root.is_dir() and fits(root)):
        missing = f"{root} does not hold it" if root.is_dir() else f"no folder {root.absolute()}"
        meant = _meant(root, family.fits) if family.fits else ""
        raise ConfigError(f"data.root: {missing}. {meant}{remedy(family, str(root))}")
    for file in family.files:
        if not _exists(file, root):
            raise _missing(family, file, root)


def _extract(path: Path, into: Path) -> None:
    """Unpack an archive without writing outside of `into`, whatever names it holds."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.startswith(("/", "\\")) or ".." in Path(name).parts:
                    raise ConfigError(f"{path}: holds the path {name!r}, which leads out of its folder; not unpacked")
            with bar(f"unpacking {path}", len(archive.namelist())) as advance:
                for name in archive.namelist():
                    archive.extract(name, into)
                    advance(1)
    else:
        with (
            open(path, "rb") as raw,
            bar(f"unpacking {path}", path.stat().st_size) as advance,
            tarfile.open(fileobj=raw) as archive_,
        ):
            archive_.extractall(into, _counted(archive_, raw, advance), filter="data")


def _counted(members: Iterable[tarfile.TarInfo], raw: IO[bytes], advance: Callable[[int], None]) -> Iterator[Any]:
    """Yield an archive's members one by one, and tell the bytes of the file that were read for each."""
    before = 0
    for member in members:
        yield member
        advance(raw.tell() - before)
        before = raw.tell()


def _unpack(file: File, root: Path) -> None:
    """Unpack under another name and rename, so that a folder that exists is complete."""
    path, aside = root / file.name, root / f".{file.unpacks}.unpacking"
    try:
        shutil.rmtree(aside, ignore_errors=True)  # left by a process that was killed; living ones hold the cache's lock
        _extract(path, aside)
        if not (aside / file.unpacks).is_dir():
            raise ConfigError(f"{path}: holds no folder {file.unpacks}; it is not the file of that name")
        (aside / file.unpacks).replace(root / file.unpacks)
    except (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError) as error:
        raise ConfigError(f"{path}: cannot be unpacked into {root} ({error})") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _differences(file: File, root: Path) -> list[str]:
    """Say how the files on disk differ from the authors', by their MD5."""
    wanted = {file.name: file.md5} | {f"{file.unpacks}/{name}": digest for name, digest in file.inside.items()}
    existing = {name: digest for name, digest in wanted.items() if digest and (root / name).is_file()}
    return [f"MD5 of {name} is not {digest}" for name, digest in existing.items() if md5(root / name) != digest]


def refuse(family: Family, root: Path, differences: list[str]) -> None:
    """Raise ConfigError if there are any differences from the authors' files."""
    if differences:
        raise ConfigError(
            f"{family.name} in {root}: not the official files: {'; '.join(differences)}. Fetch them again; or, if you "
            "mean these, set data.unofficial = true (fcil data prepare --unofficial), and the records will say so"
        )


def ensure(family: Family, root: Path, download: bool, admit: bool) -> tuple[list[str], list[str]]:
    """Make sure that all files of a data set are in place, checked and unpacked.

    Args:
        download: download files that are missing.
        admit: accept files that differ from the authors'; otherwise they are not even unpacked.

    Returns:
        The differences from the authors' files, and the names of the files whose checksum is the authors'.

    Raises:
        ConfigError: a file is missing (says what to put where), differs, cannot be downloaded or cannot be unpacked.
    """
    differences, checked = [], []
    if family.cached and not download:
        require(family, root)
    for file in family.files:
        if download and not _exists(file, root):
            fetch(file, root)
        of_file = _differences(file, root)
        if not admit:
            refuse(family, root, of_file)
        if file.unpacks and not (root / file.unpacks).is_dir():
            _unpack(file, root)
            of_file = of_file or _differences(file, root)
        differences += of_file
        if not of_file and ((file.md5 and (root / file.name).is_file()) or file.inside):
            checked.append(file.name)
    return differences, checked


def _stamp(path: Path) -> str:
    stat = path.stat()
    return f"{'' if path.is_dir() else stat.st_size} {stat.st_mtime_ns}".strip()


def stamps(family: Family, root: Path, settings: Data) -> dict[str, str]:
    """Name -> size and modification time of the files and unpacked folders that exist, to detect replaced ones."""
    names = [name for file in family.files for name in (file.name, file.unpacks) if name]
    existing = {name: _stamp(root / name) for name in names if (root / name).exists()}
    if not family.stamp or not root.is_dir():
        return existing
    there = family.fits is None or family.fits(root)
    content = family.stamp(root, settings) if there else "not there"
    return existing | ({"content": content} if content else {})
