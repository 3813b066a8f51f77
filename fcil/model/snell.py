"""SNELL (arXiv 2411.01800) and SNELLA (2510.24037) as adapters: settings of kernelised, sparse weight changes.

Their arrays, starts and slots are in `fcil.model.kernelised`. The public scripts train with dropout and stochastic
depth, which are left out here (`fcil.model.kernel_layer`), and by AdamW without decay of alpha, gamma and beta.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from fcil.arrays import Arrays
from fcil.errors import ConfigError
from fcil.merging.allocation import budget, sparsities
from fcil.method import Backbone, Statistic
from fcil.model.kernel_form import SPARSITY, Competition, Form
from fcil.model.kernelised import Kernelised, kernel_layers
from fcil.model.lora import TARGETS
from fcil.model.sensitivity import Sensitivity, score_of
from fcil.model.weight_adapter import sides_of
from fcil.options import Option

__all__ = ["Snell", "Snella"]

Rank = Annotated[int, Option("numbers q of a point, over both its heads; even", low=2)]
Targets = Annotated[tuple[str, ...], Option("glob patterns of the linear layers that change")]


@dataclass(frozen=True)
class Snell(Kernelised):
    """Train sparse changes of SNELL's piecewise-linear kernel, with one sparsity for all layers.

    Shen et al., "Expanding Sparse Tuning for Low Memory Usage", NeurIPS 2024, arXiv 2411.01800. As in the public code,
    sparsity 0 means no competition: the change is the kernel's value itself, not its product with its magnitude.
    """

    rank: Rank = 32
    sparsity: Annotated[float, Option("share of a part's entries that is zero; 0 for none", low=0, high=1)] = 0.9
    competition: Annotated[
        Literal["code", "paper"], Option('rule by which entries compete: that of the public "code", or of the "paper"')
    ] = "code"
    targets: Targets = TARGETS

    @property
    def form(self) -> Form:
        """The kernel and competition."""
        return Form("piecewise", self.competition if self.sparsity else "none")

    @property
    def first_sparsity(self) -> float:
        """The sparsity of every part at the start."""
        return self.sparsity

    def check(self, backbone: Backbone) -> None:
        """Raise ConfigError also for a sparsity of 1, at which nothing would change."""
        super().check(backbone)
        if self.sparsity >= 1:
            raise ConfigError("method.adapter: sparsity = 1: no entry would be left to change; set a number below 1")


@dataclass(frozen=True)
class Snella(Kernelised):
    """Train sparse changes of SNELLA's mix kernel, with sparsities for which all layers compete.

    Shen et al., "Kernelized Sparse Fine-Tuning with Bi-level Parameter Competition", arXiv 2510.24037. After every
    round each part gets a sparsity by its share of the scores (`fcil.model.sensitivity`), summed over clients, of a
    budget of nonzeros that falls over the rounds (`fcil.merging.allocation`): the first round trains at
    `sparsity_start`, the last one at `sparsity`. At sparsity 0 the competition of the public code still squares
    entries, unlike that of SNELL; with competition "none" the kernel's values are the change, and sparsities have no
    effect.
    """

    rank: Rank = 32
    sparsity: Annotated[float, Option("share of all entries that is zero at the end", low=0, high=1)] = 0.8
    sparsity_start: Annotated[float, Option("share of all entries that is zero at the start", low=0, high=1)] = 0.0
    competition: Annotated[
        Competition, Option('rule by which entries compete: that of the public "code", of the "paper", or "none"')
    ] = "code"
    warmup: Annotated[float, Option("share of the schedule before sparsity begins to rise (t_i)", low=0, high=1)] = 0.0
    settled: Annotated[float, Option("share of the schedule at the final sparsity (t_f)", low=0, high=1)] = 0.0
    beta1: Annotated[float, Option("decay of the running mean of sensitivities", low=0, high=1)] = 0.85
    beta2: Annotated[float, Option("decay of the running mean of their deviations", low=0, high=1)] = 0.85
    targets: Targets = TARGETS

    @property
    def form(self) -> Form:
        """The kernel and competition."""
        return Form("mix", self.competition)

    @property
    def first_sparsity(self) -> float:
        """The sparsity of every part at the start."""
        return self.sparsity_start

    @property
    def training_statistics(self) -> tuple[Statistic, ...]:
        """The scores by which parts compete."""
        return () if self.competition == "none" else (Sensitivity(self.beta1, self.beta2),)

    def check_rounds(self, rounds: int) -> None:
        """Raise ConfigError for one round alone, in which no sparsity could rise."""
        if rounds == 1 and self.competition != "none" and self.sparsity != self.sparsity_start:
            raise ConfigError(
                f"method.adapter: snella's sparsity rises from {self.sparsity_start:g} to {self.sparsity:g} between "
                "rounds, and there is one round only; set train.rounds to 2 or more, or sparsity_start = sparsity"
            )

    def next_round(self, module: Arrays, sums: Arrays, done: int, rounds: int) -> Arrays:
        """The module with the sparsities of the next round; equal scores give equal numbers of nonzeros."""
        if done == 0 or self.competition == "none":
            return module
        scores = {layer: sums[score_of(layer)].sum(1) for layer in kernel_layers(module)}
        sizes = {layer: out * inputs // len(scores[layer]) for layer, (out, inputs) in sides_of(module).items()}
        entries = sum(len(scores[layer]) * sizes[layer] for layer in scores)
        schedule = self.sparsity_start, self.sparsity, self.warmup, self.settled
        nonzeros = budget(done / (rounds - 1), entries, *schedule)
        shares = sparsities(scores, sizes, nonzeros)
        return {**module, **{layer + SPARSITY: share for layer, share in shares.items()}}

    def check(self, backbone: Backbone) -> None:
        """Raise ConfigError also for a sparsity that falls, a schedule beyond the run, or means that never move."""
        super().check(backbone)
        if self.sparsity >= 1 or self.sparsity_start > self.sparsity:
            raise ConfigError(
                f"method.adapter: sparsity_start = {self.sparsity_start:g}, sparsity = {self.sparsity:g}: the "
                "second must be below 1, and not below the first"
            )
        if self.warmup + self.settled >= 1:
            raise ConfigError(
                f"method.adapter: warmup + settled = {self.warmup + self.settled:g}: must be below 1; "
                "sparsity rises in what is left"
            )
        if max(self.beta1, self.beta2) >= 1:
            raise ConfigError("method.adapter: beta1 and beta2 must be below 1: at 1 no gradient would move a score")
