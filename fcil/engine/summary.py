"""Sums up a finished run: every figure that summary.json has, and a reason for each that cannot be had."""

from typing import Any

from fcil.engine.figures import (
    EARLIER,
    OF_CLASSES,
    OF_CLIENTS,
    STORED,
    by_class,
    by_client,
    old_and_new,
    why_no_sequence,
)
from fcil.engine.metrics import at_sites, summarise
from fcil.server.plan import Plan, Progress, updates_asked

__all__ = ["NOT_ALONE", "summary_of"]

_COUNTS = ("upload_bytes", "download_bytes", "refused", "filtered", "images", "peak_memory_bytes")

NOT_ALONE = ("reused", "cached", "resumed", "beside")
"""Updates that another run had computed, images of which features were found, and how often the run was resumed: where
there is one of them, the run's times are not those of a run alone."""


def _why_no_classes(plan: Plan, progress: Progress) -> str:
    """The reason why there are no answers by class of all classes that the run has seen; empty where there are."""
    if not plan.config.answers_by_class:
        return "sites keep their classes to themselves (data.class_counts = false)"
    rows = progress.class_correct
    return "" if rows and len(rows[-1]) == plan.blocks[-1].seen else EARLIER


def _why_no_clients(plan: Plan) -> str:
    """The reason why the clients' shares of the classes are not known or say nothing; empty where they do."""
    if plan.census.by_class is None:
        return "clients keep their classes to themselves (data.class_counts = false)"
    return "one client holds all images" if plan.census.clients == 1 else ""


def _of_classes(plan: Plan, progress: Progress) -> tuple[dict[str, Any], dict[str, str]]:
    """The figures of classes and clients, and the reason for each that is None."""
    census, figures = plan.census, dict.fromkeys((*OF_CLASSES, *OF_CLIENTS))
    if why := _why_no_classes(plan, progress):
        return figures, dict.fromkeys(figures, why)
    correct, total = progress.class_correct[-1], census.class_totals
    figures |= by_class(correct, total, census.classes)
    if why := _why_no_clients(plan):
        return figures, dict.fromkeys(OF_CLIENTS, why)
    assert census.by_class is not None
    return figures | by_client(census.by_class, correct, total), {}


def _stored(plan: Plan, progress: Progress) -> tuple[dict[str, Any], dict[str, str]]:
    """Bytes that server and clients store after each task, and why where they are not known."""
    ends = [task.index for task in plan.census.tasks]
    rows = {row.task: row[1:] for row in progress.storage}
    sizes = {name: [rows[t][i] if t in rows else None for t in ends] for i, name in enumerate(STORED)}
    return sizes, dict.fromkeys(STORED, EARLIER) if len(rows) < len(ends) else {}


def _figures(plan: Plan, progress: Progress) -> dict[str, Any]:
    """Every figure beside those of `summarise`; those that cannot be had are None, and `absent` says why."""
    tasks = old_and_new(progress.correct, plan.census.totals)
    classes, no_classes = _of_classes(plan, progress)
    stored, not_stored = _stored(plan, progress)
    counts = {"class_correct": progress.class_correct, "class_total": plan.census.class_totals}
    absent = {**why_no_sequence(progress.correct, tasks), **no_classes, **not_stored}
    return {**tasks, **classes, **stored, "absent": absent, **counts}


def summary_of(plan: Plan, progress: Progress) -> dict[str, Any]:
    """All figures of a run that has done its last phase, as summary.json has them."""
    totals = progress.totals
    seconds = {name.removeprefix("seconds_"): value for name, value in totals.items() if name.startswith("seconds_")}
    return {
        "method": plan.config.method.label,
        "seed": plan.config.run.seed,
        **summarise(progress.correct, plan.census.totals),
        **(at_sites(progress.at_places, plan.census.test.tolist()) if plan.sites_evaluate else {}),
        **{name: int(totals.get(name, 0)) for name in _COUNTS},
        "asked": updates_asked(plan),
        **{name: int(totals[name]) for name in NOT_ALONE if name in totals},
        "seconds": seconds,
        **({"notes": dict(notes)} if (notes := plan.method.notes(progress.state, plan.phases[-1])) else {}),
        **_figures(plan, progress),
        "correct": progress.correct,
        "total": plan.census.totals,
        "sha256": progress.sha256(),
    }
