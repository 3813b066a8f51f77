"""Labels for a share of a client's images: the rule literally, who knows which, and who may read what."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from site_folders import NAMES, site_settings, write_sites
from small import dataset, phase

from fcil.config import from_table
from fcil.data.sites import load_sites, of_site
from fcil.exchange.introduction import introduce
from fcil.exchange.sites import sites_census
from fcil.exchange.worker import Worker
from fcil.method import Broadcast, Local, Method, Task, head
from fcil.registry import build_method
from fcil.scenario.labels import labelled
from fcil.scenario.partition import Partition
from fcil.scenario.scenario import make_scenario
from fcil.scenario.tasks import Tasks


@given(st.lists(st.integers(0, 4), max_size=60), st.sampled_from([0.01, 0.2, 0.5, 0.75, 1.0]), st.integers(0, 99))
def test_of_every_class_the_rounded_share_is_kept_and_at_least_one(positions, share, seed):
    mask = labelled(np.array(positions, np.int64), share, seed, 1, 2)
    for c in set(positions):
        n = positions.count(c)
        kept = sum(bool(known) for known, p in zip(mask, positions, strict=True) if p == c)
        assert kept == max(1, int(share * n + 0.5))


def test_every_image_is_equally_likely_to_keep_its_label():
    draws = [labelled(np.zeros(10, np.int64), 0.3, seed, 0, 0) for seed in range(2000)]
    assert np.abs(np.mean(draws, 0) - 0.3).max() < 5 * np.sqrt(0.3 * 0.7 / 2000)


@pytest.fixture(scope="module")
def data():
    return dataset(240, 6)


def scenario(data, stream="federated", kind="dirichlet", **tasks):
    return make_scenario(data, Tasks(count=3, **tasks), Partition(kind=kind, clients=4, min_samples=2), 5, stream)


@pytest.mark.parametrize("kind", ["dirichlet", "shared_classes", "iid"])
def test_all_that_a_client_held_it_still_holds_with_or_without_labels(data, kind):
    whole, few = scenario(data, kind=kind), scenario(data, kind=kind, label_share=0.2)
    for task, parts in enumerate(whole.parts):
        for client, part in enumerate(parts):
            known, unknown = few.parts[task][client], few.unlabelled_of(task, client)
            np.testing.assert_array_equal(np.sort(np.concatenate([known, unknown])), part)
            assert len(known) == sum(
                max(1, int(0.2 * n + 0.5)) for n in np.unique(data.train.labels[part], return_counts=True)[1]
            )
            assert not len(whole.unlabelled_of(task, client))
    assert few.census(data).train.sum() < whole.census(data).train.sum(), "clients weigh by what has labels"


def test_one_client_in_place_of_all_knows_the_same_labels(data):
    few = scenario(data, label_share=0.2)
    known = {int(i) for parts in few.parts for part in parts for i in part}
    for stream in ("pooled", "at_once"):
        alone = scenario(data, stream, label_share=0.2)
        assert {int(i) for parts in alone.parts for i in parts[0]} == known
        assert {int(i) for parts in alone.unlabelled for i in parts[0]} == set(range(240)) - known


def test_a_site_draws_from_its_own_images_what_the_simulation_draws_for_it(tmp_path):
    table = site_settings(write_sites(tmp_path), tasks={"count": 3, "label_share": 0.4})
    config = from_table([("test", table)])
    pooled = load_sites(config.data, 16)
    together = make_scenario(pooled, config.tasks, config.partition, 0)
    for site in range(3):
        own = of_site(pooled, site)
        alone = make_scenario(own, config.tasks, config.partition, 0)
        mine = np.flatnonzero(pooled.train.owners == site)  # a site numbers its own images from 0
        for task in range(3):
            np.testing.assert_array_equal(mine[alone.parts[task][site]], together.parts[task][site])
            np.testing.assert_array_equal(mine[alone.unlabelled[task][site]], together.unlabelled[task][site])


def test_a_method_reads_images_without_labels_and_not_their_labels(digits_config):
    config = digits_config({"tasks": {"label_share": 0.3}})
    task, seen = Task(0, 0, 5), {}
    rows = head.new_rows(task, 128, np.random.default_rng(0))

    @dataclass(frozen=True, kw_only=True)
    class Pseudo(Method):
        def local(self, phase):
            return Local(trains=tuple(rows))

        def client_end(self, client):
            with torch.no_grad():
                answers = client.model.logits(client.model.features(client.images(client.unlabelled))).argmax(1)
            seen[client.number] = client.samples, client.unlabelled, answers
            with pytest.raises(ValueError, match=r"holds without labels in .*\(tasks.label_share\)"):
                client.labels(client.unlabelled[:1])

    worker = Worker(config, Pseudo())
    for client in range(3):
        update = worker.work(phase(task=task), Broadcast(rows), client)
        samples, unlabelled, answers = seen[client]
        assert update.num_examples == len(samples) == len(worker.scenario.parts[0][client])
        np.testing.assert_array_equal(unlabelled, worker.scenario.unlabelled[0][client])
        assert len(answers) == len(unlabelled) > len(samples)


def test_nodes_tell_what_they_know_the_labels_of(tmp_path):
    """The server holds clients to these numbers: who told of all images would be refused with each reply."""
    config = from_table(
        [("test", site_settings(write_sites(tmp_path), tasks={"count": 3, "label_share": 0.4, "classes": NAMES}))]
    )
    pooled = Worker(config, build_method("ncm", {}))
    nodes = {}
    for site in range(3):
        own = tuple(path if at == site else "" for at, path in enumerate(config.data.sites))
        maps = tuple(path if at == site else "" for at, path in enumerate(config.data.class_maps))
        alone = replace(config, data=replace(config.data, sites=own, class_maps=maps))
        nodes[site] = introduce(Worker(alone, build_method("ncm", {})), site)
    here, there = pooled.scenario.census(pooled.dataset), sites_census(config, nodes, pooled)
    np.testing.assert_array_equal(there.train, here.train)
    np.testing.assert_array_equal(there.by_class, here.by_class)
