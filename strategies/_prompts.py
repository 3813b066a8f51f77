"""The base of methods that train prompts chosen by an image's query, and average them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from fcil.arrays import State
from fcil.method import Averaging, Backbone, Modules, Phase
from fcil.model.prefix_adapter import PrefixAdapter
from fcil.options import Option

from ._server import ServerSettings

__all__ = ["REFUSED", "PrefixMethod"]


REFUSED: Mapping[str, str] = {"adapter": "this method trains prompts, which change no weights; leave it out"}
"""What methods of prompts refuse, with the reason."""


@dataclass(frozen=True, kw_only=True)
class PrefixMethod(ServerSettings, Averaging):
    """Every task adds prefixes of its own beside keys and values; those of earlier tasks stay and are not sent back."""

    refused: ClassVar[Mapping[str, str]] = REFUSED

    prefix: Annotated[
        Literal["direct", "projected"],
        Option("prefixes are keys and values, as in public code, or go through the projections to them"),
    ] = "direct"

    @property
    def adapter(self) -> PrefixAdapter:
        """Return the prefixes that the method trains."""
        raise NotImplementedError(f"{type(self).__name__}.adapter")

    def begin(self, state: State, phase: Phase, backbone: Backbone) -> State:
        """Add the arrays with which the task begins, drawn by the server."""
        state, task = super().begin(state, phase, backbone), phase.task.index
        module, tasks = Modules.of(state).module, task + 1 + phase.tasks_left
        new = self.adapter.of_task(task, tasks, module, backbone, phase.generator("prompts of the task"))
        return Modules.of(state).with_module({**module, **new})

    def trains(self, phase: Phase) -> tuple[str, ...]:
        """The current task's arrays."""
        return (f"{self.adapter.mark}.*.{phase.task.index}",)
