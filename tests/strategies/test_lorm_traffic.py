"""What LoRM sends in a whole run, to the byte, against the formula of its specification; and what never travels."""

import json

import pytest

from fcil.engine.simulation import prepare, simulate
from fcil.model.backbone import describe_backbone

RANK, ROUNDS, CLIENTS = 3, 3, 3


def half(n):
    return n * (n + 1) // 2


def formula(linears, width, classes, gram_a, shrink):
    """Numbers of float32 that one client sends in a task of three rounds, B, A, B, and a report."""

    def inputs(n):
        if gram_a.startswith("sketch"):
            return min(int(gram_a[7:]), n) * n + n
        return half(n) if gram_a == "full" else n

    head = classes * (width + 1) + (half(width) if shrink else width)
    b_round = sum(RANK * out + half(RANK) for out, _ in linears) + head
    a_round = sum(RANK * n + inputs(n) for _, n in linears) + head
    return 2 * b_round + a_round + sum(inputs(n) for _, n in linears)


@pytest.mark.parametrize(
    ("gram_a", "gram_b", "shrink"),
    [("diagonal", "diagonal", 0.5), ("diagonal", "exact", 0.0), ("full", "exact", 1.0),
     pytest.param("sketch:20", "exact", 0.5, marks=pytest.mark.slow)],
)  # fmt: skip
def test_upload_is_the_formula_to_the_byte(gram_a, gram_b, shrink, digits_config, tmp_path):
    method = {"name": "lorm", "rank": RANK, "gram_a": gram_a, "gram_b": gram_b, "head_gram_shrink": shrink}
    config = digits_config({"method": method, "train": {"rounds": ROUNDS}, "data": {"train_limit": 60}})
    session = prepare(config, tmp_path / "run")
    summary = simulate(session, tmp_path / "run")
    backbone = describe_backbone(config.model)
    linears = list(backbone.linears.values())
    tasks = session.plan.census.tasks
    numbers = sum(formula(linears, backbone.width, task.size, gram_a, shrink) for task in tasks)
    assert summary["upload_bytes"] == 4 * CLIENTS * numbers
    # Down: a module of both factors and the head's rows at first, what trained after every round, and in the second
    # task the first task's module once.
    module = sum(RANK * (out + n) for out, n in linears)
    b, a = sum(RANK * out for out, _ in linears), sum(RANK * n for _, n in linears)
    rows = sum(task.size for task in tasks) * (backbone.width + 1)
    down = len(tasks) * (module + b + a + b) + ROUNDS * rows + module * (len(tasks) - 1)
    assert summary["download_bytes"] == 4 * CLIENTS * down


def test_no_weight_of_the_backbone_ever_travels(digits_config, tmp_path):
    """Neither in a broadcast nor in a reply, by name and by size."""
    config = digits_config({"method": {"name": "lorm", "rank": RANK}, "data": {"train_limit": 60}})
    session = prepare(config, tmp_path / "run")
    frozen = set(session.worker.model.network.state_dict())
    sent = []
    work = type(session.worker).work

    def listening(worker, phase, broadcast, client):
        update = work(worker, phase, broadcast, client)
        sent.extend([*broadcast.arrays, *broadcast.references, *update.arrays, *update.statistics])
        return update

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(session.worker), "work", listening)
        simulate(session, tmp_path / "run")
    assert sent
    assert not frozen & {name.rpartition("/")[2] for name in sent}
    events = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    largest = max(e["bytes"] for e in events if e["event"] == "client")
    assert largest < 0.2 * sum(w.nbytes for w in session.worker.model.network.state_dict().values())
