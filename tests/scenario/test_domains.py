"""Clients of one domain each, and the domains that tables and other sources tell."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcil.config import load_config
from fcil.data.dataset import Dataset, Split
from fcil.engine.checks import check_settings
from fcil.errors import ConfigError
from fcil.scenario.domains import Domains, by_domain
from fcil.scenario.partition import Partition
from fcil.scenario.scenario import make_scenario
from fcil.scenario.tasks import Tasks


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 3))
def test_every_sample_is_with_a_client_of_its_domain_and_domains_are_shared_evenly(codes, each):
    domains = Domains(np.array(codes, np.int64), ("a", "b", "c", "d"))
    parts = by_domain(domains, 4 * each, np.random.default_rng(0))
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(codes)))
    for client, part in enumerate(parts):
        assert part.tolist() == sorted(part.tolist())
        assert set(domains.of_sample[part].tolist()) <= {client % 4}
    for domain in range(4):
        sizes = [len(part) for part in parts[domain::4]]
        assert max(sizes) - min(sizes) <= 1


def dataset(domains):
    """Four classes of six images, three domains in turn, of which the third has none of class 0 and 1."""
    labels = np.repeat(np.arange(4), 6)
    codes = np.where((labels < 2) & (np.arange(24) % 3 == 2), 0, np.arange(24) % 3) if domains else None
    train = Split(np.zeros((24, 2, 2, 1), np.uint8), labels, domains=codes)
    return Dataset("made", tuple("abcd"), train, train, domains=("x", "y", "z") if domains else ())


@pytest.mark.parametrize("over", ["task", "whole"])
def test_a_client_has_its_domain_in_every_task_and_nothing_where_the_domain_has_nothing(over):
    partition = Partition(kind="domain", clients=3, min_samples=0, over=over)
    data = dataset(domains=True)
    scenario = make_scenario(data, Tasks(count=2), partition, 0)
    for parts in scenario.parts:
        for client, part in enumerate(parts):
            assert set(data.train.domains[part].tolist()) <= {client}
    assert [len(parts[2]) for parts in scenario.parts] == [0, 4]
    assert sum(len(part) for parts in scenario.parts for part in parts) == 24


def test_domains_that_are_not_there_and_clients_that_do_not_fit_are_refused():
    partition = Partition(kind="domain", clients=4, min_samples=0)
    with pytest.raises(ConfigError, match="does not tell the domains"):
        make_scenario(dataset(domains=False), Tasks(count=2), partition, 0)
    with pytest.raises(ConfigError, match=r"partition.clients = 4: there are 3 domains \(x, y, z\)"):
        make_scenario(dataset(domains=True), Tasks(count=2), partition, 0)
    with pytest.raises(
        ConfigError, match=r'partition.partitioner = "IidPartitioner": has no meaning with kind = "iid"'
    ):
        check_settings(load_config({}, ["partition.kind=iid", "partition.partitioner=IidPartitioner"]))


def test_parts_of_a_set_keep_the_domains_of_their_samples():
    train = dataset(domains=True).train
    chosen = np.array([5, 1, 20])
    assert train.select(chosen).domains.tolist() == train.domains[chosen].tolist()
    assert train.first(7).domains.tolist() == train.domains[:7].tolist()
