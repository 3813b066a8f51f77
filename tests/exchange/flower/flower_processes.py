"""Which processes run, read from /proc."""

import os
import time
from pathlib import Path


def alive(pid):
    """Whether a process still runs; one that ended and was not waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pids, seconds=20.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(alive(pid) for pid in pids):
        time.sleep(0.1)
    return not any(alive(pid) for pid in pids)


def children(of=None):
    """Processes that a process (this one) started, and theirs: Ray's own daemons."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(stat.parent.name)] = int(text.rpartition(")")[2].split()[1])
    result, new = set(), {of or os.getpid()}
    while new:
        new = {pid for pid, parent in parents.items() if parent in new} - result
        result |= new
    return result
