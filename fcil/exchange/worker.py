"""Does clients' work in one process, which keeps the model and the data loaded. Knows no transport."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fcil.arrays import Arrays, nbytes
from fcil.client.data import ClientData
from fcil.client.store import ClientStore, MemoryStore, StoreError
from fcil.client.training import run_client
from fcil.config import Config
from fcil.data import load
from fcil.data.dataset import Dataset, model_inputs
from fcil.data.sites import load_sites, of_site
from fcil.exchange.described import Undescribed
from fcil.exchange.device import PeakMemory, local_device, repeatable, resolved
from fcil.exchange.shared import Shared
from fcil.exchange.update_key import run_part, update_key
from fcil.method import Broadcast, ClientUpdate, Method, Phase, Shapes, Task
from fcil.model.adapted import AdaptedModel
from fcil.model.backbone import load_backbone
from fcil.model.scoring import server_scores
from fcil.registry import build_method
from fcil.scenario.census import Census
from fcil.scenario.scenario import Scenario, make_scenario
from fcil.server.replies import Failure, Partial, crashed, summed, sums_shapes
from fcil.server.validation import Expected, expected
from fcil.threads import threads

__all__ = ["CACHED", "Worker"]

CACHED = "cached"
"""Metric of an update: images of which features were not computed, but found in the cache."""


@dataclass(frozen=True)
class Worker:
    """Works for any client of one run. Backbone and data are loaded once, when first needed, and stay."""

    config: Config
    method: Method
    store: ClientStore | None = None
    """What clients keep; without one they keep it in the memory of this process."""
    shared: Shared | None = None
    """What other runs of this process have loaded or computed; without it nothing outlives the worker."""
    _sites: dict[int, tuple[Dataset, Scenario]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, config: Config, store: Path | None = None) -> "Worker":
        """Make a worker from the settings alone, which are all that another process has to be sent."""
        method = build_method(config.method.name, config.method.settings)
        return cls(config, method, ClientStore(store) if store else None)

    @cached_property
    def dataset(self) -> Dataset:
        """The data set, images possibly memory-mapped; of sites, those that are here."""
        config = self.config
        size, classes = config.model.image_size, config.tasks.classes if config.partition.kind == "sites" else None

        def read() -> Dataset:
            return load(config.data, size) if classes is None else load_sites(config.data, size, classes)

        data: Dataset = self.shared.keep("data", (config.data, size, classes), read) if self.shared else read()
        return data

    @cached_property
    def scenario(self) -> Scenario:
        """The split of the data into tasks and clients; the same in every process."""
        config = self.config
        return make_scenario(self.dataset, config.tasks, config.partition, config.run.seed, self.method.stream)

    @cached_property
    def census(self) -> Census:
        """The numbers of samples in the scenario, by class unless sites keep that to themselves."""
        census, config = self.scenario.census(self.dataset), self.config
        census = census if config.data.class_counts else replace(census, by_class=None)
        return census if config.answers_by_class else replace(census, test_by_class=None)

    @cached_property
    def model(self) -> AdaptedModel:
        """The resident model, on the device that the settings name."""
        repeatable(self.device)
        precision = resolved(self.config).model.precision
        adapted = AdaptedModel(self._network(precision), self.method.adapter, self.device, precision)
        if self.shared and self.shared.features and self.config.partition.kind != "sites":
            adapted.cache = self.shared.features.cache(self.config, self.method, self.dataset)
        return adapted

    def _network(self, precision: str) -> nn.Module:
        """The backbone, of which adapters and precisions change a copy; runs without an adapter have one in common."""
        model, shared = self.config.model, self.shared
        if shared is None:
            return load_backbone(model)
        loaded: nn.Module = shared.keep("backbone", model, lambda: load_backbone(model))
        if self.method.adapter is not None:
            shared.drop("bare backbone")  # it may lie on a GPU
            return copy.deepcopy(loaded)
        bare: nn.Module = shared.keep("bare backbone", (model, self.device, precision), lambda: copy.deepcopy(loaded))
        return bare

    @cached_property
    def device(self) -> torch.device:
        """The device that the settings name, in this process."""
        return local_device(self.config.run.device)

    @property
    def features_found(self) -> int:
        """Images of which features were found in the cache, so far, in this process."""
        return self.model.cache.found if "model" in vars(self) and self.model.cache else 0

    @cached_property
    def _kept(self) -> ClientStore | MemoryStore:
        return self.store or MemoryStore()

    def _held_by(self, client: int) -> tuple[Dataset, Scenario]:
        """The data that a client has at hand, and its own samples in them; of a site alone, as on its own node.

        A site's samples are numbered from 0 everywhere, so that what a method does by their numbers is the same.
        """
        if not self.scenario.sites or self.method.stream != "federated":
            return self.dataset, self.scenario
        if client not in self._sites:
            config, data = self.config, of_site(self.dataset, client)
            self._sites[client] = data, make_scenario(data, config.tasks, config.partition, config.run.seed)
        return self._sites[client]

    def work(self, phase: Phase, broadcast: Broadcast, client: int) -> ClientUpdate:
        """Do one client's part of one phase."""
        dataset, scenario = self._held_by(client)
        *earlier, indices = (parts[client] for parts in scenario.parts[: phase.task.index + 1])
        data = ClientData(
            dataset, indices, scenario.positions, self.config.model.image_size, self.device, tuple(earlier),
            scenario.unlabelled_of(phase.task.index, client),
        )  # fmt: skip
        store = self._kept.read(client, phase.index)

        def compute() -> ClientUpdate:
            memory, earlier_count = PeakMemory(self.device), self.features_found
            with threads(self.config.run.threads):
                update = run_client(self.method, self.model, data, self.config.train, phase, broadcast, client, store)
            cached = {CACHED: float(self.features_found - earlier_count)} if self.features_found > earlier_count else {}
            return replace(update, metrics={**update.metrics, **memory.metrics(), **cached})

        update = self._remembered(compute, phase, broadcast, client, data, store)
        self._kept.write(client, phase.index, store)
        return replace(update, metrics={**update.metrics, "kept_bytes": nbytes(store)})

    def _remembered(
        self, compute: Callable[[], ClientUpdate], phase: Phase, broadcast: Broadcast, client: int, data: ClientData,
        store: dict[str, np.ndarray],
    ) -> ClientUpdate:  # fmt: skip
        """Compute an update, unless another run of this comparison has computed the same.

        What is remembered lies on a disk as it is, which is not for clients who send it under masks only.
        """
        if self.shared is None or self.shared.memo is None or self.config.run.secure_sums or self._run_part is None:
            return compute()
        samples = {"these": data.indices, "earlier": data.earlier, "positions": data.positions}
        samples |= {"unlabelled": data.unlabelled}
        key = update_key(self._run_part, self.method, phase, broadcast, client, samples, store)
        return self.shared.memo.update(key, store, compute, phase)

    @cached_property
    def _run_part(self) -> str | None:
        try:
            return run_part(self.config, self.method, self.dataset.sha256())
        except Undescribed:
            return None

    def work_all(self, phase: Phase, broadcast: Broadcast, clients: Iterable[int]) -> Iterator[ClientUpdate | Failure]:
        """Do several clients' parts, one after the other; one that raises is a failure with its traceback.

        What stands in the way of its store is told without: it is no fault of the code.
        """
        for client in clients:
            try:
                yield self.work(phase, broadcast, client)
            except StoreError as error:
                yield Failure(client, str(error), stops=True)
            except Exception as error:  # whatever a client's code may raise
                yield crashed(client, error)

    def _target(self, phase: Phase, broadcast: Broadcast, clients: Sequence[int]) -> tuple[Method, Expected]:
        method = self.method.acting(phase)
        counts = {client: self.scenario.num_examples(phase.task.index, client) for client in clients}
        return method, expected(phase, broadcast, method.local(phase), counts)

    def sums_shapes(self, phase: Phase, broadcast: Broadcast, client: int) -> Shapes:
        """The names and shapes of the sums over one client's update."""
        method, target = self._target(phase, broadcast, (client,))
        return sums_shapes(method, target, broadcast)

    def work_group(self, phase: Phase, broadcast: Broadcast, clients: Sequence[int]) -> Partial:
        """Sum several clients' good updates; if summing itself raises, every one of them is a failure."""
        try:
            method, target = self._target(phase, broadcast, clients)
            with threads(self.config.run.threads):
                return summed(method, target, broadcast, self.work_all(phase, broadcast, clients))
        except Exception as error:  # whatever `Method.sums` may raise
            return Partial(phase.index, (), tuple(crashed(client, error) for client in clients))

    def scores(self, arrays: Arrays, images: np.ndarray) -> np.ndarray:
        """Score images that the server holds; see `fcil.model.scoring`."""
        run = self.config.run
        with threads(run.threads):
            return server_scores(
                self.method, self.model, arrays, images, self.config.model.image_size, run.evaluation_batch
            )

    def _test_batches(self, task: Task) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield the place, samples and their tasks of each evaluation batch after `task`; no batch spans two places."""
        size, tasks = self.config.run.evaluation_batch, task.index + 1
        for place, tests in enumerate(self.scenario.places(self.dataset)):
            samples = np.concatenate(tests[:tasks])
            of_task = np.repeat(np.arange(tasks), [len(test) for test in tests[:tasks]])
            for begin in range(0, len(samples), size):
                yield place, samples[begin : begin + size], of_task[begin : begin + size]

    def batch_sizes(self, task: Task) -> list[int]:
        """Numbers of images of the evaluation batches after `task`."""
        return [len(samples) for _, samples, _ in self._test_batches(task)]

    def evaluate(self, arrays: Arrays, task: Task, shard: int = 0, shards: int = 1) -> np.ndarray:
        """Count the correct answers on every `shards`-th batch of the test images of all classes seen.

        Returns:
            (places, task.seen) int64, by class in the order of arrival; (places, task.index + 1), by task, where sites
            keep their classes to themselves. Batches are cut the same way for any number of shards, so the sum over
            shards does not depend on it.
        """
        by_class = self.config.answers_by_class
        groups = task.seen if by_class else task.index + 1
        correct = np.zeros((len(self.scenario.places(self.dataset)), groups), np.int64)
        test, positions = self.dataset.test, self.scenario.positions
        with threads(self.config.run.threads), torch.no_grad():
            self.model.load(arrays)
            for place, batch, of_task in islice(self._test_batches(task), shard, None, shards):
                images = model_inputs(
                    test.images[batch], self.dataset, self.config.model.image_size, device=self.model.device
                )
                with self.model.showing(images, "test", batch):
                    predicted = self.method.scores(self.model, images).argmax(1).cpu().numpy()
                classes = positions[test.labels[batch]]
                np.add.at(correct[place], classes if by_class else of_task, predicted == classes)
        return correct
