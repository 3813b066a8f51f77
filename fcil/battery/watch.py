"""Watch calls of a method's code: exceptions, inputs that it changes, draws from global generators."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from fcil.arrays import Arrays, digest
from fcil.battery.outcome import Broken
from fcil.battery.randomness import drawn_from, global_state
from fcil.method import Broadcast, ClientUpdate, Phase
from fcil.model.adapted import AdaptedModel

__all__ = ["Change", "Draws", "Watch", "WatchedModel", "named"]

Result = TypeVar("Result")


@dataclass(frozen=True)
class Change:
    """Inputs that a call has changed."""

    phase: Phase
    what: str
    functions: tuple[str, ...]
    names: tuple[str, ...]
    again: Callable[[], object]
    """The same call with inputs that cannot be written to: raises where they are, in most ways of writing."""


@dataclass(frozen=True)
class Draws:
    """Global generators that a call has drawn from."""

    phase: Phase
    what: str
    functions: tuple[str, ...]
    generators: tuple[str, ...]


def named(value: object, prefix: str = "") -> dict[str, np.ndarray]:
    """Name all arrays of a state, a broadcast, or updates by the words that point at them in a message."""
    if isinstance(value, np.ndarray):
        return {prefix: value}
    if isinstance(value, Mapping):
        return {n: a for key, item in value.items() for n, a in named(item, f"{prefix} {key!r}").items()}
    if isinstance(value, Broadcast):
        return {**named(value.arrays, "broadcast"), **named(value.references, "reference")}
    if isinstance(value, ClientUpdate):
        who = f"of client {value.client}"
        return {**named(value.arrays, f"array {who}"), **named(value.statistics, f"statistic {who}")}
    if isinstance(value, list | tuple):
        return {n: a for e in value for n, a in named(e, "state" if isinstance(e, Mapping) else "").items()}
    return {}


def _contents(inputs: Sequence[Any]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Type, shape and bytes of every array; to copy and compare them takes a tenth of the time of hashing them."""
    return {name: (a.dtype.str, a.shape, a.tobytes()) for name, a in named(list(inputs)).items()}


def _read_only(value: Any) -> Any:
    """Copy a value so that its arrays cannot be written to."""
    if isinstance(value, np.ndarray):
        copy = value.copy()
        copy.flags.writeable = False
        return copy
    if isinstance(value, Mapping):
        return {key: _read_only(item) for key, item in value.items()}
    if isinstance(value, Broadcast):
        return replace(value, arrays=_read_only(value.arrays), references=_read_only(value.references))
    if isinstance(value, ClientUpdate):
        return replace(value, arrays=_read_only(value.arrays), statistics=_read_only(value.statistics))
    return type(value)(map(_read_only, value)) if isinstance(value, list | tuple) else value


@dataclass
class Watch:
    """Calls a method's code, and notes the inputs that it changes and its draws from global generators."""

    changes: list[Change] = field(default_factory=list)
    draws: list[Draws] = field(default_factory=list)

    def call(
        self, what: str, phase: Phase, functions: tuple[str, ...], function: Callable[..., Result], *inputs: Any
    ) -> Result:
        """Call `function(*inputs)` and return its result.

        Args:
            what: the call's name in a message.
            functions: the method's functions that take part.

        Raises:
            Broken: it raised an exception.
        """
        before, state = _contents(inputs), global_state()
        try:
            result = function(*inputs)
        except Exception as error:  # whatever a method's code may raise
            raise Broken(f"{what} raised {type(error).__name__}: {error}", *functions, phase=phase) from error
        after = _contents(inputs)
        names = tuple(sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name)))
        if names:
            again = [_read_only(value) for value in inputs]
            self.changes.append(Change(phase, what, functions, names, lambda: function(*again)))
        if generators := drawn_from(state):
            self.draws.append(Draws(phase, what, functions, tuple(generators)))
        return result


class WatchedModel(AdaptedModel):
    """A model that notes which arrays beside the declared ones change while a client trains."""

    undeclared: tuple[str, ...] = ()
    """Arrays that had changed when the trained ones were read, last time."""
    _resting: Mapping[str, Tensor]

    def load(self, arrays: Arrays | Mapping[str, Tensor], trains: Collection[str] = ()) -> dict[str, Tensor]:
        """Load arrays as any model does, and remember those that do not train."""
        leaves = super().load(arrays, trains)
        self._resting = {name: t.detach().clone() for name, t in self.arrays.items() if name not in trains}
        return leaves

    @contextmanager
    def using(self, arrays: Arrays | Mapping[str, Tensor]) -> Iterator[None]:
        """Load other arrays for a block as any model does; what rests afterwards is what was loaded before."""
        resting = self._resting
        try:
            with super().using(arrays):
                yield
        finally:
            self._resting = resting

    def read(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Copy loaded arrays as any model does, after training; note which of those at rest have changed."""
        loaded = self.arrays
        self.undeclared = tuple(
            name for name, t in self._resting.items() if name not in loaded or not torch.equal(loaded[name], t)
        )
        return super().read(names)

    def backbone_digest(self) -> str:
        """SHA-256 of the frozen weights."""
        return digest({name: t.detach().cpu().numpy() for name, t in self.network.state_dict().items()})
