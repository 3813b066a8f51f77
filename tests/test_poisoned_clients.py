"""The examples on poisoned clients and on noise, in a tiny form."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
TINY = (
    "data.train_limit=60", "data.test_limit=20", "tasks.count=1", "partition.kind=iid", "partition.clients=9",
    "train.rounds=1", "train.epochs=1",
)  # fmt: skip


def script(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def overrides(*texts):
    return [word for text in texts for word in ("--set", text)]


@pytest.mark.parametrize(("label", "attack"), [("fedavg", "flip"), ("ridge", "noise"), ("ridge, clip = 10", "labels")])
def test_poisoned_clients_make_a_table(monkeypatch, capsys, label, attack):
    module = script("poisoned_clients")
    monkeypatch.setattr(module, "FILTERS", ("none", "norm(factor = 2)"))
    tables = module.main(["--methods", label, "--attacks", attack, "--malicious", "0,2", *overrides(*TINY)])
    (lines,) = tables.values()
    assert [line.count("|") for line in lines] == [5] * 4
    assert capsys.readouterr().out.splitlines() == lines
    cells = [float(line.split("|")[3].split("(")[0]) for line in lines[2:]]
    assert all(0 <= cell <= 100 for cell in cells)


def test_labels_are_reversed_within_the_task_and_nothing_else_changes():
    from fcil.config import from_table
    from fcil.engine.simulation import prepare

    module = script("poisoned_clients")
    table = {
        "data": {"train_limit": 200},
        "tasks": {"count": 2},
        "partition": {"clients": 3},
        "method": {"name": "ridge"},
    }
    worker = prepare(from_table([("here", {**table, "method": {"name": "ridge"}})])).worker
    evil = module.mislabelled(worker)
    positions = worker.scenario.positions
    before, after = positions[worker.dataset.train.labels], positions[evil.dataset.train.labels]
    np.testing.assert_array_equal(after % 5, 4 - before % 5)
    np.testing.assert_array_equal(after // 5, before // 5)
    np.testing.assert_array_equal(evil.dataset.train.images, worker.dataset.train.images)
    assert evil.scenario is worker.scenario


def test_private_ridge_makes_a_table():
    pytest.importorskip("dp_accounting")
    module = script("private_ridge")
    lines = module.main(["--epsilon", "8", "--seeds", "0", *overrides(*TINY)])
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["8", "no noise"]
