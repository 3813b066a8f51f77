"""The base of methods that solve a ridge head from sums, and may choose layers and penalty by sums too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from fcil.arrays import Arrays, State, as_float32
from fcil.merging.candidates import best_choice, columns
from fcil.merging.ridge import GRID, penalty_unit, solvable, strongest_of_the_best
from fcil.method import (
    REPORT,
    TOKENS,
    Backbone,
    Broadcast,
    ClientUpdate,
    GramLayout,
    Kind,
    Local,
    Pass,
    Phase,
    Task,
    Tokens,
    head,
)  # fmt: skip
from fcil.method.tokens import side_by_side
from fcil.statistics.candidates import CandidateSums
from fcil.statistics.feature_map import FeatureMap
from fcil.statistics.features import GRAM, HELD, FeatureSums, class_sums, counts, held_out
from fcil.statistics.right_answers import BIASES, HEADS, RIGHT, SCORED, RightAnswers

from ._closed_form import ROWS, SUMS, ClosedForm, feature_width
from ._ridge_settings import RidgeSettings
from ._solution import HELD_OUT, fitted, taken, together

__all__ = ["RidgeMethod"]

Purpose = Literal["choose", "sum", "score"]
CHOSEN, BLOCKS = "chosen", "blocks"
"""The state's group of choices, which has the counts of right answers or, as BLOCKS, the chosen blocks' positions."""
HEADS_TRIED = "heads_tried"
"""The state's group of heads whose right answers are counted, between two reports of a task."""


