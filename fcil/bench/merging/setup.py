"""Hold what fine-tuning and all merges of one seed share: the resident model, and the data in three parts."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch

from fcil.arrays import Arrays, digest
from fcil.bench.merging.scoring import Scores
from fcil.client.data import ClientData
from fcil.client.training import run_client
from fcil.config import Config
from fcil.data.dataset import model_inputs as as_batch
from fcil.engine.simulation import Session, prepare
from fcil.errors import ConfigError
from fcil.method import Adapter, Broadcast, ClientUpdate, Local, Method, Phase
from fcil.model.adapted import AdaptedModel
from fcil.seeding import generator
from fcil.server.plan import Plan, make_plan
from fcil.threads import threads

__all__ = ["BenchSetup", "Part", "hold_out", "make_setup"]

Part = Literal["held-out", "test"]
CLIENT = 0
"""Number of the only client, which holds all of a task's data."""


def hold_out(labels: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Split samples into a part to train on and a part held out, class by class.

    Args:
        labels: (n,) class of each sample.
        share: share of each class to hold out, rounded, at least one sample.

    Returns:
        Sorted indices of the samples that are trained on, and of those held out.

    Raises:
        ConfigError: a class has too few samples for both parts.
    """
    held_out = np.zeros(len(labels), bool)
    for c in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == c))
        count = max(1, round(share * len(members)))
        if count >= len(members):
            raise ConfigError(
                f"bench.held_out = {share:g}: a class has {len(members)} training images, and {count} of them would be "
                "held out; lower it, or raise data.train_limit"
            )
        held_out[members[:count]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


@dataclass(frozen=True)
class BenchSetup:
    """Model and data of one backbone and seed: settings are chosen on held-out data, results are of the test data."""

    session: Session
    train_indices: tuple[np.ndarray, ...]
    """[task] -> indices into the training part that experts are trained on, and merges take statistics of."""
    held_out_indices: tuple[np.ndarray, ...]
    """[task] -> indices into the training part that are held out: nobody trains on them."""
    _models: list[tuple[Adapter | None, AdaptedModel]] = field(default_factory=list, repr=False, compare=False)
    _reports: list[tuple[Local, str, ClientUpdate]] = field(default_factory=list, repr=False, compare=False)

    @property
    def plan(self) -> Plan:
        """Plan of the fine-tuning by the method in [method]."""
        return self.session.plan

    @property
    def config(self) -> Config:
        """Return the settings of the fine-tuning."""
        return self.plan.config

    def phases(self, method: Method, task: int) -> list[Phase]:
        """Plan a method's phases of a task."""
        plan = make_plan(self.config, method, self.plan.census, self.plan.backbone)
        return [phase for phase in plan.phases if phase.task.index == task]

    def model(self, method: Method) -> AdaptedModel:
        """Give the resident model with the method's adapter; methods with equal adapters share one."""
        model = next((model for adapter, model in self._models if adapter == method.adapter), None)
        if model is None:
            model = replace(self.session.worker, method=method).model
            self._models.append((method.adapter, model))
        return model

    def update(self, method: Method, phase: Phase, broadcast: Broadcast) -> ClientUpdate:
        """Compute the update of a task's one client, by the same local training as in a run."""
        model = self.model(method)
        data = ClientData(
            self.session.worker.dataset, self.train_indices[phase.task.index], self.session.worker.scenario.positions,
            self.config.model.image_size, model.device,
        )  # fmt: skip
        with threads(self.config.run.threads):
            return run_client(method, model, data, self.config.train, phase, broadcast, CLIENT, {})

    def report(self, method: Method, phase: Phase, broadcast: Broadcast) -> ClientUpdate:
        """Compute a client's report, once where several merges ask the same of the same model."""
        local = method.acting(phase).local(phase)
        request = f"{phase.index} {digest(broadcast.arrays)} {digest(broadcast.references)}"
        cached = (update for work, key, update in self._reports if work == local and key == request)
        update = next(cached, None)
        if update is None:
            update = self.update(method, phase, broadcast)
            self._reports.append((local, request, update))
        return update

    def forget_reports(self) -> None:
        """Free the reports taken so far; whole Gram matrices are large."""
        self._reports.clear()

    @cached_property
    def _indices(self) -> tuple[np.ndarray, np.ndarray]:
        return np.concatenate(self.held_out_indices), np.concatenate(self.session.worker.scenario.tests)

    def scores(self, method: Method, arrays: Arrays, part: Part) -> Scores:
        """Score the held-out or test images of all tasks with the method's model under these arrays."""
        model, dataset, size = self.model(method), self.session.worker.dataset, self.config.run.evaluation_batch
        held_out, test = self._indices
        chosen, split = (held_out, dataset.train) if part == "held-out" else (test, dataset.test)
        scores = []
        with threads(self.config.run.threads), torch.no_grad():
            model.load(arrays)
            for start in range(0, len(chosen), size):
                images = split.images[chosen[start : start + size]]
                batch = as_batch(images, dataset, self.config.model.image_size, device=model.device)
                scores.append(method.scores(model, batch).float().cpu().numpy())
        return Scores(np.concatenate(scores), self.session.worker.scenario.positions[split.labels[chosen]])


def make_setup(config: Config, share: float) -> BenchSetup:
    """Check settings, data and weights, and split the training part; loads no backbone.

    Raises:
        ConfigError: whatever would stop the benchmark later.
    """
    if config.partition.kind == "sites":
        raise ConfigError(
            'partition.kind = "sites": merging is compared on one data set; set data.root and another kind'
        )
    session = prepare(config)
    labels, train_indices, held_out_indices = session.worker.dataset.train.labels, [], []
    for task, parts in enumerate(session.worker.scenario.parts):
        indices = parts[CLIENT]
        train, held_out = hold_out(labels[indices], share, generator(config.run.seed, task, "held out"))
        train_indices.append(indices[train])
        held_out_indices.append(indices[held_out])
    return BenchSetup(session, tuple(train_indices), tuple(held_out_indices))
