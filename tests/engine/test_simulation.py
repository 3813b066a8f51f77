"""Run folder, resume, and the same bits after a kill at any instant."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from fcil import files
from fcil.client.settings import Train
from fcil.config import Config, MethodChoice, Run
from fcil.data import Data
from fcil.engine import checkpoints
from fcil.engine.records import read_summary
from fcil.engine.simulation import prepare, resume, simulate
from fcil.errors import ConfigError, MergeError, RunError
from fcil.exchange.inline import Inline
from fcil.merging import packed
from fcil.model.backbone import Model
from fcil.report.run import draw_run
from fcil.scenario.partition import Partition
from fcil.server.replies import Failure
from strategies.lorm import LoRM

SMALL = Config(
    data=Data(train_limit=100, test_limit=60),
    model=Model(image_size=16),
    partition=Partition(clients=3, min_samples=1, beta=0.5),
    train=Train(rounds=2, epochs=1),
    method=MethodChoice("lorm", {"rank": 2}),
)
ROOT = Path(__file__).parents[2]
RUN = "import sys; from fcil.cli.main import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    session = prepare(SMALL, folder)
    summary = simulate(session, folder)
    draw_run(session, folder, summary)
    return summary, folder


def test_what_deploys_counts_as_merging_and_not_as_evaluation(tmp_path, monkeypatch):
    deploy = LoRM.deploy

    def slow(*args):
        time.sleep(0.3)
        return deploy(*args)

    monkeypatch.setattr(LoRM, "deploy", slow)
    config = replace(SMALL, data=Data(train_limit=40, test_limit=20), train=Train(rounds=1, epochs=1))
    seconds = simulate(prepare(config, tmp_path / "run"), tmp_path / "run")["seconds"]
    assert seconds["merging"] > 5 * 0.3
    assert seconds["merging"] > seconds["evaluation"]


def test_run_folder_holds_what_it_promises(unbroken):
    summary, folder = unbroken
    assert {p.name for p in folder.iterdir()} >= {
        "config.toml", "census.json", "metrics.jsonl", "accuracy_matrix.csv", "summary.json", "checkpoint", "plots"
    }  # fmt: skip
    assert {p.name for p in (folder / "plots").iterdir()} == {"accuracy.png", "matrix.png", "clients.png"}
    assert {
        "final_accuracy", "final_accuracy_task_mean", "average_accuracy", "forgetting", "upload_bytes",
        "download_bytes", "seconds", "sha256",
    } <= summary.keys()  # fmt: skip
    assert json.loads((folder / "summary.json").read_text())["sha256"] == summary["sha256"]
    rows = [line.split(",") for line in (folder / "accuracy_matrix.csv").read_text().splitlines()]
    assert [len(row) for row in rows] == [6] * 6
    assert [sum(cell != "" for cell in row[1:]) for row in rows[1:]] == [1, 2, 3, 4, 5]
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert sum(e["event"] == "phase" for e in events) == 15
    up = sum(e["upload_bytes"] for e in events if e["event"] == "merged")
    assert up == summary["upload_bytes"] == sum(e["bytes"] for e in events if e["event"] == "client")
    assert list(folder.rglob(".*")) == []


def test_every_reply_has_the_bytes_that_the_protocol_page_states(unbroken):
    """docs/protocol.md: what a client of LoRM sends; here r = 2, c = 2, d = 128, four blocks."""
    r, c, d, blocks = 2, 2, 128, 4
    outs, ins = blocks * (3 * d + d + 3 * d + d), blocks * (d + d + d + 3 * d)
    head = c * (d + 1) + d * (d + 1) // 2
    numbers = {
        1: r * outs + 4 * blocks * r * (r + 1) // 2 + head,  # a B round
        2: r * ins + ins + head,  # an A round
        3: ins,  # the report
    }
    events = [json.loads(line) for line in (unbroken[1] / "metrics.jsonl").read_text().splitlines()]
    sent = [(e["round"], e["bytes"]) for e in events if e["event"] == "client"]
    assert len(sent) == 45
    assert all(size == 4 * numbers[round_] for round_, size in sent)


def test_two_runs_in_fresh_processes_end_in_the_same_bits(unbroken, tmp_path):
    code = (
        "from tests.engine.test_simulation import *; from pathlib import Path; import sys;"
        "f = Path(sys.argv[1]); print(simulate(prepare(SMALL, f), f)['sha256'])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.strip() == unbroken[0]["sha256"]


def test_the_same_command_shows_a_finished_run_and_refuses_another(unbroken):
    summary, folder = unbroken
    assert simulate(prepare(SMALL, folder), folder)["sha256"] == summary["sha256"]
    other = replace(SMALL, train=replace(SMALL.train, lr=0.1), method=MethodChoice("lorm", {"rank": 2, "lr_a": 0.1}))
    with pytest.raises(ConfigError, match=r"holds another run, which differs in method\.lr_a, train\.lr \(see"):
        simulate(prepare(other, folder), folder)
    other = replace(SMALL, run=replace(SMALL.run, evaluation_batch=7))  # which may turn a tie
    with pytest.raises(ConfigError, match=r"differs in run\.evaluation_batch \(see"):
        simulate(prepare(other, folder), folder)


def test_a_folder_that_is_no_run_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match="not a run folder"):
        simulate(prepare(SMALL, tmp_path), tmp_path)
    with pytest.raises(ConfigError, match="not a run folder"):
        resume(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


class Stop(BaseException):
    """Not an Exception: nothing may swallow it."""


class Faulty(Inline):
    """Replies as asked, except where `spoil` says otherwise; `stop_at` ends the process's work in the middle."""

    def __init__(self, worker, spoil=None, stop_at=None):
        super().__init__(worker)
        self.spoil, self.stop_at = spoil, stop_at

    def __call__(self, request):
        for number, reply in enumerate(super().__call__(request)):
            if self.stop_at == (request.phase.index, number):
                raise Stop
            yield from self.spoil(request.phase, reply) if self.spoil else (reply,)


