"""Forecasts what a whole comparison will take: every row is rehearsed once, and counted for each of its seeds."""

import gc
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fcil.config import Config, flat_settings
from fcil.data.progress import Step
from fcil.engine.comparison import Cell, short_titles
from fcil.engine.dry_run import Costs
from fcil.engine.forecast import Forecast, forecast
from fcil.engine.simulation import prepare

__all__ = ["RowForecast", "TableForecast", "forecast_rows"]


@dataclass(frozen=True)
class RowForecast:
    """The forecast of one row of a comparison."""

    title: str
    runs: int
    """Number of its runs, one for each seed."""
    one: Forecast
    """The forecast of the first seed's run; those of others differ by their split."""

    def all_runs(self, what: str) -> int:
        """`steps`, `upload_bytes` or `download_bytes` of all its runs."""
        return self.runs * self.one.total(what)

    @property
    def seconds(self) -> float:
        """Seconds of all its runs, one after another."""
        return self.runs * self.one.seconds["total"]


@dataclass(frozen=True)
class TableForecast:
    """The forecast of all rows of a comparison, one run after another."""

    rows: tuple[RowForecast, ...]

    def total(self, what: str) -> int:
        """Sum of `steps`, `upload_bytes` or `download_bytes` over all runs."""
        return sum(row.all_runs(what) for row in self.rows)

    @property
    def seconds(self) -> float:
        """Seconds of all runs."""
        return sum(row.seconds for row in self.rows)

    @property
    def worker_bytes(self) -> int:
        """The most memory of a worker in any run; 0 where that cannot be measured."""
        return max(row.one.worker_bytes for row in self.rows)

    @property
    def server_bytes(self) -> int:
        """The most bytes of the server's state and one round's replies in any run."""
        return max(row.one.server_bytes for row in self.rows)

    @property
    def image_bytes(self) -> int:
        """Bytes of decoded images; rows that show the same data set in the same way share them."""
        caches = {}
        for row in self.rows:
            config = row.one.plan.config
            caches[config.data, config.model.image_size] = row.one.image_bytes
        return sum(caches.values())

    def figures(self) -> dict[str, Any]:
        """The forecast as plain numbers: `rows`, each with the figures of one run and its `runs`, and `total`."""
        total: dict[str, Any] = {w: self.total(w) for w in ("steps", "upload_bytes", "download_bytes")}
        total |= {w: getattr(self, w) for w in ("worker_bytes", "server_bytes", "image_bytes", "seconds")}
        return {"rows": {row.title: {"runs": row.runs, **row.one.figures()} for row in self.rows}, "total": total}


def _but_for_skew(config: Config) -> str:
    """The settings by which the cost of a client's step may differ, as a text."""
    flat = flat_settings(config)
    return json.dumps(
        {key: value for key, value in flat.items() if key not in ("partition.beta", "run.seed")}, default=str
    )


def forecast_rows(cells: Sequence[Cell], seeds: int, step: Step) -> TableForecast:
    """Rehearse the run of each cell, one after another; what steps cost is measured once for all skews of a row.

    Args:
        cells: the runs of one seed.
        seeds: number of seeds that each stands for.
        step: told of every phase of every row before it is rehearsed.

    Raises:
        ConfigError: as `forecast`.
    """
    titles, rows = short_titles(list(dict.fromkeys(cell.label for cell in cells))), list[RowForecast]()
    costs: dict[str, Costs] = defaultdict(Costs)
    for done, cell in enumerate(cells):
        title = " ".join(filter(None, [cell.value, titles[cell.label]]))

        def of_row(text: str, share: float, title: str = title, done: int = done) -> None:
            step(f"{title}: {text}", (done + share) / len(cells))

        of_row("loading", 0.0)
        costs_of_kind = costs[_but_for_skew(cell.config)]
        rows.append(RowForecast(title, seeds, forecast(prepare(cell.config), of_row, costs_of_kind)))
        gc.collect()  # the last row's model goes before the next one's memory is measured
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return TableForecast(tuple(rows))
