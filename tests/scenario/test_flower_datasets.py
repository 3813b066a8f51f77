"""Partitioners of the real package flwr-datasets in place of our own rules."""

import numpy as np
import pytest

from fcil.errors import ConfigError
from fcil.scenario.domains import Domains
from fcil.scenario.partition import Partition, split

pytest.importorskip("flwr_datasets", reason="needs the extra `partitioners`")
pytestmark = pytest.mark.filterwarnings("ignore")  # those of another package are not ours to mend
LABELS = np.repeat(np.arange(3), 40)


def parts_of(written, clients=4, seed=0, domains=None, min_samples=1):
    settings = Partition(kind="flwr", partitioner=written, clients=clients, min_samples=min_samples)
    return split(LABELS, settings, np.random.default_rng(seed), domains)


@pytest.mark.parametrize(
    "written",
    [
        "IidPartitioner", "DirichletPartitioner(alpha = 0.5)", "LinearPartitioner",
        "PathologicalPartitioner(num_classes_per_partition = 2)", "ShardPartitioner(num_shards_per_partition = 2)",
        "SizePartitioner(partition_sizes = [10, 20, 30, 60])",
    ],
)  # fmt: skip
def test_every_sample_is_with_one_client_and_the_generator_decides(written):
    parts = parts_of(written)
    assert sorted(np.concatenate(parts).tolist()) == list(range(120))
    assert all(part.tolist() == sorted(part.tolist()) for part in parts)
    same, other = parts_of(written), parts_of(written, seed=1)
    assert [part.tolist() for part in same] == [part.tolist() for part in parts]
    assert [part.tolist() for part in other] != [part.tolist() for part in parts]


def test_what_a_partitioner_promises_holds_for_the_samples_themselves():
    alone = 'PathologicalPartitioner(num_classes_per_partition = 1, class_assignment_mode = "deterministic")'
    few = parts_of(alone, clients=3)
    assert all(len(np.unique(LABELS[part])) == 1 for part in few)
    sizes = [len(part) for part in parts_of("SizePartitioner(partition_sizes = [10, 20, 30, 60])")]
    assert sizes == [10, 20, 30, 60]
    even = parts_of("IidPartitioner")
    assert all(len(np.unique(LABELS[part])) == 3 for part in even), "in random order, not cut as the labels stand"


def test_domains_are_a_column():
    domains = Domains(np.arange(120) % 2, ("north", "south"))
    parts = parts_of('NaturalIdPartitioner(partition_by = "domain")', clients=2, domains=domains)
    assert [set(domains.of_sample[part].tolist()) for part in parts] == [{0}, {1}]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("", "name the partitioner"),
        ("DirichletPartitione(alpha = 1)", "Did you mean 'DirichletPartitioner'"),
        ("DirichletPartitioner", "missing 1 required positional argument: 'alpha'"),
        ("SizePartitioner(partition_sizes = [60, 60])", "makes 2 parts, and partition.clients = 4"),
        ("SizePartitioner(partition_sizes = [10, 10, 10, 10])", "gives 80 of 120 samples to nobody"),
        ('NaturalIdPartitioner(partition_by = "domain")', r"\(columns: sample, label\)"),
        ("IidPartitioner(", "write a partitioner"),
    ],
)
def test_what_does_not_fit_is_refused(written, message):
    with pytest.raises(ConfigError, match=message):
        parts_of(written)
