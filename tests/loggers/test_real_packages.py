"""The loggers write what their packages read again: TensorBoard's reader, MLflow's and trackio's stores, W&B offline.

Each test is skipped where its package is not installed; the packages are extras of fcil.
"""

import json
import struct
import subprocess
import sys
import time

import pytest

from fcil.loggers import RunInfo, build_loggers

pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages, about themselves and each other
CONFIG = {"train.lr": 0.01, "method.name": "lorm", "tasks.sizes": [5, 5], "provenance.commit": "abc"}
STEPS = {
    1: {"task": 1, "accuracy/class_owl": 0.25},
    2: {"task": 1, "accuracy/class_owl": 0.5},
    3: {"task": 2, "accuracy/after_task": 0.625},
}


def log(name, folder, done, steps, final=None, reason=""):
    """Log steps of a run that has had `done` phases before, as a process of it does."""
    logger = build_loggers([name])[name]
    logger.started(RunInfo(folder, "lorm-seed0", "pair", "0123456789ab", done, len(STEPS), CONFIG))
    for step in steps:
        logger.figures(step, STEPS[step])
    if final:
        logger.finished(final)
    logger.closed(reason)


def twice(name, folder):
    """A run that stopped after its second phase, of which the first was saved, and was gone on with."""
    log(name, folder, 0, [1, 2], reason="KeyboardInterrupt")
    log(name, folder, 1, [2, 3], {"final_accuracy": 0.75})


def test_tensorboard_reads_one_run_with_every_step_once(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install fcil[tensorboard]")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    twice("tensorboard", tmp_path)
    seen = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in seen.Scalars("accuracy/class_owl")] == [(1, 0.25), (2, 0.5)]
    assert [(e.step, e.value) for e in seen.Scalars("accuracy/after_task")] == [(2, 0.625)]
    assert [(e.step, e.value) for e in seen.Scalars("final/final_accuracy")] == [(3, 0.75)]
    assert "train.lr | `0.01`" in seen.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "hparams" in seen.summary_metadata["_hparams_/session_start_info"].plugin_data.plugin_name


@pytest.mark.slow  # MLflow takes ten seconds to make the tables of a new database
def test_mlflow_goes_on_with_the_run_of_this_id(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install fcil[mlflow]")
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    twice("mlflow", tmp_path)
    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("fcil").experiment_id])
    assert (run.info.run_name, run.info.status, run.data.tags["fcil.group"]) == ("lorm-seed0", "FINISHED", "pair")
    assert run.data.params["train.lr"] == "0.01"
    assert run.data.params["tasks.sizes"] == "[5, 5]"
    assert run.data.metrics["final/final_accuracy"] == 0.75
    history = client.get_metric_history(run.info.run_id, "accuracy/class_owl")
    assert {(m.step, m.value) for m in history} == {(1, 0.25), (2, 0.5)}
    (after_task,) = client.get_metric_history(run.info.run_id, "accuracy/after_task")
    assert (after_task.step, after_task.value) == (2, 0.625)


def records(path):
    """The records of a .wandb file: a header of 7 bytes, then blocks of 32 KiB with pieces (CRC, length, kind)."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, piece = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        piece += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece of one
            yield Record.FromString(piece)
            piece = b""


def key(item):
    return item.key or ".".join(item.nested_key)


def test_wandb_offline_has_both_parts_under_one_id(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed: pip install fcil[wandb]")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    log("wandb", tmp_path, 0, [1], reason="KeyboardInterrupt")
    time.sleep(1.0 - time.time() % 1.0)  # W&B names a part after the second in which it began
    log("wandb", tmp_path, 1, [2, 3], {"final_accuracy": 0.75})
    for _ in range(100):  # W&B's own process writes, and may not be done yet
        parts = [list(records(path)) for path in tmp_path.glob("wandb/offline-run-*/run-0123456789ab.wandb")]
        if sum(record.HasField("exit") for part in parts for record in part) == 2:
            break
        time.sleep(0.1)
    runs = [record.run for part in parts for record in part if record.WhichOneof("record_type") == "run"]
    assert {(r.run_id, r.project, r.display_name, r.run_group) for r in runs} == {
        ("0123456789ab", "fcil", "lorm-seed0", "pair")
    }
    assert {u.key: json.loads(u.value_json) for u in runs[0].config.update}["tasks.sizes"] == [5, 5]
    history = [{key(i): json.loads(i.value_json) for i in r.history.item} for part in parts for r in part]
    rows = {row["step"]: row for row in history if "step" in row}
    assert {step: row.get("accuracy/class_owl") for step, row in rows.items()} == {1: 0.25, 2: 0.5, 3: None}
    assert sorted(r.exit.exit_code for part in parts for r in part if r.HasField("exit")) == [0, 1]
    summary = {key(u): u.value_json for part in parts for r in part for u in r.summary.update}
    assert summary["final/final_accuracy"] == "0.75"


def test_trackio_goes_on_with_the_run_and_prints_nothing_on_standard_output(tmp_path):
    pytest.importorskip("trackio", reason="trackio is not installed: pip install fcil[trackio]")
    code = (  # a process of its own: trackio reads TRACKIO_DIR when it is imported
        "import sys; from pathlib import Path; from test_real_packages import twice; from trackio import Api\n"
        "twice('trackio', Path(sys.argv[1]))\n"
        "from trackio.sqlite_storage import SQLiteStorage as store; import json\n"
        "(run,) = store.get_runs('fcil')\n"
        "print(json.dumps([run, store.get_run_config('fcil', run), store.get_logs('fcil', run)]))"
    )
    here = str(__file__).rpartition("/")[0]
    env = {"TRACKIO_DIR": str(tmp_path / "trackio"), "PYTHONPATH": ":".join([here, *sys.path]), "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run, config, rows = json.loads(done.stdout)  # nothing but this line
    assert run == "lorm-seed0 012345"
    assert config["train.lr"] == 0.01
    assert {row["step"]: row["accuracy/class_owl"] for row in rows if "accuracy/class_owl" in row} == {1: 0.25, 2: 0.5}
    assert [row["final/final_accuracy"] for row in rows if "final/final_accuracy" in row] == [0.75]