@pytest.mark.parametrize("stop_at", [(0, 0), (2, 1), (7, 0), (14, 2)])
def test_a_run_stopped_in_the_middle_of_a_phase_ends_in_the_same_bits(unbroken, tmp_path, stop_at):
    session = prepare(SMALL, tmp_path / "run")
    with pytest.raises(Stop):
        simulate(session, tmp_path / "run", exchange=Faulty(session.worker, stop_at=stop_at))
    summary = simulate(resume(tmp_path / "run"), tmp_path / "run")
    for key in ("sha256", "correct", "upload_bytes", "download_bytes", "images"):
        assert summary[key] == unbroken[0][key] or json.loads(json.dumps(summary[key])) == json.loads(
            json.dumps(unbroken[0][key])
        )
    phases = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [e["phase"] for e in phases if e["event"] == "phase"] == list(range(15))


def with_old_keys(folder):
    """Rename the keys of a run folder to those of runs before `right` became `correct`."""
    for path in (folder / "checkpoint").glob("*.safetensors"):
        with safe_open(path, "numpy") as file:
            progress = file.metadata()["progress"].replace('"correct"', '"right"')
        arrays = load_file(path)
        save_file(arrays, path, {"progress": progress, "sha256": checkpoints.checksum(progress, arrays)})
    for path in (folder / "metrics.jsonl", folder / "summary.json"):
        if path.exists():  # as many bytes as before: a checkpoint holds the length of the events
            path.write_text(path.read_text().replace('"correct": [', '"right":   ['))


def test_a_run_folder_from_before_right_became_correct_is_resumed_and_read(unbroken, tmp_path):
    folder = tmp_path / "run"
    session = prepare(SMALL, folder)
    with pytest.raises(Stop):
        simulate(session, folder, exchange=Faulty(session.worker, stop_at=(7, 0)))
    with_old_keys(folder)
    summary = simulate(resume(folder), folder)
    assert summary["sha256"] == unbroken[0]["sha256"]
    assert summary["correct"] == unbroken[0]["correct"]
    with_old_keys(folder)
    assert '"right"' in (folder / "summary.json").read_text()
    old = simulate(resume(folder), folder)
    assert "right" not in old
    assert old["correct"] == json.loads(json.dumps(summary["correct"]))
    draw_run(resume(folder), folder, old)


def test_a_run_whose_defaults_have_changed_does_not_go_on_as_another(tmp_path):
    folder = tmp_path / "run"
    session = prepare(SMALL, folder)
    with pytest.raises(Stop):
        simulate(session, folder, exchange=Faulty(session.worker, stop_at=(4, 0)))
    recorded = (folder / "config.toml").read_text()
    assert recorded.count("head_gram_shrink = ") == 1
    before = re.sub("head_gram_shrink = .*", "head_gram_shrink = 0.77", recorded)
    (folder / "config.toml").write_text(before)
    with pytest.raises(ConfigError, match=r"differs in method.head_gram_shrink \(its default was 0.77 and is "):
        simulate(resume(folder), folder)
    (folder / "config.toml").write_text(re.sub("head_gram_shrink = .*\n", "", recorded))
    assert simulate(resume(folder), folder)["sha256"], "a setting that came later, with a default that changes nothing"


