"""Figures by class, by client and of storage: against a count image by image, and in whole runs."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference_figures import answers, expected_at, macro, pooled
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from toys import Replay

import fcil
from fcil.arrays import nbytes, ungrouped
from fcil.cli.main import main
from fcil.engine import checkpoints
from fcil.engine.figures import (
    AT_ONCE,
    EARLIER,
    by_class,
    by_client,
    class_matrix,
    completed,
    first_reached,
    old_and_new,
)
from fcil.engine.metrics import SEQUENTIAL
from fcil.engine.simulation import prepare, simulate
from fcil.errors import ConfigError
from fcil.exchange.inline import Inline
from fcil.server.loop import run
from fcil.server.plan import initial_progress

TINY = {
    "data": {"train_limit": 40, "test_limit": 60},
    "model": {"image_size": 16},
    "partition": {"min_samples": 1},
    "method": {"name": "fedavg", "rank": 1},
}
"""Sections of a run of a second, on top of `digits_config`'s."""


@st.composite
def counts(draw):
    """Test images of some classes, of which one may have none but not all, and correct answers on the first of them."""
    total = draw(st.lists(st.integers(0, 9), min_size=1, max_size=7).filter(any))
    seen = draw(st.integers(next(i for i, n in enumerate(total) if n) + 1, len(total)))
    return [draw(st.integers(0, n)) for n in total[:seen]], total


@given(counts())
def test_classes_are_counted_image_by_image(given_counts):
    correct, total = given_counts
    figures = by_class(correct, total, [f"class {c}" for c in range(len(total))])
    assert figures["macro_accuracy"] == pytest.approx(macro(correct, total))
    shares = [sum(told) / len(told) if told else 2 for told in answers(correct, total)]
    assert figures["worst_class_accuracy"] == pytest.approx(min(shares))
    assert figures["worst_class"] == f"class {shares.index(min(shares))}"
    row = class_matrix([correct], total)[0]
    assert np.isnan(row[len(correct) :]).all()
    np.testing.assert_allclose(row[: len(correct)], [s if s <= 1 else np.nan for s in shares])


@given(counts(), st.integers(1, 4), st.integers(0, 1000))
def test_a_clients_accuracy_is_the_mean_over_its_images(given_counts, clients, seed):
    correct, total = given_counts
    images = np.random.default_rng(seed).integers(0, 4, (clients, len(total)))
    figures = by_client(images, correct, total)
    each = [expected_at(row, correct, total) for row in images]
    assert [value is None for value in figures["client_accuracy"]] == [value is None for value in each]
    known = [value for value in each if value is not None]
    if not known:
        assert figures["client_accuracy_mean"] is None
        return
    assert [v for v in figures["client_accuracy"] if v is not None] == pytest.approx(known)
    assert figures["client_accuracy_mean"] == pytest.approx(np.mean(known))
    assert figures["client_accuracy_worst"] == pytest.approx(min(known))
    assert figures["client_accuracy_std"] == pytest.approx(np.std(known))


def test_clients_with_the_shares_of_the_test_part_have_the_pooled_accuracy():
    correct, total = [3, 0, 8], [4, 2, 10]
    figures = by_client(np.array([total, [8, 4, 20]]), correct, total)
    assert figures["client_accuracy"] == pytest.approx([11 / 16] * 2)
    assert figures["client_accuracy_std"] == pytest.approx(0)


@given(st.integers(2, 5), st.integers(0, 1000))
def test_base_and_new_classes_are_pooled(tasks, seed):
    rng = np.random.default_rng(seed)
    total = rng.integers(1, 8, tasks).tolist()
    row = [int(rng.integers(0, n + 1)) for n in total]
    told = answers(row, total)
    base, later = pooled(told[:1]), pooled(told[1:])
    assert old_and_new([row], total) == pytest.approx({
        "base_accuracy": base, "later_accuracy": later, "old_accuracy": pooled(told[:-1]),
        "new_accuracy": pooled(told[-1:]),
        "harmonic_accuracy": 1 / (0.5 / base + 0.5 / later) if base and later else 0,
    })  # fmt: skip


def test_one_task_has_no_old_classes():
    assert set(old_and_new([[3]], [4, 9]).values()) == {None}


