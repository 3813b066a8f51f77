"""Core Space: merge LoRA changes as small matrices, in bases without loss."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from fcil.errors import ConfigError
from fcil.merging.core_space import core_basis
from fcil.merging.expert import Expert
from fcil.merging.lowrank import Change
from fcil.merging.shared_basis import merge_in_basis, merge_layers_in_basis
from fcil.model.lora import Lora
from fcil.options import Option

from ._merging import Draw, MergeMethod
from ._parts import lora_method

__all__ = ["CoreSpace"]


@dataclass(frozen=True, kw_only=True)
class CoreSpace(MergeMethod):
    """Merge LoRA changes as small matrices, in bases without loss.

    Changes are written in two bases per layer, of all B_i's columns and all A_i's rows, and merged there.
    Panariello et al., "Accurate and efficient low-rank model merging in Core Space", NeurIPS 2025, arXiv 2509.17786.
    The public code merges each layer on its own, and so does `scope = "layer"`; it matters to a hosted merge that
    decides something over all layers together, as TIES does with its one cut.
    Merges that need statistics of the layers' inputs cannot be hosted: those are not in core space.
    Literal transcription: `tests/reference_ties.py`, `core`.
    """

    host: Annotated[str, Option("the merge that works there: a method, or with settings, name(key = value)")] = "ties"
    scope: Annotated[
        Literal["layer", "global"],
        Option("what the hosted merge is given at a time: a layer's core matrices, or those of all layers together"),
    ] = "layer"
    _hosted: MergeMethod = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.adapter, Lora):
            raise ConfigError(
                f"method.adapter = {self.adapter_text!r}: core space is spanned by LoRA's factors, and a change "
                f"without factors spans the whole space; use the hosted merge itself, method.name = {self.host!r}"
            )
        outer = {"rank": self.rank, "at": self.at, "start": self.start}
        hosted = lora_method(self.host, "host", outer, {"adapter": "method.adapter says what clients train"})
        if not isinstance(hosted, MergeMethod) or not hosted.needs_only_changes:
            raise ConfigError(
                f"method.host = {self.host!r}: must merge changes and need nothing else, as ties and task_arithmetic do"
            )
        object.__setattr__(self, "_hosted", hosted)

    def _in_core_space(
        self, experts: Sequence[Expert], merge: Callable[[Sequence[Expert]], Iterable[tuple[str, Change]]]
    ) -> Iterable[tuple[str, Change]]:
        hosted_in = merge_layers_in_basis if self.scope == "layer" else merge_in_basis
        return hosted_in(core_basis, experts, merge)

    def combine(self, experts: Sequence[Expert], draw: Draw) -> Iterable[tuple[str, Change]]:
        """Merge the core matrices by the hosted method, and map them back at the rank of all changes at most."""
        return self._in_core_space(experts, lambda inside: self._hosted.combine(inside, draw))

    def combine_round(self, experts: Sequence[Expert], draw: Draw) -> Iterable[tuple[str, Change]]:
        """Merge the core matrices as the hosted method merges rounds."""
        return self._in_core_space(experts, lambda inside: self._hosted.combine_round(inside, draw))
