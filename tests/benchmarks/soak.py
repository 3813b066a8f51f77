"""Runs very many rounds and watches the memory and the open files of the server's process and of Ray's workers.

    python tests/benchmarks/soak.py --rounds 1000 [--exchange ray] [--method lorm]

Prints, for the round at a tenth of the way and the last one, resident memory in MB and open descriptors, and what a
round takes on average. The first tenth is left out: caches of the libraries fill up then.
"""

import argparse
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from fcil.config import from_table
from fcil.engine.simulation import prepare, simulate

TABLE = {
    "data": {"name": "digits", "train_limit": 40, "test_limit": 20},
    "model": {"image_size": 16},
    "tasks": {"count": 1},
    "partition": {"clients": 2, "min_samples": 1},
    "run": {"device": "cpu", "workers": 1},
}


def resident(pid: int) -> int:
    """Resident memory of a process, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors(pid: int) -> int:
    """Number of a process's open descriptors."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def soak(rounds: int, folder: Path, exchange: str = "inline", method: str = "fedavg") -> list[dict[str, float]]:
    """Run so many rounds; round, memory (MB) and descriptors at every hundredth part of the way."""
    sections = {"train": {"rounds": rounds, "epochs": 1}, "method": {"name": method, "rank": 2}}
    config = from_table([("soak", TABLE), ("these", {**sections, "run": {"exchange": exchange}})])
    session, seen = prepare(config, folder), []
    carrier = session.exchange(folder)
    pids = [os.getpid(), *(carrier.grid.pids() if exchange == "ray" else ())]
    every, start = max(1, rounds // 100), time.monotonic()

    def listen(emit, progress):
        def tell(event):
            emit(event)
            if event["event"] == "merged" and event["round"] % every == 0:
                seen.append({
                    "round": event["round"], "mb": sum(map(resident, pids)) / 1e6, "open": sum(map(descriptors, pids)),
                    "seconds": time.monotonic() - start,
                })  # fmt: skip

        return tell

    simulate(session, folder, listen, carrier)
    return seen


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--exchange", choices=["inline", "ray"], default="inline")
    parser.add_argument("--method", default="fedavg")
    args = parser.parse_args()
    with TemporaryDirectory() as place:
        seen = soak(args.rounds, Path(place) / "run", args.exchange, args.method)
    for at in (seen[len(seen) // 10], seen[len(seen) // 2], seen[-1]):
        print("round {round}: {mb:.1f} MB resident, {open} descriptors, {seconds:.0f} s".format(**at), flush=True)