def events():
    """Two tasks of two rounds, 10 bytes down and 7 up each; a report at the first one's end."""
    accuracies = iter([0.5, None, 0.9, 0.3, 0.4])
    for task, round, kind in ((0, 1, "train"), (0, 2, "train"), (0, 3, "report"), (1, 1, "train"), (1, 2, "train")):
        yield {"event": "phase", "kind": kind, "task": task, "download_bytes": 10}
        yield {"event": "merged", "task": task, "upload_bytes": 7}
        accuracy = next(accuracies)
        if accuracy is not None:
            kind = "task" if (task, round) in ((0, 3), (1, 2)) else "round"
            yield {"event": kind, "task": task, "round": round, "accuracy": accuracy}


def test_the_first_crossing_counts_rounds_and_bytes_from_the_beginning():
    assert first_reached(events(), 0.3, 1) == (1, 1, 3, 28, 40, 0.3)
    assert first_reached(events(), 0.35, 1) == (1, 2, 4, 35, 50, 0.4)
    assert first_reached(events(), 0.41, 1) is None
    assert first_reached(events(), 0.51, 0) == (0, 3, 2, 21, 30, 0.9)


def test_without_evaluations_after_rounds_nobody_knows_the_first():
    with pytest.raises(ConfigError, match=r"run.evaluate_rounds: task 2 had 2 rounds"):
        first_reached((e for e in events() if e["event"] != "round"), 0.3, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run of three tasks, evaluated after every round."""
    settings = {
        "data": {"name": "digits", "train_limit": 150, "test_limit": 90},
        "model": {"image_size": 16},
        "tasks": {"count": 3},
        "partition": {"clients": 3, "min_samples": 1},
        "train": {"rounds": 2, "epochs": 1},
        "method": {"name": "fedavg", "rank": 2},
        "run": {"device": "cpu", "evaluate_rounds": True},
    }
    return fcil.run(settings, output=tmp_path_factory.mktemp("figures") / "run").folder


def test_a_run_counts_answers_by_class_and_they_add_up_to_those_of_tasks(folder):
    done = fcil.open_run(folder)
    sizes = [4, 4, 2]
    evaluations = [event for event in done.events if event["event"] in ("round", "task")]
    assert len(evaluations) == 6
    for event in evaluations:
        first = 0
        for right, n, size in zip(event["correct"], event["total"], sizes, strict=False):
            assert right == sum(event["class_correct"][first : first + size])
            assert n == sum(event["class_total"][first : first + size])
            first += size
        assert first == len(event["class_correct"]) == len(event["class_total"])
    summary = done.summary
    assert summary["class_correct"] == [e["class_correct"] for e in evaluations if e["event"] == "task"]
    assert summary["absent"] == {}
    assert done.figures["macro_accuracy"] == pytest.approx(np.nanmean(done.class_accuracy[-1]))
    assert done.figures["later_accuracy"] == sum(summary["correct"][-1][1:]) / sum(summary["total"][1:])
    assert done.class_accuracy.shape == (3, 10)
    assert np.isnan(done.class_accuracy[0]).tolist() == [False] * 4 + [True] * 6
    assert summary["state_bytes"][-1] == nbytes(ungrouped(done.state()))
    assert summary["client_bytes"] == [0, 0, 0]
    found = done.first_reached(0.0)
    assert (found.task, found.round, found.rounds) == (2, 1, 5)
    assert done.first_reached(1.01) is None


@pytest.mark.parametrize("method", ["fedavg", "joint"])
def test_a_run_of_the_first_tasks_has_the_figures_of_their_classes(method, folder, tmp_path):
    """Classes of the tasks that it leaves out are no part of anything; `joint` learns the others at once."""
    config = fcil.open_run(folder).config
    config = replace(config, tasks=replace(config.tasks, first=2), method=replace(config.method, name=method))
    done = fcil.run(config, output=tmp_path / "run")
    assert EARLIER not in done.summary["absent"].values()
    shares = np.array(done.summary["class_correct"][-1][:8]) / done.summary["class_total"][:8]
    assert done.figures["macro_accuracy"] == pytest.approx(shares.mean())
    assert done.figures["worst_class_accuracy"] == shares.min()
    assert {len(row) for row in done.summary["class_correct"]} <= {4, 8}
    rows = [len(a) for name, a in done.state()["head"].items() if name.endswith(".weight")]
    assert sum(rows) == 8, "no row of the head is of a class that is left out"
    found = done.first_reached(0.0)
    assert (found.task, found.round) == (1, 1)
    (done.folder / "summary.json").unlink()
    assert fcil.open_run(done.folder).title.endswith("2 of 2 tasks done")


def test_the_command_says_when_an_accuracy_was_reached(folder, capsys):
    assert main(["report", str(folder), "--reach", "0"]) == 0
    assert "0 % over all classes first reached in round 1 of task 3" in capsys.readouterr().out
    assert main(["report", str(folder), "--reach", "1.5"]) == 2
    assert "--reach '1.5': must be a share from 0 to 1" in capsys.readouterr().err


def as_before(folder):
    """Take out of a run folder what earlier versions did not record."""
    for path in (folder / "checkpoint").glob("*.safetensors"):
        with safe_open(path, "numpy") as file:
            progress = json.loads(file.metadata()["progress"])
        text = json.dumps({k: v for k, v in progress.items() if k not in ("class_correct", "kept", "storage")})
        arrays = load_file(path)
        save_file(arrays, path, {"progress": text, "sha256": checkpoints.checksum(text, arrays)})
    summary = json.loads((folder / "summary.json").read_text())
    old = {
        k: v for k, v in summary.items() if not k.startswith(("class", "client", "macro", "worst", "state", "absent"))
    }
    old = {k: v for k, v in old.items() if not k.endswith(("old_accuracy", "new_accuracy", "base_accuracy",
                                                           "later_accuracy", "harmonic_accuracy"))}  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(old))
    return summary


def test_records_of_old_are_read_and_say_what_they_lack(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "old")
    summary = as_before(tmp_path / "old")
    done = fcil.open_run(tmp_path / "old")
    for name in ("final_accuracy", "forgetting", "old_accuracy", "new_accuracy", "harmonic_accuracy"):
        assert done.figures[name] == summary[name]  # from answers by task, which they have
    assert np.isnan(done.figures["macro_accuracy"])
    assert done.absent["macro_accuracy"] == done.absent["client_accuracy_mean"] == done.absent["state_bytes"] == EARLIER
    assert "earlier version" in done._repr_html_()
    assert completed(done.summary) == done.summary
    (tmp_path / "old" / "summary.json").unlink()  # as if killed after the last checkpoint
    again = fcil.run(done.config, output=tmp_path / "old").summary
    assert again["sha256"] == summary["sha256"]
    assert again["correct"] == json.loads(json.dumps(summary["correct"]))
    assert again["macro_accuracy"] is None
    assert again["absent"]["state_bytes"] == EARLIER


def test_what_clients_keep_is_counted_after_each_task(digits_config):
    """Two samples more in every phase, a client's number and the phase's: int64 each."""
    config = digits_config(TINY)
    session = prepare(config, method=Replay(rank=2))
    recorded = []
    done = run(session.plan, initial_progress(session.plan), Inline(session.worker), recorded.append, lambda _: None)
    rounds = [phase.index + 1 for phase in session.plan.phases if session.plan.ends_task(phase.index)]
    assert [row.largest for row in done.storage] == [8 * (2 * n + 2) for n in rounds]
    assert [row.clients for row in done.storage] == [3 * 8 * (2 * n + 2) for n in rounds]
    ends = [event for event in recorded if event["event"] == "task"]
    assert [event["client_bytes"] for event in ends] == [row.clients for row in done.storage]


def test_classes_learned_at_once_have_the_figures_of_the_end(digits_config, tmp_path):
    config = digits_config(TINY, {"method": {"name": "joint", "rank": 1}})
    summary = simulate(prepare(config, tmp_path / "run"), tmp_path / "run")
    (row,) = summary["class_correct"]
    assert [sum(row[:5]), sum(row[5:])] == list(summary["correct"][-1])
    assert summary["harmonic_accuracy"] is not None
    assert summary["client_accuracy"] is None
    reasons = {name: why for name, why in summary["absent"].items() if not name.startswith("client")}
    assert reasons == dict.fromkeys(SEQUENTIAL, AT_ONCE)
    assert summary["absent"]["client_accuracy"] == "one client holds all images"
    assert {name for name, value in summary.items() if value is None} == summary["absent"].keys()
    assert len(summary["state_bytes"]) == 1
