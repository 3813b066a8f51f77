"""Runs on splits in which clients share images, lack whole tasks, or are drawn by number: the loop carries them."""

from typing import get_args, get_type_hints

import numpy as np
import pytest

from fcil.engine.simulation import prepare
from fcil.exchange.inline import Inline
from fcil.report.running import left_out_settings
from fcil.scenario.partition import READ_BY, Partition, unread
from fcil.server.loop import run
from fcil.server.plan import initial_progress

BASE = {"data": {"train_limit": 120, "test_limit": 60}, "model": {"image_size": 16}, "tasks": {"count": 5}}


def carried_out(config):
    session, events = prepare(config), []
    progress = run(session.plan, initial_progress(session.plan), Inline(session.worker), events.append, lambda _: None)
    assert not [event for event in events if event["event"] == "refused"]
    return session.plan, progress, events


@pytest.mark.parametrize("partition", [
    {"kind": "shared_classes", "clients": 5, "classes_per_client": 1, "min_samples": 1},
    {"kind": "dirichlet_capped", "clients": 5, "over": "whole", "beta": 0.2, "min_samples": 4},
    {"kind": "power_law", "clients": 4, "over": "whole", "beta": 0.3, "min_samples": 2},
], ids=lambda partition: partition["kind"])  # fmt: skip
def test_a_run_asks_those_who_have_samples_and_weighs_them_by_what_they_hold(digits_config, partition):
    config = digits_config(BASE, {"partition": partition, "tasks": {"shots": 5}, "method": {"name": "ncm"}})
    plan, progress, events = carried_out(config)
    census = plan.census
    for event in events:
        if event["event"] == "phase":
            assert event["clients"] == np.flatnonzero(census.train[event["task"]]).tolist()
    assert len(progress.correct) == 5
    assert (census.train.sum(1)[1:] > 0).all()
    if partition["kind"] == "shared_classes":  # every client has one of two classes: each image two or three times
        assert census.train.sum() > census.distinct.sum()
    else:
        assert (census.train == 0).any()
        assert census.train.sum() == census.distinct.sum()
        assert (census.distinct[1:] == 10).all()


def test_a_number_of_clients_trains_in_each_round_and_all_report(digits_config):
    config = digits_config(BASE, {
        "partition": {"clients": 4, "kind": "iid"}, "train": {"participants": 3, "rounds": 3}, "tasks": {"count": 1},
        "method": {"name": "lorm", "rank": 1},
    })  # fmt: skip
    _, _, events = carried_out(config)
    asked = [(event["kind"], event["clients"]) for event in events if event["event"] == "phase"]
    assert [len(clients) for kind, clients in asked if kind == "train"] == [3, 3, 3]
    assert [len(clients) for kind, clients in asked if kind == "report"] == [4]
    assert len({tuple(clients) for kind, clients in asked if kind == "train"}) > 1


def test_settings_that_the_split_does_not_read_are_told(digits_config):
    def told(method="ncm", **partition):
        return left_out_settings(digits_config({"partition": partition, "method": {"name": method}}))

    assert told(kind="iid", beta=0.25) == 'partition.beta = 0.25: means nothing with kind = "iid"'
    assert told(kind="dirichlet", beta=0.25) == ""
    assert told("joint", kind="iid", beta=0.25) == "", "it has no split"
    assert told(kind="dirichlet", beta=0.5, classes_per_client=1) == (
        'partition.classes_per_client = 1: means nothing with kind = "dirichlet"'
    )
    assert "classes_per_client = 3" in told(kind="quantity", class_share=0.5, classes_per_client=3)


@pytest.mark.parametrize("key", sorted(READ_BY))
def test_each_setting_is_told_where_no_kind_that_reads_it_is_chosen(key):
    changed = {"partitioner": "IidPartitioner()"}.get(key, 1)
    for kind in get_args(get_args(get_type_hints(Partition, include_extras=True)["kind"])[0]):
        expected = [] if kind in READ_BY[key] else [f"partition.{key} = {changed}"]
        assert unread(Partition(kind=kind, **{key: changed})) == expected
