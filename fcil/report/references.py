"""Sets every run of a comparison beside its reference runs: training on all data at once, and each task alone.

Both are rows of the same comparison, known by who has the data (`Method.stream`), with the same seed, images,
backbone and passes over the data.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fcil.engine.figures import forward_transfer

__all__ = ["images_and_classes", "with_references"]

PASSES = ("train.rounds", "train.epochs")
AT_ONCE, ALONE = "at_once", "each_alone"


def images_and_classes(run: Mapping[str, Any]) -> str:
    """Write down the settings of a run that say which images and classes it has; equal where runs can be paired."""
    chosen = {name: value for name, value in run.get("settings", {}).items() if name.startswith(("data.", "tasks."))}
    return json.dumps(chosen, sort_keys=True, default=str)


def with_references(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Add to every run of a table, beside its figures, what it has more or less than its reference runs, as shares.

    `gap_to_joint` is the final accuracy less that of training on all data at once; `forward_transfer` is that of
    `fcil.engine.figures`. Each is None for runs without such a reference, for the references themselves, and where a
    table has several references of a kind, so that nobody has to guess which was meant.
    """
    return [
        {**run, "gap_to_joint": _gap(run, _reference(runs, run, AT_ONCE)),
         "forward_transfer": _transfer(run, _reference(runs, run, ALONE))}
        for run in runs
    ]  # fmt: skip


def _reference(runs: Sequence[Mapping[str, Any]], run: Mapping[str, Any], stream: str) -> Mapping[str, Any] | None:
    """The one run of a stream with the seed, images and classes of `run`; None if there is none or are several."""
    if run.get("stream", "federated") in (AT_ONCE, ALONE):
        return None
    references = [
        other for other in runs
        if other.get("stream") == stream and other["seed"] == run["seed"]
        and images_and_classes(other) == images_and_classes(run) and _means(other) == _means(run)
    ]  # fmt: skip
    return references[0] if len(references) == 1 else None


def _means(run: Mapping[str, Any]) -> dict[str, Any]:
    """The backbone and the passes over the data, in which a run and its reference must not differ."""
    settings = run.get("settings", {}).items()
    return {name: value for name, value in settings if name.startswith("model.") or name in PASSES}


def _gap(run: Mapping[str, Any], joint: Mapping[str, Any] | None) -> float | None:
    return None if joint is None else float(run["final_accuracy"] - joint["final_accuracy"])


def _transfer(run: Mapping[str, Any], alone: Mapping[str, Any] | None) -> float | None:
    return None if alone is None else forward_transfer(run["correct"], alone["correct"], run["total"])
