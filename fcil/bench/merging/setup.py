"""What fine-tuning and all merges of one seed share: the resident model, and the data in three parts."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch

from fcil.arrays import Arrays, digest
from fcil.bench.merging.scoring import Scored
from fcil.client.data import ClientData
from fcil.client.training import run_client
from fcil.config import Config
from fcil.data.dataset import model_inputs as as_batch
from fcil.engine.simulation import Session, prepare
from fcil.errors import ConfigError
from fcil.method import Adapter, Broadcast, ClientUpdate, Local, Method, Phase
from fcil.model.adapted import AdaptedModel
from fcil.seeding import generator
from fcil.server.loop import Plan, make_plan
from fcil.threads import threads

__all__ = ["Part", "Stage", "hold_out", "open_stage"]

Part = Literal["held", "test"]
CLIENT = 0
"""Who holds all of a task's data."""


def hold_out(labels: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Split samples within classes.

    Args:
        labels: (n,).
        share: of each class to hold out, rounded, at least one sample.

    Returns:
        Sorted indices of those that are trained on, and of those held out.

    Raises:
        ConfigError: a class has too few samples for both parts.
    """
    held = np.zeros(len(labels), bool)
    for c in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == c))
        count = max(1, round(share * len(members)))
        if count >= len(members):
            raise ConfigError(
                f"bench.held_out = {share:g}: a class has {len(members)} training images, and {count} of them would be "
                "held out; lower it, or raise data.train_limit"
            )
        held[members[:count]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


@dataclass(frozen=True)
class Stage:
    """One backbone and one seed. Settings are chosen on `held`, which nobody trains on; figures are of the test."""

    session: Session
    fit: tuple[np.ndarray, ...]
    """[task] -> indices into the training part that experts are trained on, and merges take statistics of."""
    held: tuple[np.ndarray, ...]
    """[task] -> indices into the training part that are held out."""
    _models: list[tuple[Adapter | None, AdaptedModel]] = field(default_factory=list, repr=False, compare=False)
    _replies: list[tuple[Local, str, ClientUpdate]] = field(default_factory=list, repr=False, compare=False)

    @property
    def plan(self) -> Plan:
        """Of the method that fine-tunes."""
        return self.session.plan

    @property
    def config(self) -> Config:
        """Of the fine-tuning."""
        return self.plan.config

    def phases(self, method: Method, task: int) -> list[Phase]:
        """A method's phases of a task."""
        plan = make_plan(self.config, method, self.plan.scenario, self.plan.backbone)
        return [phase for phase in plan.phases if phase.task.index == task]

    def model(self, method: Method) -> AdaptedModel:
        """The resident model with the method's adapter; methods with equal adapters share one."""
        known = next((model for adapter, model in self._models if adapter == method.adapter), None)
        if known is None:
            known = replace(self.session.worker, method=method).model
            self._models.append((method.adapter, known))
        return known

    def update(self, method: Method, phase: Phase, broadcast: Broadcast) -> ClientUpdate:
        """What the one client of a task sends back, by the project's own local training."""
        model = self.model(method)
        data = ClientData(
            self.session.worker.dataset, self.fit[phase.task.index], self.plan.scenario.positions,
            self.config.model.image_size, model.device,
        )  # fmt: skip
        with threads(self.config.run.threads):
            return run_client(method, model, data, self.config.train, phase, broadcast, CLIENT, {})

    def report(self, method: Method, phase: Phase, broadcast: Broadcast) -> ClientUpdate:
        """A report, taken once where several merges ask the same of the same model."""
        local = method.acting(phase).local(phase)
        told = f"{phase.index} {digest(broadcast.arrays)} {digest(broadcast.references)}"
        known = next((update for asked, text, update in self._replies if asked == local and text == told), None)
        if known is None:
            known = self.update(method, phase, broadcast)
            self._replies.append((local, told, known))
        return known

    def forget(self) -> None:
        """Let go of the reports taken so far; whole Gram matrices are large."""
        self._replies.clear()

    @cached_property
    def _everything(self) -> tuple[np.ndarray, np.ndarray]:
        return np.concatenate(self.held), np.concatenate(self.plan.scenario.tests)

    def scores(self, method: Method, arrays: Arrays, part: Part) -> Scored:
        """What the method says under these arrays of the `held` or the `test` images of all tasks."""
        model, dataset, size = self.model(method), self.session.worker.dataset, self.config.run.evaluation_batch
        held, test = self._everything
        chosen, split = (held, dataset.train) if part == "held" else (test, dataset.test)
        scores = []
        with threads(self.config.run.threads), torch.no_grad():
            model.load(arrays)
            for begin in range(0, len(chosen), size):
                images = split.images[chosen[begin : begin + size]]
                batch = as_batch(images, dataset, self.config.model.image_size, device=model.device)
                scores.append(method.scores(model, batch).float().cpu().numpy())
        return Scored(np.concatenate(scores), self.plan.scenario.positions[split.labels[chosen]])


def open_stage(config: Config, share: float) -> Stage:
    """Check settings, data and weights, and split the training part. Loads no backbone.

    Raises:
        ConfigError: whatever would stop the benchmark later.
    """
    session = prepare(config)
    labels, fit, held = session.worker.dataset.train.labels, [], []
    for task, parts in enumerate(session.plan.scenario.parts):
        mine = parts[CLIENT]
        left, out = hold_out(labels[mine], share, generator(config.run.seed, task, "held out"))
        fit.append(mine[left])
        held.append(mine[out])
    return Stage(session, tuple(fit), tuple(held))
