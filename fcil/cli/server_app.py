"""The ServerApp that `flwr run .` starts, in Flower's simulation and behind a SuperLink.

run_config: `config`, a TOML file (absolute, or from the app's folder); `set`, overrides `section.key=value` with `;`
between them; `output`, the run folder. A run folder that is not finished is gone on with. `fcil deploy` sends
`settings` in place of `config` and `set`: their layers as JSON, so that the file need not be part of the app.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fcil.cli.server_errors import as_one_message
from fcil.config import Config, from_table, load_config
from fcil.engine.checks import check_across_nodes, check_settings
from fcil.engine.simulation import prepare, simulate
from fcil.exchange.flower.exchange import STORE, FlowerExchange
from fcil.exchange.flower.settling import SIMULATION
from fcil.report.missing_updates import missing_updates
from fcil.report.run import draw_run
from fcil.server.replies import Emit

__all__ = ["app", "settings"]

app = ServerApp()

_log = logging.getLogger("flwr")
_APP = Path(__file__).resolve().parents[2]


def settings(run_config: Mapping[str, Any]) -> tuple[Config, Path]:
    """The run's settings and its folder."""
    folder = Path(str(run_config["output"])).expanduser().resolve()
    if layers := str(run_config.get("settings", "")):
        return from_table([(str(source), table) for source, table in json.loads(layers)]), folder
    overrides = [part.strip() for part in str(run_config.get("set", "")).split(";") if part.strip()]
    config = load_config(_APP / str(run_config["config"]), overrides)  # an absolute path stays what it is
    return config, folder


def _listen(emit: Emit, tasks: int) -> Emit:
    """Events go to the run folder, and those that a person waits for to Flower's log."""
    reports = set[int]()
    """Indices of phases in which clients report and do not train: their other events do not tell it."""

    def tell(event: Mapping[str, Any]) -> None:
        emit(event)
        if event["event"] == "phase" and event["kind"] == "report":
            reports.add(event["phase"])
        task = event.get("task", -1) + 1
        place = f"task {task}, report" if event.get("phase") in reports else f"task {task}, round {event.get('round')}"
        if event["event"] == "warning":
            _log.warning("%s", event["reason"])
        elif event["event"] in ("refused", "filtered"):
            _log.warning("%s: client %s: %s", place, event["client"], event["reason"])
        elif event["event"] == "merged":
            _log.info("%s: %d updates in %.1f s", place, event["updates"], event["seconds_clients"])
        elif event["event"] == "round":
            _log.info("%s: accuracy %.4f", place, event["accuracy"])
        elif event["event"] == "task":
            _log.info("after task %d/%d: accuracy %.4f", task, tasks, event["accuracy"])

    return tell


@app.main()
@as_one_message
def main(grid: Grid, context: Context) -> None:
    """Carry out the run, or what is left of it."""
    config, folder = settings(context.run_config)
    check_across_nodes(config, check_settings(config))  # before any node is asked
    store = str(folder / STORE) if type(grid).__name__ == SIMULATION else ""
    exchange = FlowerExchange(grid, config, store=store)
    session = prepare(config, folder, nodes=exchange.introductions)
    tasks = len(session.plan.census.tasks)
    summary = simulate(session, folder, lambda emit, progress: _listen(emit, tasks), exchange)
    draw_run(session, folder, summary)
    missing = missing_updates([summary]) or "no update missing"
    _log.info("%s: accuracy %.4f, %s, sha256 %s", folder, summary["final_accuracy"], missing, summary["sha256"])