@pytest.mark.parametrize("damage", ["torn", "flipped", "empty"])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_used(unbroken, tmp_path, damage):
    folder = tmp_path / "run"
    session = prepare(SMALL, folder)
    with pytest.raises(Stop):
        simulate(session, folder, exchange=Faulty(session.worker, stop_at=(4, 0)))
    newest = max((folder / "checkpoint").glob("*.safetensors"))
    content = newest.read_bytes()
    flipped = content[:-100] + bytes([content[-100] ^ 1]) + content[-99:]
    newest.write_bytes({"torn": content[: len(content) // 2], "flipped": flipped, "empty": b""}[damage])
    seen = []

    def listen(record, progress):
        assert progress.position == 3
        return lambda event: (record(event), seen.append(event))

    assert simulate(resume(folder), folder, listen)["sha256"] == unbroken[0]["sha256"]
    assert [newest.name in e["reason"] for e in seen if e["event"] == "warning"] == [True]


def test_two_processes_cannot_work_on_one_run(tmp_path):
    folder = tmp_path / "run"
    session = prepare(SMALL, folder)

    def spoil(phase, reply):
        with pytest.raises(ConfigError, match="another process"):
            simulate(session, folder)
        raise Stop

    with pytest.raises(Stop):
        simulate(session, folder, exchange=Faulty(session.worker, spoil))


def _with(update, name, value):
    return replace(update, arrays={**update.arrays, name: value})


FAULTS = {
    "raises": (lambda u, n: [Failure(u.client, "RuntimeError: out of memory")], "out of memory"),
    "nan": (lambda u, n: [_with(u, n, np.full_like(u.arrays[n], np.nan))], "NaN"),
    "inf": (lambda u, n: [_with(u, n, np.full_like(u.arrays[n], np.inf))], "infinite"),
    "shape": (lambda u, n: [_with(u, n, np.zeros((1, 1), np.float32))], "shape"),
    "type": (lambda u, n: [_with(u, n, u.arrays[n].astype(np.int64))], "type int64"),
    "missing": (lambda u, n: [replace(u, arrays={})], "missing"),
    "extra": (lambda u, n: [_with(u, "more", np.zeros(1, np.float32))], "more"),
    "count": (lambda u, n: [replace(u, num_examples=u.num_examples + 1)], "training samples"),
    "stale": (lambda u, n: [replace(u, phase=0)], "stale"),
    "duplicate": (lambda u, n: [u, u], "second reply"),
    "silent": (lambda u, n: [], None),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_client_costs_its_own_update_and_is_named(tmp_path, fault):
    spoiled, reason = FAULTS[fault]

    def spoil(phase, reply):
        first = next(iter(reply.arrays), None)
        return spoiled(reply, first) if (phase.index, reply.client) == (1, 2) else [reply]

    folder = tmp_path / "run"
    config = replace(SMALL, tasks=replace(SMALL.tasks, count=2))
    session = prepare(config, folder)
    summary = simulate(session, folder, exchange=Faulty(session.worker, spoil))
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    refused = [e for e in events if e["event"] == "refused"]
    if reason is not None:
        assert [(e["client"], e["task"], e["round"]) for e in refused] == [(2, 0, 2)]
        assert reason in refused[0]["reason"]
    merged = [e["updates"] for e in events if e["event"] == "merged"]
    assert merged == [3, 3 if fault == "duplicate" else 2, 3, 3, 3, 3]
    assert summary["refused"] == (0 if fault == "duplicate" else 1)


def test_too_few_good_updates_stop_the_run_with_a_usable_checkpoint(unbroken, tmp_path):
    folder = tmp_path / "run"
    config = replace(SMALL, run=replace(SMALL.run, min_clients=2))
    session = prepare(config, folder)

    def spoil(phase, reply):
        return [Failure(reply.client, "ill")] if phase.index == 4 and reply.client < 2 else [reply]

    with pytest.raises(RunError, match=r"1 of 3 clients.*min_clients = 2"):
        simulate(session, folder, exchange=Faulty(session.worker, spoil))
    assert read_summary(folder) is None
    assert simulate(resume(folder), folder)["sha256"] == unbroken[0]["sha256"]


def test_settings_that_do_not_fit_stop_before_anything_is_written(tmp_path):
    for config, message in [
        (replace(SMALL, method=MethodChoice("lorm", {"rank": 129})), "between 1 and 128"),
        (replace(SMALL, method=MethodChoice("lorn", {})), "Did you mean 'lorm'"),
        (replace(SMALL, run=Run(min_clients=4)), "partition.clients = 3"),
        (replace(SMALL, partition=Partition(clients=100)), "partition.clients = 100"),
        (replace(SMALL, tasks=replace(SMALL.tasks, sizes=(3, 3))), "sum to 6"),
    ]:
        with pytest.raises(ConfigError, match=message):
            prepare(config, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(4))
def test_sigkill_at_random_instants(unbroken, tmp_path, attempt):
    """Kill the process again and again, whatever it is doing, and let `fcil resume` finish."""
    config = tmp_path / "small.toml"
    config.write_text(
        "data = {train_limit = 100, test_limit = 60}\nmodel = {image_size = 16}\n"
        "partition = {clients = 3, min_samples = 1, beta = 0.5}\n"
        'train = {rounds = 2, epochs = 1}\nmethod = {name = "lorm", rank = 2}\n'
    )
    folder = tmp_path / "run"
    rng = random.Random(attempt)
    command = [sys.executable, "-c", RUN, "run", str(config), "--output", str(folder)]
    kills = 0
    while kills < 3:
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        waited_for = time.monotonic() + 30
        while not (folder / "config.toml").exists() and time.monotonic() < waited_for and child.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 2.5))
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            kills += 1
        child.wait()
        if read_summary(folder):
            break
        command = [sys.executable, "-c", RUN, "resume", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert kills >= 1
    assert read_summary(folder)["sha256"] == unbroken[0]["sha256"]


class _Kill(Exception):
    pass


@pytest.mark.parametrize(
    ("module", "moment"), [(checkpoints, "save_file"), (files, "sync_folder"), (checkpoints, "checksum")]
)
def test_a_kill_while_a_checkpoint_is_written(unbroken, tmp_path, monkeypatch, module, moment):
    """The process ends between any two steps of writing a checkpoint: before, during and after the rename."""
    folder = tmp_path / "run"
    original, calls = getattr(module, moment), []

    def dies(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            if moment == "save_file":  # half of it reached the disk
                original(*arguments)
                Path(arguments[1]).write_bytes(Path(arguments[1]).read_bytes()[:1000])
            raise _Kill
        return original(*arguments)

    monkeypatch.setattr(module, moment, dies)
    with pytest.raises(_Kill):
        simulate(prepare(SMALL, folder), folder)
    monkeypatch.undo()
    assert simulate(resume(folder), folder)["sha256"] == unbroken[0]["sha256"]
    assert list(folder.rglob(".*")) == []


def test_values_that_are_finite_but_ruin_the_merge_stop_the_run_and_leave_a_good_checkpoint(tmp_path):
    """Grams wrong off their diagonals pass the checks of single updates; what they make of the state does not."""

    def indefinite(a):
        wrong = -1000 * a
        if packed.is_half(a):
            places = np.cumsum([0, *range(packed.side(a), 1, -1)])
            wrong[places] = a[places]
            return wrong
        return a

    class Hostile(Inline):
        def __call__(self, request):
            for reply in super().__call__(request):
                bad = request.phase.index == 1 and reply.client == 1
                huge = {n: np.full_like(a, 3e38) for n, a in reply.arrays.items()}
                wrong = {n: indefinite(a) for n, a in reply.statistics.items()}
                yield replace(reply, arrays=huge, statistics=wrong) if bad else reply

    session = prepare(SMALL, tmp_path / "run")
    with pytest.raises(RunError, match="infinite or NaN"), np.errstate(all="ignore"):
        simulate(session, tmp_path / "run", exchange=Hostile(session.worker))
    assert simulate(resume(tmp_path / "run"), tmp_path / "run")["final_accuracy"] > 0


def test_updates_that_a_method_cannot_merge_are_told_with_their_phase(tmp_path):
    class Still(Inline):
        def __call__(self, request):
            for reply in super().__call__(request):
                yield replace(reply, arrays={name: request.broadcast.arrays[name] for name in reply.arrays})

    config = replace(SMALL, method=MethodChoice("ties", {"rank": 2, "at": "round"}))
    session = prepare(config, tmp_path / "run")
    with pytest.raises(MergeError, match=r"^task 1, round 1: nothing to merge: all changes of 3 experts are zero"):
        simulate(session, tmp_path / "run", exchange=Still(session.worker))
