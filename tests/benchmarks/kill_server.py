"""Kills the server's process of a run, or its Ray workers, at random instants; the run must end in the same bits.

    python tests/benchmarks/kill_server.py --kills 50                       # in process
    python tests/benchmarks/kill_server.py --kills 50 --exchange ray        # the driver of two Ray workers
    python tests/benchmarks/kill_server.py --kills 20 --victims workers     # workers, all in one run

Every kill of the server is a run of its own: begun, ended by SIGKILL at an instant drawn uniformly over the length of
an undisturbed run, from its first event (on Ray from the first reply, as workers import torch before that), and gone on
with to its end. The process is forked from this one, which has imported everything, so that the instants fall into the
run: into training, merging, and writing of checkpoints.
"""

import argparse
import os
import random
import select
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from fcil.config import Config, from_table
from fcil.engine.checkpoints import read_progress
from fcil.engine.records import read_summary
from fcil.engine.simulation import prepare, simulate

TABLE = {
    "data": {"name": "digits", "train_limit": 120, "test_limit": 60},
    "model": {"image_size": 16},
    "tasks": {"count": 3},
    "partition": {"clients": 3, "min_samples": 1},
    "train": {"rounds": 2, "epochs": 1},
    "method": {"name": "lorm", "rank": 2},
    "run": {"device": "cpu", "workers": 2},
}


def settings(exchange: str, **sections: dict[str, object]) -> Config:
    """The settings of a run of seconds."""
    return from_table([("kill_server", TABLE), ("exchange", {"run": {"exchange": exchange}}), ("more", sections)])


def start(config: Config, folder: Path) -> tuple[int, int]:
    """Fork a process that begins the run, or goes on with it; its pid, and a pipe that tells of its first event."""
    told, tells = os.pipe()
    pid = os.fork()
    if pid:
        os.close(tells)
        return pid, told
    os.close(told)
    try:
        os.setsid()

        def listen(emit, progress):
            def first(event):
                if config.run.exchange == "inline" or event["event"] != "phase":  # else the workers only start now
                    os.write(tells, b".")
                emit(event)

            return first

        simulate(prepare(config, folder), folder, listen)
        os._exit(0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)


def killed(config: Config, folder: Path, seconds: float) -> bool:
    """Kill a run so many seconds after its first event; False where it had ended before."""
    pid, told = start(config, folder)
    select.select([told], [], [])
    time.sleep(seconds)
    ended, status = os.waitpid(pid, os.WNOHANG)
    if not ended:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    elif status:
        raise RuntimeError(f"the run failed: status {status}")
    os.close(told)
    return not ended


def finished(config: Config, folder: Path) -> dict[str, object]:
    """Let a run go on to its end in a process of its own; its summary, and the seconds from its first event."""
    pid, told = start(config, folder)
    select.select([told], [], [])
    begin = time.monotonic()
    _, status = os.waitpid(pid, 0)
    os.close(told)
    if status:
        raise RuntimeError(f"the run failed: status {status}")
    return {**read_summary(folder), "lasted": time.monotonic() - begin}


def kill_servers(kills: int, exchange: str, folder: Path, seed: int = 0) -> dict[str, object]:
    """Kill so many runs, one by one, and compare what they end in with an undisturbed run."""
    config, rng = settings(exchange), random.Random(seed)
    undisturbed = finished(config, folder / "undisturbed")
    same, phases, late, n = 0, Counter[int](), 0, 0
    while sum(phases.values()) < kills:
        run = folder / f"run{n}"
        n += 1
        if not killed(config, run, rng.uniform(0, undisturbed["lasted"])):
            late += 1
            continue
        progress = read_progress(run)
        phases[progress.position if progress else 0] += 1
        done = finished(config, run)
        same += (done["sha256"], done["correct"]) == (undisturbed["sha256"], undisturbed["correct"])
        aside = [path for path in run.rglob(".*") if path.is_file()]
        assert not aside, f"left behind: {aside}"
    return {"kills": kills, "same bits": same, "ended before its kill": late, "seconds of a run": undisturbed["lasted"],
            "phases done when killed": dict(sorted(phases.items()))}  # fmt: skip


def kill_workers(kills: int, folder: Path, rounds: int = 20, seed: int = 0) -> dict[str, object]:
    """Kill so many workers in one run on two of them, at random instants of their work."""
    from fcil.exchange.flower.exchange import STORE, FlowerExchange
    from fcil.exchange.flower.ray_grid import RayGrid

    longer = {"rounds": rounds, "epochs": 1}
    undisturbed = finished(settings("inline", train=longer), folder / "undisturbed")
    config, rng, done, dead = settings("ray", train=longer), random.Random(seed), threading.Event(), set[int]()
    # a message is given up when its worker has died three times: not the question here
    grid = RayGrid(config.partition.clients, workers=2, retries=10 * kills)
    exchange = FlowerExchange(grid, config, store=str(folder / "killed" / STORE))

    def hunt() -> None:
        while len(dead) < kills and not done.is_set():
            alive = [pid for pid in list(grid._workers.running.values()) if pid not in dead]
            if alive:
                time.sleep(rng.uniform(0, 3))
                dead.add(victim := rng.choice(alive))
                os.kill(victim, signal.SIGKILL)
            else:
                time.sleep(0.05)

    hunter = threading.Thread(target=hunt)
    hunter.start()
    try:
        simulate(prepare(config, folder / "killed"), folder / "killed", exchange=exchange)
    finally:
        done.set()
        hunter.join()
    summary = read_summary(folder / "killed")
    same = (summary["sha256"], summary["correct"]) == (undisturbed["sha256"], undisturbed["correct"])
    return {"kills": len(dead), "same bits": same, "refused": summary["refused"], "phases": len(config_phases(config))}


def config_phases(config: Config) -> tuple[object, ...]:
    """The phases of a run."""
    return prepare(config).plan.phases


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--exchange", choices=["inline", "ray"], default="inline")
    parser.add_argument("--victims", choices=["server", "workers"], default="server")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with TemporaryDirectory() as place:
        if args.victims == "server":
            result = kill_servers(args.kills, args.exchange, Path(place), args.seed)
        else:
            result = kill_workers(args.kills, Path(place), seed=args.seed)
    for name, value in result.items():
        print(f"{name}: {value}", flush=True)
