"""Installs the checkout into an environment and says on one line each what it is doing; `make` runs it.

It runs before anything is installed, so it uses the standard library alone, and it is not part of the wheel.
"""

import re
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

__all__ = ["main", "steps", "watched"]

LARGE = {"MB": 100.0, "GB": 0.0}
"""Unit -> size above which a download has a line of its own; the others are counted."""
PIP = ("-m", "pip", "install", "--disable-pip-version-check", "--no-color", "--progress-bar", "off")


def steps(lines: Iterable[str]) -> Iterable[str]:
    """Tell what pip is doing, one text for each step, from the lines that it prints."""
    chosen, fetched = 0, 0
    for line in lines:
        words = line.split()
        if words[:1] == ["Collecting"]:
            chosen += 1
            if chosen == 1:
                yield "choosing and downloading packages; about 6 GB where torch comes with CUDA"
        elif words[:1] == ["Downloading"]:
            fetched += 1
            size = re.search(r"\((?P<number>[\d.]+) (?P<unit>[kKMG]?B)\)", line)
            if size and float(size["number"]) >= LARGE.get(size["unit"], float("inf")):
                yield f"downloading {Path(words[1]).name.partition('-')[0]}, {size['number']} {size['unit']}"
        elif line.startswith("Installing collected packages:"):
            count = len(line.partition(":")[2].split(","))
            yield f"writing {count} packages, {fetched} of them downloaded; no line comes until all are written"


def watched(command: Sequence[str], tell: Callable[[str], None]) -> int:
    """Run pip, tell its steps, and where it fails show all that it printed; gives its exit code."""
    printed: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None

        def kept() -> Iterable[str]:
            for line in process.stdout or ():
                printed.append(line)
                yield line

        for step in steps(kept()):
            tell(step)
    if process.returncode:
        tell("pip failed; all that it said:")
        print("".join(printed), end="", flush=True)
    return process.returncode


def main(folder: Path, what: str) -> int:
    """Make the environment `folder` unless it exists, and install `what` into it."""
    began = time.monotonic()

    def tell(text: str) -> None:
        print(f"[{time.monotonic() - began:4.0f} s] {text}", flush=True)

    python = folder / "bin" / "python"
    if not python.exists() or not (folder / "bin" / "pip").exists():  # or whoever made it was stopped in between
        tell(f"making the environment {folder} with Python {'.'.join(map(str, sys.version_info[:3]))}")
        venv.create(folder, with_pip=True, symlinks=True)
    code = watched([str(python), *PIP, "-e", what], tell)
    if not code:
        tell(f"installed into {folder}")
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
