"""Tables of `fcil plan`: samples of each client, work and traffic of each round, memory and time."""

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from fcil.engine.forecast import Forecast, PhaseForecast
from fcil.engine.table_forecast import TableForecast

__all__ = ["comparison_forecast_table", "duration_text", "forecast_table"]

MEGA, GIGA = 1e6, 1e9
CLIENTS = 10
"""Runs with at most this many clients have a column per client, others quantiles."""
PHASES = 30
"""Runs with at most this many phases have a row per phase, others rows of the first and the last task."""


def duration_text(seconds: float) -> str:
    """Format a duration for people: 3.2 s, 4 min 10 s, 5 h 12 min, 3 d 4 h."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for name, size, below, smaller in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // smaller} {below}"
    return f"{whole} s"


def _table(title: str, *heads: str) -> Table:
    """Make an empty table whose first column is aligned left, all others right."""
    table = Table(box=None, title=title, title_justify="left")
    for position, head in enumerate(heads):
        table.add_column(head, justify="right" if position else "left")
    return table


def _samples(forecast: Forecast) -> Table:
    census = forecast.plan.census
    sizes = census.train
    per_client = census.clients <= CLIENTS
    columns = [str(c) for c in range(census.clients)] if per_client else ["fewest", "median", "most", "none"]
    title = f"training images {'of each' if per_client else 'per'} client, and test images"
    table = _table(title, "task", "classes", *columns, "all", "test")
    for position, task in enumerate(census.tasks):
        before = census.tasks[position - 1].index + 1 if position else 0
        row, test = sizes[task.index], sum(census.totals[before : task.index + 1])
        shown = row if per_client else [row.min(), round(float(np.median(row))), row.max(), (row == 0).sum()]
        shared = census.shared(task.index)  # then `row` counts an image at each of its holders
        together = f"{row.sum()} ({shared} shared)" if shared else str(row.sum())
        table.add_row(str(task.index + 1), str(task.size), *map(str, shown), together, str(test))
    return table


def _cells(estimate: PhaseForecast) -> list[str]:
    kind = f"round {estimate.phase.round}" if estimate.phase.kind == "train" else "report"
    up, down = estimate.upload_bytes / MEGA, estimate.download_bytes / MEGA
    return [
        f"{estimate.phase.task.index + 1}, {kind}", str(estimate.clients), f"{estimate.steps:,}",
        f"{up:.3f}", f"{down:.3f}", duration_text(estimate.seconds),
    ]  # fmt: skip


def _phases(forecast: Forecast) -> Table:
    table = _table("rounds", "task", "clients", "steps", "up [MB]", "down [MB]", "with clients")
    last = forecast.phases[-1].phase.task.index
    shown = [p for p in forecast.phases if len(forecast.phases) <= PHASES or p.phase.task.index in (0, last)]
    for position, estimate in enumerate(shown):
        if position and estimate.phase.index != shown[position - 1].phase.index + 1:
            table.add_row("...")
        table.add_row(*_cells(estimate))
    table.add_row(
        Text("all", "bold"), "", f"{forecast.total('steps'):,}", f"{forecast.total('upload_bytes') / MEGA:.3f}",
        f"{forecast.total('download_bytes') / MEGA:.3f}", duration_text(forecast.seconds["clients"]),
    )  # fmt: skip
    return table


def _figures(forecast: Forecast) -> Table:
    table = Table(box=None, show_header=False, title=f"measured here on {forecast.device}", title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    seconds, measured = forecast.seconds, forecast.worker_bytes
    workers = f"{forecast.workers} workers" if forecast.workers > 1 else "1 worker"
    for name, value in (
        ("memory of a worker", f"{measured / MEGA:.0f} MB" if measured else "not known on this system"),
        ("  of which the backbone", f"{forecast.backbone_bytes / MEGA:.1f} MB"),
        ("memory of the server: state and one round's replies", f"{forecast.server_bytes / MEGA:.2f} MB"),
        (f"clients (training, statistics), {workers}", duration_text(seconds["clients"])),
        ("evaluation", duration_text(seconds["evaluation"])),
        ("server (merging, checks)", duration_text(seconds["server"])),
        ("start-up of the workers", duration_text(seconds["startup"])),
        ("in all, about", duration_text(seconds["total"])),
    ):
        table.add_row(name, value)
    return table


def forecast_table(forecast: Forecast) -> Group:
    """Show each client's samples, each round's work and traffic, and memory and time."""
    return Group(_samples(forecast), Text(), _phases(forecast), Text(), _figures(forecast))


def comparison_forecast_table(forecast: TableForecast) -> Group:
    """Show what each row of a comparison and all together take: steps, traffic, memory, disk and time."""
    title = f"measured here on {forecast.rows[0].one.device}; runs one after another"
    table = _table(title, "experiment", "runs", "steps", "up", "down", "worker", "server", "images", "a run", "all")

    most = max(forecast.total("upload_bytes"), forecast.total("download_bytes"))
    unit, unit_name = (GIGA, "GB") if most >= GIGA else (MEGA, "MB")

    def cells(traffic: tuple[int, int, int], peaks: tuple[int, int, int]) -> list[str]:
        worker, server, images = peaks
        steps, *sent = traffic
        memory = f"{worker / GIGA:.2f}" if worker else "-"
        sizes = [memory, f"{server / GIGA:.3f}", f"{images / GIGA:.1f}"]
        return [f"{steps:,}", *(f"{n / unit:.2f}" for n in sent), *sizes]

    whats = ("steps", "upload_bytes", "download_bytes")
    for row in forecast.rows:
        steps, up, down = (row.all_runs(what) for what in whats)
        shown = cells((steps, up, down), (row.one.worker_bytes, row.one.server_bytes, row.one.image_bytes))
        times = duration_text(row.one.seconds["total"]), duration_text(row.seconds)
        table.add_row(row.title, str(row.runs), *shown, *times)
    steps, up, down = (forecast.total(what) for what in whats)
    shown = cells((steps, up, down), (forecast.worker_bytes, forecast.server_bytes, forecast.image_bytes))
    runs = sum(row.runs for row in forecast.rows)
    table.add_row(Text("all", "bold"), str(runs), *shown, "", duration_text(forecast.seconds))
    explained = (
        f"In all about {duration_text(forecast.seconds)}. Up, down: {unit_name} that all clients send and receive; "
        "worker, server: GB of memory, at most; images: GB of decoded images, shared by rows of one data set."
    )
    return Group(table, Text(), Text(explained))
