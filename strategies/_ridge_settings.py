"""Settings of ridge heads that exclude each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fcil.errors import ConfigError

from ._closed_form import WIDTH

if TYPE_CHECKING:
    from ._ridge import RidgeMethod

__all__ = ["refuse_contradictions"]


def refuse_contradictions(method: RidgeMethod) -> None:
    """Raise ConfigError for settings of a ridge head that exclude each other."""
    if method.layers != "auto" and method.choose == "every_task":
        raise ConfigError('method.choose = "every_task": there is a choice only with method.layers = "auto"')
    if method.layers != "auto" and method.candidates != WIDTH:
        raise ConfigError(
            f'method.candidates = {method.candidates}: there are candidates only with method.layers = "auto"'
        )
    if method.layers == "auto" and method.clip:
        raise ConfigError(
            f'method.clip = {method.clip:g}: with method.layers = "auto" layers are chosen by sums of features that '
            "are not clipped; name the layers"
        )
    method.check_privacy(method.clip, _not_accounted(method))
    if method.sketch_rank and (method.solution != "ridge" or method.penalty == "gcv"):
        raise ConfigError(
            f'method.sketch = {method.sketch_rank}: method.solution = "{method.solution}" and method.penalty = '
            f'"{method.penalty}" need G whole; "ridge" and "auto" or a number do not'
        )
    if method.anew:
        _refuse_beside_choices_made_anew(method)


def _refuse_beside_choices_made_anew(method: RidgeMethod) -> None:
    """Raise ConfigError for what `choose` = "every_task" cannot have beside it."""
    if method.project != WIDTH:
        raise ConfigError(
            f'method.project = {method.project}: with method.choose = "every_task" the features are the '
            f"candidates' folded tokens, method.candidates = {method.candidates} numbers; leave it out"
        )
    if method.random_features:
        raise ConfigError(
            f'method.random = {method.random_features}: with method.choose = "every_task" the features are the '
            f"candidates' folded tokens, method.candidates = {method.candidates} numbers; set it to 0"
        )
    if method.penalty == "accuracy" or method.sketch_rank:
        raise ConfigError(
            'method.choose = "every_task": needs G whole, and no penalty by accuracy; leave method.sketch out '
            'and set method.penalty to "gcv", "auto" or a number'
        )


def _not_accounted(method: RidgeMethod) -> str:
    """A setting with which noise would not be one Gaussian mechanism a sample; empty for none."""
    if method.penalty in ("accuracy", "gcv"):
        return f'method.penalty = "{method.penalty}"'
    if method.solution != "ridge":
        return f'method.solution = "{method.solution}"'
    return f"method.sketch = {method.sketch_rank}" if method.sketch_rank else ""
