"""Run folders and comparisons made of random records in milliseconds: what reports read, without any training."""

import json

import numpy as np
import tomli_w

from fcil.config import from_table, to_table
from fcil.engine.comparison import Cell
from fcil.engine.figures import by_class, by_client, old_and_new
from fcil.engine.grid import write_grid
from fcil.engine.metrics import accuracy_matrix, summarise
from fcil.method import Task
from fcil.scenario.census import Census

CLASSES, CLIENTS, TASKS = 6, 3, 3
NAMES = ("cat", "dog", "a <b>fox</b>", "owl", "bat & ball", 'the "newt"')
PHASES = (("train", 1), ("train", 2), ("report", 3))


def census_of(rng):
    """Two classes a task, random numbers of images, the first client without any of the last class."""
    held = rng.integers(0, 40, (CLIENTS, CLASSES))
    held[0, -1] = 0
    held[1] += 1
    tasks = tuple(Task(t, 2 * t, 2) for t in range(TASKS))
    train = np.stack([held[:, 2 * t : 2 * t + 2].sum(1) for t in range(TASKS)])
    total = rng.integers(5, 20, CLASSES)
    test = total.reshape(TASKS, 2).sum(1)[None]
    return Census(tasks, NAMES, train, test, held, total[None])


def events_of(rng, census, done):
    """Events of the first `done` tasks, and their rows of correct answers by task and by class."""
    events, by_task, rows = [], [], []
    for t in range(done):
        for kind, number in PHASES:
            place = {"phase": len(PHASES) * t + number - 1, "task": t, "round": number}
            down, up = (int(n) for n in rng.integers(10**5, 10**7, 2))
            events.append({"event": "phase", **place, "kind": kind, "clients": [0, 1, 2], "download_bytes": down})
            if (t, number) == (0, 1):
                events.append({"event": "refused", **place, "client": 1, "reason": "<script>alert(1)</script>"})
            merged = {"updates": 2 if (t, number) == (0, 1) else 3, "upload_bytes": up, "sha256": ""}
            times = {"seconds_clients": float(rng.uniform(0, 5)), "seconds_merge": float(rng.uniform(0, 1))}
            events.append({"event": "merged", **place, **merged, **times})
            if kind == "train":
                kinship = rng.uniform(-1, 1, (3, 3)).tolist()
                events.append({"event": "diagnostics", **place, "clients": [0, 1, 2], "client_kinship": kinship})
            else:
                kinship = rng.uniform(-1, 1, (t + 1, t + 1)).tolist()
                ends = {"tasks": list(range(t + 1)), "task_kinship": kinship, "intruders": {"blocks.0.qkv": 2}}
                events.append({"event": "diagnostics", **place, **ends})
        total = census.class_totals[: 2 * t + 2]
        rows.append([int(rng.integers(0, n + 1)) for n in total])
        by_task.append([sum(rows[-1][2 * s : 2 * s + 2]) for s in range(t + 1)])
        totals = census.totals[: t + 1]
        events.append({
            "event": "task", **place, "correct": by_task[-1], "total": totals, "class_correct": rows[-1],
            "accuracy": sum(by_task[-1]) / sum(totals), "class_total": total, "seconds": float(rng.uniform(0, 2)),
        })  # fmt: skip
    return events, by_task, rows


def write_run(folder, seed=0, done=TASKS, changes=None):
    """Write a run folder; finished where all tasks are done. Returns its config, census, events and summary."""
    rng = np.random.default_rng(seed)
    config = from_table([("test", {"run": {"seed": seed, "diagnostics": True}, "tasks": {"count": TASKS}}),
                         ("changes", changes or {})])  # fmt: skip
    census = census_of(rng)
    events, by_task, rows = events_of(rng, census, done)
    folder.mkdir(parents=True)
    provenance = {"commit": "abc", "versions": {"torch": "1.2.3"}, "method": {"rank": 16}, "data_sha256": "12ab"}
    (folder / "config.toml").write_text(tomli_w.dumps({**to_table(config), "provenance": provenance}))
    (folder / "census.json").write_text(json.dumps(census.to_table()))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    matrix = accuracy_matrix(by_task, census.totals)
    lines = [",".join(["", *(f"task_{s}" for s in range(TASKS))])]
    lines += [",".join([str(t), *("" if np.isnan(a) else repr(float(a)) for a in row)]) for t, row in enumerate(matrix)]
    (folder / "accuracy_matrix.csv").write_text("\n".join(lines) + "\n")
    summary = summary_of(config, census, events, by_task, rows) if done == TASKS else None
    if summary:
        (folder / "summary.json").write_text(json.dumps(summary))
    return config, census, events, summary


def summary_of(config, census, events, by_task, rows):
    merged = [event for event in events if event["event"] == "merged"]
    seconds = {
        "clients": sum(e["seconds_clients"] for e in merged), "merging": sum(e["seconds_merge"] for e in merged),
        "evaluation": sum(e["seconds"] for e in events if e["event"] == "task"),
    }  # fmt: skip
    return {
        "method": config.method.label, "seed": config.run.seed, **summarise(by_task, census.totals),
        "upload_bytes": sum(e["upload_bytes"] for e in merged),
        "download_bytes": sum(e["download_bytes"] for e in events if e["event"] == "phase"),
        "refused": 1, "asked": 3 * len(merged), "seconds": {**seconds, "total": sum(seconds.values())},
        **old_and_new(by_task, census.totals), **by_class(rows[-1], census.class_totals, census.classes),
        **by_client(census.by_class, rows[-1], census.class_totals), "state_bytes": [10**6] * TASKS,
        "client_bytes": [0] * TASKS, "client_bytes_max": [0] * TASKS, "absent": {}, "correct": by_task,
        "total": census.totals, "sha256": "ab" * 32,
    }  # fmt: skip


def write_comparison_folder(out, labels=("lorm", "fedavg"), seeds=(0, 1), unfinished=()):
    """Write a comparison whose runs are finished but for those named by (label, seed). Returns its cells."""
    cells = []
    for number, label in enumerate(labels):
        for seed in seeds:
            folder, changes = out / f"{label}-seed{seed}", {"method": {"name": label}, "run": {"seed": seed}}
            if (label, seed) in unfinished:
                config = from_table([("test", changes)])
            else:
                config, *_ = write_run(folder, 10 * number + seed, changes=changes)
            cells.append(Cell(label, seed, folder, config, work=(1.0,) * len(PHASES) * TASKS))
    write_grid(out, cells)
    return cells
