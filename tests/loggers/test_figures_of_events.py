"""Figures by name, made of the events of a phase."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcil.engine.client_events import Summary
from fcil.loggers import figures_of, final_figures

PLACE = {"phase": 3, "task": 1, "round": 2}
METRICS = st.fixed_dictionaries(
    {"bytes": st.integers(0, 9), "images": st.integers(1, 9)},
    optional={"loss": st.floats(0, 9), "own": st.floats(-9, 9)},
)


def phase(clients):
    """The events of a phase in which clients sent these metrics."""
    yield {"event": "phase", **PLACE, "kind": "train", "clients": [*range(len(clients))], "download_bytes": 7}
    for client, metrics in enumerate(clients):
        yield {"event": "client", **PLACE, "client": client, **metrics}
    yield {
        "event": "merged", **PLACE, "updates": len(clients), "upload_bytes": 5, "seconds_clients": 2.0,
        "seconds_merge": 0.5, "sha256": "",
    }  # fmt: skip


@given(st.lists(METRICS, min_size=1, max_size=5))
def test_a_phase_has_its_traffic_its_seconds_and_the_losses_of_its_clients(clients):
    found = figures_of(phase(clients))
    assert (found["task"], found["round"], found["updates/good"]) == (2, 2, len(clients))
    assert (found["traffic/download_bytes"], found["traffic/upload_bytes"]) == (7, 5)
    assert (found["seconds/clients"], found["seconds/merge"]) == (2.0, 0.5)
    assert found["images_per_second"] == sum(metrics["images"] for metrics in clients) / 2.0
    losses = {f"loss/client_{i}": metrics["loss"] for i, metrics in enumerate(clients) if "loss" in metrics}
    assert {name: value for name, value in found.items() if name.startswith("loss/client_")} == losses
    if losses:
        assert found["loss/mean"] == pytest.approx(np.mean([*losses.values()]))
    assert found["clients/bytes"] == pytest.approx(np.mean([metrics["bytes"] for metrics in clients]))


@given(st.lists(st.fixed_dictionaries({"bytes": st.integers(0, 9), "loss": st.floats(0, 9)}), min_size=1, max_size=5))
def test_sums_over_clients_give_the_same_figures_but_no_single_losses(clients):
    summed = []
    summary = Summary(summed.append)
    for event in phase(clients):
        summary(event)
    each = {name: value for name, value in figures_of(phase(clients)).items() if "client_" not in name}
    assert figures_of(summed) == pytest.approx(each)


def test_accuracies_are_those_of_tasks_classes_and_sites_that_have_test_images():
    event = {
        "event": "task", **PLACE, "accuracy": 0.5, "seconds": 1.5, "correct": [1, 2], "total": [4, 2],
        "class_correct": [1, 0, 2], "class_total": [2, 2, 0],
        "sites": {"correct": [[1, 1], [0, 0]], "total": [[2, 1], [0, 0]]},
    }  # fmt: skip
    found = figures_of([event], ["owl", "elk"])
    assert found == {
        "accuracy/all": 0.5, "accuracy/after_task": 0.5, "accuracy/task_1": 0.25, "accuracy/task_2": 1.0,
        "accuracy/class_owl": 0.5, "accuracy/class_elk": 0.0, "accuracy/site_0": 2 / 3, "seconds/evaluation": 1.5,
    }  # fmt: skip


def test_a_round_between_is_no_end_of_a_task():
    event = {"event": "round", **PLACE, "accuracy": 0.5, "seconds": 1.0, "correct": [1], "total": [2]}
    assert figures_of([event]) == {"accuracy/all": 0.5, "accuracy/task_1": 0.5, "seconds/evaluation": 1.0}


def test_what_is_missing_is_counted_and_kinship_is_the_mean_over_pairs():
    kinship = [[1.0, 0.2, 0.4], [0.2, 1.0, 0.6], [0.4, 0.6, 1.0]]
    found = figures_of([
        {"event": "refused", **PLACE, "client": 1, "reason": "late"},
        {"event": "refused", **PLACE, "client": 2, "reason": "late"},
        {"event": "filtered", **PLACE, "client": 0, "reason": "far"},
        {"event": "diagnostics", **PLACE, "client_kinship": kinship, "task_kinship": [[1.0]], "seconds": 1.0,
         "intruders": {"a": 2, "b": 3}},
    ])  # fmt: skip
    expected = {"updates/refused": 2, "updates/filtered": 1, "seconds/diagnostics": 1.0, "diagnostics/intruders": 5}
    assert found == pytest.approx(expected | {"diagnostics/client_kinship": 0.4})


def test_final_figures_are_the_numbers_of_the_summary():
    summary = {"final_accuracy": 0.5, "forgetting": None, "sha256": "ab", "correct": [[1]], "seconds": {"total": 2.0}}
    assert final_figures({**summary, "flag": True}) == {"final_accuracy": 0.5, "seconds_total": 2.0}
