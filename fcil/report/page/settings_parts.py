"""Tell a run's settings, those that differ from the defaults first, and what else its numbers depend on."""

from typing import Any

from fcil.config import Config, flat, to_table
from fcil.engine.records import read_provenance
from fcil.options import describe
from fcil.registry import method_class, method_names
from fcil.report.page.parts import fold, listing
from fcil.report.rows import setting_text
from fcil.report.run_result import Run

__all__ = ["changed_settings", "provenance_part", "settings_of", "settings_part"]


def settings_of(run: Run) -> dict[str, Any]:
    """All settings as the run recorded them, `section.key` -> value, with its method's defaults."""
    recorded = {f"method.{key}": value for key, value in read_provenance(run.folder).get("method", {}).items()}
    return {**flat(to_table(run.config)), **recorded, "method.name": run.config.method.label}


def _defaults(config: Config) -> dict[str, Any]:
    """The settings that a run has of which nobody says anything: the protocol's, and those of a shipped method.

    A method of the user's own is not asked: its file would have to be run, and may not be here.
    """
    name = config.method.name
    settings = {f"method.{s.name}": s.default for s in describe(method_class(name))} if name in method_names() else {}
    return {**flat(to_table(Config())), **settings}


def changed_settings(run: Run) -> dict[str, Any]:
    """The settings that differ from the defaults, with the method's name first."""
    usual = {name: setting_text(_plain(value)) for name, value in _defaults(run.config).items()}
    settings = settings_of(run)
    changed = {name: value for name, value in settings.items() if usual.get(name) != setting_text(_plain(value))}
    return {"method.name": settings["method.name"], **changed}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def settings_part(run: Run) -> str:
    """Tell the settings that differ from the defaults, and folded in it all of them; all of it is folded."""
    changed = [(name, setting_text(value)) for name, value in changed_settings(run).items()]
    every = [(name, setting_text(_plain(value))) for name, value in settings_of(run).items()]
    inner = listing("settings that differ from the defaults", changed) + fold(
        f"All {len(every)} settings", listing("all settings, as recorded in config.toml", every)
    )
    return fold(f"Settings: {len(changed)} differ from the defaults", inner, "printed")


def provenance_part(run: Run) -> str:
    """Tell versions, commit, processor and hashes, folded."""
    recorded = read_provenance(run.folder)
    nodes = recorded.pop("nodes", [])
    recorded.pop("method", None)  # all of it is among the settings
    pairs = [("folder", run.folder.name), ("SHA-256 of the final arrays", run.sha256)] if run.sha256 else []
    for name, value in recorded.items():
        entries = value.items() if isinstance(value, dict) else [("", value)]
        pairs += [(f"{name} {key}".strip().replace("_", " "), setting_text(text)) for key, text in entries]
    pairs += [(f"node of client {node.get('client')}", setting_text(node)) for node in nodes]
    return fold("Versions and provenance", listing("what the numbers depend on beside the settings", pairs))
