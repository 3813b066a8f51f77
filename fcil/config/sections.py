"""The sections of a run's settings, and the `Config` that holds them all."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fcil.client.settings import Train
from fcil.data.settings import Data
from fcil.filters import parse_filter
from fcil.model.settings import Model
from fcil.options import Option
from fcil.registry import absolute, label
from fcil.scenario.partition import Partition
from fcil.scenario.tasks import Tasks

__all__ = ["SECTIONS", "Config", "MethodChoice", "Run"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """`[run]`: how it is carried out.

    Results depend on seed, threads, device, filter, secure_sums, aggregate_on_worker and evaluation_batch alone, as
    long as no client is lost.
    """

    seed: Annotated[int, Option("the seed of everything", low=0)] = 0
    exchange: Annotated[Literal["inline", "ray"], Option("clients in this process, or on Ray workers")] = "inline"
    workers: Annotated[int, Option("Ray workers; 0 for as many as cores allow", low=0)] = 0
    threads: Annotated[int, Option("CPU threads of each client's arithmetic, and of the server's", low=1)] = 1
    gpus_per_client: Annotated[float, Option("GPU share of a Ray worker", "GPUs", low=0)] = 0.0
    device: Annotated[str, Option('"cpu", "cuda", or "auto": CUDA where a worker has a GPU')] = "auto"
    mixed_processors: Annotated[
        bool, Option("Ray workers may have unlike processors, whose last bits differ with who works for whom")
    ] = False
    ray_address: Annotated[str, Option("a running Ray cluster to join; empty starts one for the run")] = ""
    client_timeout: Annotated[float, Option("a client that takes longer loses its update", "seconds", above=0)] = 3600.0
    introduction_timeout: Annotated[
        float, Option("nodes read and decode their images within this time before a run", "seconds", above=0)
    ] = 900.0
    wait_for_clients: Annotated[
        float, Option("how long a phase waits for nodes on other machines that are away or failed", "seconds", low=0)
    ] = 0.0
    min_clients: Annotated[int, Option("good updates without which a round stops the run", low=1)] = 1
    on_client_error: Annotated[
        Literal["stop", "skip"], Option("an exception in a client's code stops the run, or costs that client's update")
    ] = "stop"
    client_events: Annotated[
        Literal["all", "summary"],
        Option("metrics.jsonl has a line for each client's reply, or one a phase with their sums; changes no result"),
    ] = "all"
    aggregate_on_worker: Annotated[
        bool, Option("clients of one group are summed where they work, and only the sums are sent")
    ] = False
    secure_sums: Annotated[
        bool,
        Option(
            "clients mask their sums, of which the server sees the total only; a phase takes four messages, not one"
        ),
    ] = False
    filter: Annotated[
        str,
        Option(
            "what is done to good updates before they are merged, against poisoned ones: none, norm(factor = 3), "
            "median, trimmed(share = 0.2), krum(malicious = 1), multi_krum(malicious = 1, keep = 0)"
        ),
    ] = "none"
    evaluate_rounds: Annotated[bool, Option("evaluate after every round, not only after every task")] = False
    diagnostics: Annotated[
        bool,
        Option("kinship of clients and tasks, spectra and intruder dimensions go to the run folder; changes no result"),
    ] = False
    evaluation_batch: Annotated[int, Option("images per batch in evaluation", "images", low=1)] = 64
    log: Annotated[
        tuple[str, ...],
        Option(
            "also told of the run: tensorboard, wandb, mlflow, trackio, csv, path/to/my_logger.py; no result changes"
        ),
    ] = ()

    def __post_init__(self) -> None:
        parse_filter(self.filter)
        object.__setattr__(self, "log", tuple(map(absolute, self.log)))


def _absolute(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_absolute(item) for item in value)
    return absolute(value) if isinstance(value, str) else value


@dataclass(frozen=True)
class MethodChoice:
    """`[method]`: its name, and its settings as given; the method's own class checks them.

    Paths of method files are made absolute, in the settings too, where they name parts: others work in other folders.
    """

    name: str = "lorm"
    settings: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """Settings that a file gives to another method, which this one has taken the place of."""

    def __post_init__(self) -> None:
        settings = {key: _absolute(value) for key, value in self.settings.items()}
        object.__setattr__(self, "name", absolute(self.name))
        object.__setattr__(self, "settings", settings)

    @property
    def label(self) -> str:
        """The method's name as tables and pictures show it: of a path only the last part."""
        return label(self.name)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of a whole run, one field a section."""

    data: Data = field(default_factory=Data)
    tasks: Tasks = field(default_factory=Tasks)
    partition: Partition = field(default_factory=Partition)
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    method: MethodChoice = field(default_factory=MethodChoice)
    run: Run = field(default_factory=Run)

    @property
    def sites_evaluate(self) -> bool:
        """Tell whether every client is a site that evaluates on test images of its own."""
        return self.partition.kind == "sites" and self.data.test_at == "sites"

    @property
    def sites_on_ray(self) -> bool:
        """Tell whether nodes of a Ray cluster hold the images of sites: those of which no folder is named here."""
        sites = self.data.sites
        return self.partition.kind == "sites" and self.run.exchange == "ray" and not (sites and all(sites))

    @property
    def answers_by_class(self) -> bool:
        """Tell whether right answers are told by class; of sites that keep their classes to themselves, by task."""
        return self.data.class_counts or not self.sites_evaluate


SECTIONS: dict[str, Any] = {
    "data": Data, "tasks": Tasks, "partition": Partition, "model": Model, "train": Train, "run": Run
}  # fmt: skip
