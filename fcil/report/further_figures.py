"""Lists the figures of a run by class, by client and of storage, and says which of them are not known and why."""

from collections.abc import Mapping
from typing import Any

from fcil.engine.figures import STORED
from fcil.report.units import MEGA, percent

__all__ = ["FIGURES", "further_figures"]

FIGURES = (
    "final_accuracy", "final_accuracy_task_mean", "average_accuracy", "forgetting", "forgetting_from_learned",
    "backward_transfer", "old_accuracy", "new_accuracy", "base_accuracy", "later_accuracy", "harmonic_accuracy",
    "macro_accuracy", "worst_class_accuracy", "client_accuracy_mean", "client_accuracy_worst", "client_accuracy_std",
    "site_accuracy_mean", "site_accuracy_worst",
)  # fmt: skip
"""Names of the figures of summary.json that are one number, see docs/figures.md."""


def further_figures(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List the figures by class, by client and of storage of a finished run: name, value with its unit.

    What the run does not have is left out, but for one line that names it with the reason.
    """

    def shares(name: str, *keys: str, unit: str = "%") -> list[tuple[str, str]]:
        values = [summary.get(key) for key in keys]
        return [] if None in values else [(name, f"{' / '.join(map(percent, values))} {unit}")]

    lines = [
        *shares("old classes / those of the last task", "old_accuracy", "new_accuracy"),
        *shares("base classes / later ones / harmonic mean", "base_accuracy", "later_accuracy", "harmonic_accuracy"),
        *shares("mean over classes", "macro_accuracy"),
        *shares(f"worst class ({summary.get('worst_class')})", "worst_class_accuracy"),
        *shares("clients' own shares of the classes, mean / worst", "client_accuracy_mean", "client_accuracy_worst"),
        *shares("  spread over clients", "client_accuracy_std", unit="points"),
    ]
    stored = [((summary.get(key) or [None])[0], (summary.get(key) or [None])[-1]) for key in STORED]
    for name, (first, last) in zip(("the server", "all clients", "the client with most"), stored, strict=True):
        if first is not None and last is not None and (first or last or name != "the client with most"):
            lines.append((f"stored by {name}, first / last task", f"{first / MEGA:.2f} / {last / MEGA:.2f} MB"))
    reasons: dict[str, list[str]] = {}
    for name, why in summary.get("absent", {}).items():
        reasons.setdefault(why, []).append(name)
    return lines + [(f"not known: {', '.join(names)}", why) for why, names in reasons.items()]