@dataclass(frozen=True, kw_only=True)
class RidgeMethod(RidgeSettings, ClosedForm):
    """The base of the methods whose head is H = (G + lambda I)^-1 Q of features, or of random features of them.

    A task is one report. With `layers` = "auto" clients sum candidates: tokens of all layers, each layer's folded into
    a few numbers. The server takes three evenly spaced layers by generalised cross-validation
    (`fcil.merging.candidates`). After the first task clients then sum the chosen layers' tokens in full, in one more
    report; with `choose` = "every_task" the candidates' sums are the features themselves, and the choice is made anew
    from the sums of all tasks.
    """

    @property
    def features(self) -> FeatureMap:
        """Folded and random features, as far as the settings ask for them."""
        return FeatureMap(random=self.random_features, project=self.folds_into, clip=self.clip)

    def steps(self, task: int) -> tuple[Purpose, ...]:
        """List what the reports of a task are for, in their order."""
        first = self.layers == "auto" and not self.anew and task == 0
        choose: tuple[Purpose, ...] = ("choose",) if first else ()
        return (*choose, "sum", "score") if self.penalty == "accuracy" else (*choose, "sum")

    def step(self, phase: Phase) -> Purpose:
        """Tell what the report of a phase is for."""
        return self.steps(phase.task.index)[-1 - phase.phases_left]

    def phases(self, task: Task, rounds: int) -> tuple[Kind, ...]:
        """One report a task, one more in a first task in which layers are chosen, and one more to count answers."""
        return (REPORT,) * len(self.steps(task.index))

    def chosen_tokens(self, backbone: Backbone) -> Tokens | None:
        """The tokens with which the run begins: the candidates where there is a choice."""
        if self.layers != "auto":
            return super().chosen_tokens(backbone)
        return side_by_side(range(1, backbone.blocks + 1), self.sides(backbone))

    def init(self, backbone: Backbone, classes: int, seed: int) -> State:
        """Raise ConfigError for settings that exclude each other, or tokens that the backbone does not have."""
        self.check_settings(self.clip, self.project)
        return super().init(backbone, classes, seed)

    # ---- statistics --------------------------------------------------------------------------------------------------

    def evaluates(self, phase: Phase) -> bool:
        """There is no head yet between the report that chooses and the one that sums what was chosen."""
        return self.step(phase) != "choose"

    def statistic(self, phase: Phase) -> FeatureSums | CandidateSums:
        """G, Q and counts of the candidates where they are summed, of phi otherwise."""
        if self.step(phase) != "choose" and not self.anew:
            return self.feature_sums(phase)
        share = self.held_out if self.anew else 0.0
        return CandidateSums(phase.task, self.candidates, phase.seed, share, self.wire)

    def feature_sums(self, phase: Phase) -> FeatureSums:
        """G, Q and counts of phi, and the same of the held-out samples."""
        features = replace(self.features, seed=phase.seed)
        return FeatureSums(
            phase.task, features, held_out=self.held_out, wire=self.wire, sketch=self.sketch_rank,
            noise=self.noise_of("client", self.clip),
        )  # fmt: skip

    def answers(self, phase: Phase) -> RightAnswers:
        """The statistic by which the penalty is chosen."""
        return RightAnswers(phase.task, replace(self.features, seed=phase.seed))

    def local(self, phase: Phase) -> Local:
        """Sum the step's statistic; answers are counted on the held-out samples only."""
        if self.step(phase) != "score":
            return super().local(phase)
        return Local(passes=(Pass((self.answers(phase),), samples=held_out(phase.seed, HELD_OUT)),))

    # ---- server half -------------------------------------------------------------------------------------------------

    def broadcast(self, state: State, phase: Phase) -> Broadcast:
        """Send the length of features and their tokens; for the count of answers also a head for each penalty."""
        if self.step(phase) != "score":
            return super().broadcast(state, phase)
        return Broadcast({**state[ROWS], **state.get(HEADS_TRIED, {})})

    def _heads(self, state: State, phase: Phase) -> dict[str, np.ndarray]:
        """A head for each penalty of GRID, solved without the held-out samples: rows and biases, float32."""
        gram, q, count = fitted(state[SUMS], range(phase.task.index + 1))
        unit = penalty_unit(gram, state[SUMS][HELD + GRAM])
        heads = solvable(lambda penalty: self.solution_of(gram, q, count, penalty), [unit * share for share in GRID])
        heads += [heads[-1]] * (len(GRID) - len(heads))  # ties go to the first, so these are never chosen
        rows, biases = (np.stack(parts) for parts in zip(*heads, strict=True))
        return as_float32({HEADS: rows, BIASES: biases})

    def sums(self, phase: Phase, broadcast: Broadcast, updates: Sequence[ClientUpdate]) -> Arrays:
        """Add the clients' sums or counts, in float64."""
        if self.step(phase) == "score":
            return self.answers(phase).total(updates)
        return super().sums(phase, broadcast, updates)

    def objection(self, phase: Phase, broadcast: Broadcast, update: ClientUpdate) -> str | None:
        """Say why the sums are of no samples, or the answers not of so many."""
        if self.step(phase) == "score":
            return self.answers(phase).objection(update.statistics, update.num_examples)
        return super().objection(phase, broadcast, update)

    def gram_sums(self, phase: Phase, broadcast: Broadcast) -> Mapping[str, GramLayout]:
        """The statistic's G; counts of answers have none."""
        return {} if self.step(phase) == "score" else super().gram_sums(phase, broadcast)

    def merge_sums(self, state: State, phase: Phase, sums: Arrays) -> State:
        """Add sums or counts to those before; choose where it is time."""
        step = self.step(phase)
        if step == "score":
            before = state.get(CHOSEN, {})
            groups = {group: arrays for group, arrays in state.items() if group != HEADS_TRIED}
            return {**groups, CHOSEN: {name: before.get(name, 0.0) + a for name, a in sums.items()}}
        state = super().merge_sums(state, phase, self.noisy(sums, self.clip, phase))
        if step == "choose":
            return self._opened_for_choice(state, phase)
        if self.penalty == "accuracy":
            return {**state, HEADS_TRIED: self._heads(state, phase)}
        if self.anew:
            return {**state, CHOSEN: {BLOCKS: np.array(self._choice(state, phase), np.float64)}}
        return state

    def _choice(self, state: State, phase: Phase) -> tuple[int, ...]:
        """Choose among the candidates by their sums of all tasks so far: positions of blocks."""
        gram, q, count = fitted(state[SUMS], range(phase.task.index + 1))
        blocks, rng = Tokens.of(state[ROWS][TOKENS]).blocks, phase.generator("signs of candidates")
        return best_choice(gram, q, float(count.sum()), blocks, rng, whole=self.anew)

    def _opened_for_choice(self, state: State, phase: Phase) -> State:
        """The state with zero sums for the tokens that the candidates' sums choose."""
        offered = Tokens.of(state[ROWS][TOKENS])
        width = feature_width(state) // sum(offered.sizes)
        chosen = Tokens(tuple(offered.blocks[i] for i in self._choice(state, phase)))
        following = replace(phase, phases_left=phase.phases_left - 1)
        return self.opened({}, following, chosen, width * sum(chosen.sizes))

    def notes(self, state: State, phase: Phase) -> Mapping[str, str]:
        """The layers that were chosen, and their tokens; or what privacy the noise gives."""
        if self.layers != "auto" or SUMS not in state:
            return self.privacy_note()
        blocks = Tokens.of(state[ROWS][TOKENS]).blocks
        if self.anew:
            blocks = tuple(blocks[int(i)] for i in state[CHOSEN][BLOCKS])
        kinds = [f"grid:{side}" if side else "class" for side in dict.fromkeys(side for _, side in blocks)]
        return {"layers": ", ".join(str(layer) for layer in sorted({n for n, _ in blocks})), "tokens": "+".join(kinds)}

    # ---- the head ----------------------------------------------------------------------------------------------------

    def deploy(self, state: State, phase: Phase) -> Arrays:
        """The head of all classes seen, solved from all samples so far, and the maps from features to phi."""
        phase, tasks = replace(phase, phases_left=0), range(phase.task.index + 1)
        rows, bias = self.solved_in(state, tasks)
        ends = np.cumsum([len(state[SUMS][counts(t)]) for t in tasks])[:-1]
        weights = {head.weight(t): a for t, a in enumerate(np.split(rows, ends))}
        solved = as_float32({**weights, **{head.bias(t): a for t, a in enumerate(np.split(bias, ends))}})
        return {**solved, **self.maps(state, phase, self.input_width(state))}

    def input_width(self, state: State) -> int:
        """Length of z, the feature vector of which phi is made."""
        return feature_width(state)

    def map_of(self, state: State, phase: Phase) -> FeatureMap:
        """The map from features to phi; that of all candidates where the choice is made anew."""
        if not self.anew:
            return super().map_of(state, phase)
        tokens = Tokens.of(state[ROWS][TOKENS])
        size = len(state[SUMS][class_sums(phase.task.index)][0]) // len(tokens.blocks)
        return FeatureMap(seed=phase.seed, project=size, parts=tokens.sizes)

    def solved_in(self, state: State, tasks: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Rows and biases from the state's sums: of chosen blocks alone, or at the penalty of most right answers."""
        sums = self.mended(state[SUMS])
        scored = float(state.get(CHOSEN, {}).get(SCORED, np.zeros(1))[0])
        if self.penalty == "accuracy" and scored:
            share = GRID[strongest_of_the_best(state[CHOSEN][RIGHT], scored)]
            penalty = share * penalty_unit(sums[GRAM], sums[HELD + GRAM])
            return self.solution_near(*fitted(together(sums), tasks), penalty)
        if not self.anew or CHOSEN not in state:
            return self.solved(sums, tasks)
        size = sums[class_sums(0)].shape[1] // len(state[ROWS][TOKENS])
        at = columns(tuple(int(i) for i in state[CHOSEN][BLOCKS]), size)
        rows, bias = self.solved({name: taken(name, a, at) for name, a in sums.items()}, tasks)
        whole = np.zeros((len(rows), sums[class_sums(0)].shape[1]))
        whole[:, at] = rows
        return whole, bias
