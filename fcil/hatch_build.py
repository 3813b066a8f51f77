"""Build hook: the wheel holds one import name, `fcil`, with the folders `strategies` and `configs` moved inside it.

Only a standard wheel is changed. An editable install and a bare checkout use the folders where they are; a package
called `strategies` exists on the index, so none of ours must be installed at the top level.
"""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the two folders to a standard wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before a target is built."""
        if version == "standard":
            build_data["force_include"] |= {"strategies": "fcil/strategies", "configs": "fcil/configs"}
