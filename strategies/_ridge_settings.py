"""The settings of methods that solve a ridge head from sums, and which of them exclude each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from fcil.errors import ConfigError
from fcil.options import Option

from ._closed_form import WIDTH
from ._private import PrivacySettings
from ._solution import RidgeSolution

__all__ = ["RidgeSettings", "Sketch"]

Sketch = Annotated[int, Option("k: G is sent as its factor of rank k, k M numbers; 0 sends all of it", low=0)]


@dataclass(frozen=True, kw_only=True)
class RidgeSettings(RidgeSolution, PrivacySettings):
    """Settings of `RidgeMethod`: layers and how they are chosen, the solution, privacy. Some exclude each other."""

    layers: Annotated[
        int | tuple[int, ...] | str,
        Option(
            'layers, counted from 1, whose tokens are the features: one, a list, "spread:3" for evenly spaced ones, or '
            '"auto", chosen from sums; empty for the network\'s own features',
            low=1,
            forms=("spread:<k>", "auto"),
        ),
    ] = ()
    choose: Annotated[
        Literal["first_task", "every_task"],
        Option('when "auto" layers are chosen: once, for full sums from then on, or always anew among folded ones'),
    ] = "first_task"
    candidates: Annotated[
        int, Option("numbers to which all candidates are folded, together; their G is never sketched", low=1)
    ] = WIDTH

    @property
    def random_features(self) -> int:
        """M, the number of random features relu(R z); 0 leaves features as they are."""
        return 0

    @property
    def sketch_rank(self) -> int:
        """Rank of the factor in whose form G is sent; 0 sends all of it."""
        return 0

    @property
    def anew(self) -> bool:
        """Tell whether the choice is made anew after every task, among candidates whose sums are kept."""
        return self.layers == "auto" and self.choose == "every_task"

    def check_settings(self, clip: float, project: int) -> None:
        """Raise ConfigError for settings that exclude each other.

        Args:
            clip: the method's bound on a feature vector's norm, 0 for none.
            project: the length to which longer features are folded.
        """
        if (reason := next(self._contradictions(clip), None)) is not None:
            raise ConfigError(reason)
        self.check_privacy(clip, self._not_accounted())
        if self.sketch_rank and (self.solution != "ridge" or self.penalty == "gcv"):
            raise ConfigError(
                f'method.sketch = {self.sketch_rank}: method.solution = "{self.solution}" and method.penalty = '
                f'"{self.penalty}" need G whole; "ridge" and "auto" or a number do not'
            )
        if self.anew and (reason := next(self._contradictions_anew(project), None)) is not None:
            raise ConfigError(reason)

    def _contradictions(self, clip: float) -> Iterator[str]:
        """Settings that only a choice of layers takes, or that exclude one."""
        if self.layers != "auto" and self.choose == "every_task":
            yield 'method.choose = "every_task": there is a choice only with method.layers = "auto"'
        if self.layers != "auto" and self.candidates != WIDTH:
            yield f'method.candidates = {self.candidates}: there are candidates only with method.layers = "auto"'
        if self.layers == "auto" and clip:
            yield (
                f'method.clip = {clip:g}: with method.layers = "auto" layers are chosen by sums of features that '
                "are not clipped; name the layers"
            )

    def _contradictions_anew(self, project: int) -> Iterator[str]:
        """Settings that exclude a new choice after every task."""
        features = (
            'with method.choose = "every_task" the features are the '
            f"candidates' folded tokens, method.candidates = {self.candidates} numbers;"
        )
        if project != WIDTH:
            yield f"method.project = {project}: {features} leave it out"
        if self.random_features:
            yield f"method.random = {self.random_features}: {features} set it to 0"
        if self.penalty == "accuracy" or self.sketch_rank:
            yield (
                'method.choose = "every_task": needs G whole, and no penalty by accuracy; leave method.sketch out '
                'and set method.penalty to "gcv", "auto" or a number'
            )

    def _not_accounted(self) -> str:
        """A setting with which noise would not be one Gaussian mechanism a sample; empty for none."""
        if self.penalty in ("accuracy", "gcv"):
            return f'method.penalty = "{self.penalty}"'
        if self.solution != "ridge":
            return f'method.solution = "{self.solution}"'
        return f"method.sketch = {self.sketch_rank}" if self.sketch_rank else ""
