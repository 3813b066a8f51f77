"""Turn the events of a phase into figures by name: what dashboards draw over the phases of a run."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["AFTER_TASK", "figures_of", "final_figures"]

AFTER_TASK = "accuracy/after_task"
"""The figure that is drawn over tasks: methods differ in how many phases a task has."""

PLACE = ("event", "phase", "task", "round", "client")


def figures_of(events: Iterable[Mapping[str, Any]], classes: Sequence[str] = ()) -> dict[str, float]:
    """Collect the figures of one phase from its events, by the names of docs/loggers.md.

    Args:
        events: those of one phase, as metrics.jsonl has them; further kinds are passed over.
        classes: names of the classes in the order of arrival; numbers from 1 on stand for those that have none.
    """
    figures: dict[str, float] = {}
    clients: list[Mapping[str, Any]] = []
    for event in events:
        kind = event["event"]
        if kind == "phase":
            figures |= {"task": event["task"] + 1, "round": event["round"]}
            figures["traffic/download_bytes"] = event["download_bytes"]
        elif kind == "client":
            clients.append(event)
        elif kind == "clients":
            figures |= _means({name: value / event["count"] for name, value in event["sums"].items() if event["count"]})
            figures["images"] = event["sums"].get("images", 0)
        elif kind in ("refused", "filtered"):
            figures[f"updates/{kind}"] = figures.get(f"updates/{kind}", 0) + 1
        elif kind == "merged":
            figures |= _merged(event)
        elif kind in ("task", "round"):
            figures |= _accuracies(event, classes)
        elif kind == "diagnostics":
            figures |= _diagnostics(event)
    if clients:
        figures |= _of_clients(clients)
    images, seconds = figures.pop("images", 0), figures.get("seconds/clients", 0)
    return figures | ({"images_per_second": images / seconds} if images and seconds else {})


def _means(metrics: Mapping[str, float]) -> dict[str, float]:
    """Name the means over clients: the loss among the losses, all others under `clients/`."""
    return {"loss/mean" if name == "loss" else f"clients/{name}": value for name, value in metrics.items()}


def _of_clients(events: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The loss of every client, and for each of their metrics the mean over those that told it."""
    values_by_name: dict[str, list[float]] = {}
    for event in events:
        for name in (key for key in event if key not in PLACE):
            values_by_name.setdefault(name, []).append(event[name])
    losses = {f"loss/client_{event['client']}": event["loss"] for event in events if "loss" in event}
    images = sum(values_by_name.get("images", ()))
    return {
        **losses,
        **_means({name: sum(values) / len(values) for name, values in values_by_name.items()}),
        "images": images,
    }


def _merged(event: Mapping[str, Any]) -> dict[str, float]:
    return {
        "updates/good": event["updates"], "traffic/upload_bytes": event["upload_bytes"],
        "seconds/clients": event["seconds_clients"], "seconds/merge": event["seconds_merge"],
    }  # fmt: skip


def _accuracies(event: Mapping[str, Any], classes: Sequence[str]) -> dict[str, float]:
    """Accuracy over all classes seen, of every task, class and site that has test images."""

    def shares(what: str, correct: Sequence[int], total: Sequence[int], names: Sequence[object]) -> dict[str, float]:
        rows = zip(names, correct, total, strict=False)
        return {f"accuracy/{what}_{name}": right / count for name, right, count in rows if count}

    figures = {"accuracy/all": event["accuracy"], "seconds/evaluation": event["seconds"]}
    figures |= {AFTER_TASK: event["accuracy"]} if event["event"] == "task" else {}
    figures |= shares("task", event["correct"], event["total"], range(1, len(event["total"]) + 1))
    if "class_correct" in event:
        numbers = range(len(classes) + 1, len(event["class_correct"]) + 1)
        figures |= shares("class", event["class_correct"], event["class_total"], [*classes, *numbers])
    sites = event.get("sites")
    if sites:
        correct, total = ([sum(row) for row in sites[key]] for key in ("correct", "total"))
        figures |= shares("site", correct, total, range(len(total)))
    return figures


def _diagnostics(event: Mapping[str, Any]) -> dict[str, float]:
    """Mean kinship over pairs of clients and of tasks, and the number of intruder dimensions of all layers."""
    figures = {"seconds/diagnostics": event["seconds"]}
    for name in ("client_kinship", "task_kinship"):
        matrix = event.get(name) or []
        pairs = [value for i, row in enumerate(matrix) for value in row[:i]]
        figures |= {f"diagnostics/{name}": sum(pairs) / len(pairs)} if pairs else {}
    return figures | ({"diagnostics/intruders": sum(event["intruders"].values())} if event.get("intruders") else {})


def final_figures(summary: Mapping[str, Any]) -> dict[str, float]:
    """Select from summary.json what is one number; `seconds`, which has several, gives `seconds_total` and so on."""
    figures: dict[str, float] = {}
    for name, value in summary.items():
        entries = (
            {f"{name}_{key}": entry for key, entry in value.items()} if isinstance(value, Mapping) else {name: value}
        )
        figures |= {key: x for key, x in entries.items() if isinstance(x, int | float) and not isinstance(x, bool)}
    return figures
