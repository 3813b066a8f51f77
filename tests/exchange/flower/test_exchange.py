"""The exchange over nodes that are not ours, called in this process."""

import json

import faulty_app
import numpy as np
import pytest
from flower_runs import ADAPTED, InProcess, finish, first_phase, inline, inline_without, refused, session, settings
from flwr.app import Message, RecordDict

from fcil.client.training import run_client
from fcil.engine.simulation import prepare
from fcil.errors import ConfigError, RunError
from fcil.exchange.flower import client_app, handlers
from fcil.exchange.flower.exchange import FlowerExchange
from fcil.exchange.inline import Inline
from fcil.server.loop import ask
from fcil.server.plan import initial_progress


def exchange(app=client_app.app, store="", seed=0, **options):
    return FlowerExchange(InProcess(app, seed=seed, **options), settings(), store=store, node_seconds=0.1)


def test_a_run_over_nodes_with_shuffled_replies_equals_inline():
    done = finish(exchange(seed=3))
    assert done.sha256() == inline().sha256()
    assert done.correct == inline().correct
    assert done.ledger == inline().ledger


FEW = [method if i < 1 else pytest.param(method, marks=pytest.mark.slow) for i, method in enumerate(ADAPTED)]


@pytest.mark.parametrize("method", FEW, ids=lambda method: method.get("adapter", method["name"]).partition("(")[0])
def test_a_run_over_nodes_equals_inline_with_every_adapter(method):
    """Codes of quantised weights are bytes, sparsities and dense changes travel beside what trains."""
    config = settings(method=method)
    alone = prepare(config)
    carrier = FlowerExchange(InProcess(handlers.app, seed=1), config, node_seconds=0.1)
    done, expected = finish(carrier, alone.plan), finish(Inline(alone.worker), alone.plan)
    assert done.sha256() == expected.sha256()
    assert done.correct == expected.correct
    assert done.ledger == expected.ledger


def test_the_longest_client_is_asked_first_and_common_records_are_shared():
    carrier = exchange()
    first_phase(carrier)
    sent = [m for m in carrier.grid.sent if m.metadata.message_type == "train"]
    counts = ask(session().plan, initial_progress(session().plan)).num_examples
    asked = [counts[carrier.grid.partitions[m.metadata.dst_node_id]] for m in sent]
    assert asked == sorted(counts.values(), reverse=True)
    assert len({id(m.content["arrays"]) for m in sent}) == 1


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("raises", "RuntimeError: boom"), ("nan", "NaN"), ("shape", "shape"), ("type", "type int32"),
        ("missing", "missing"), ("count", "training samples"), ("stale", "stale"), ("impostor", "claims to be from"),
        ("garbage", "malformed reply: the index"), ("empty", "malformed reply: no record"),
    ],
)  # fmt: skip
def test_a_bad_reply_costs_that_client_only(fault, reason, tmp_path):
    (tmp_path / "faults.json").write_text(json.dumps({"0": {"1": fault}}))
    progress, events = first_phase(exchange(faulty_app.app, str(tmp_path / "clients")))
    assert list(refused(events)) == [1]
    assert reason in refused(events)[1]
    assert "frame" not in refused(events)[1]  # one line, not a traceback
    assert progress.sha256() == inline_without(1).sha256()


@pytest.fixture
def raising(monkeypatch):
    def run(*args):
        if args[6] == 1:
            raise RuntimeError("boom")
        return run_client(*args)

    monkeypatch.setattr("fcil.exchange.worker.run_client", run)


def test_an_exception_in_a_clients_code_stops_the_run_with_its_traceback(raising):
    with pytest.raises(RunError, match=r"^task 1, round 1: client 1 raised RuntimeError: boom") as error:
        first_phase(exchange())
    assert "Traceback" in str(error.value)
    assert "in run\n" in str(error.value)


def test_or_costs_that_client_only_and_the_traceback_is_in_the_records(raising):
    progress, events = first_phase(exchange(), run={"on_client_error": "skip"})
    assert refused(events) == {1: "RuntimeError: boom"}
    (event,) = [e for e in events if e["event"] == "refused"]
    assert "in run\n" in event["traceback"]
    assert progress.sha256() == inline_without(1).sha256()


def test_a_second_reply_is_refused_and_changes_nothing():
    progress, events = first_phase(exchange(repeat=2))
    assert set(refused(events).values()) <= {"a second reply to the same request"}
    whole, _ = first_phase(exchange())
    assert progress.sha256() == whole.sha256()


def test_a_client_that_does_not_answer_is_named():
    carrier = exchange()
    carrier.config = settings(run={"device": "cpu", "client_timeout": 0.2})
    silent = next(node for node, client in carrier.grid.partitions.items() if client == 1)
    answer = carrier.grid.push_messages

    def push(sent):
        ids = answer(sent)
        lost = {m.metadata.message_id for m in sent if m.metadata.dst_node_id == silent}
        carrier.grid.arrived = [r for r in carrier.grid.arrived if r.metadata.reply_to_message_id not in lost]
        return ids

    carrier.grid.push_messages = push
    progress, events = first_phase(carrier)
    assert refused(events) == {1: "no reply within 0.2 seconds (run.client_timeout)"}
    assert progress.sha256() == inline_without(1).sha256()


def test_a_node_that_left_costs_its_client():
    carrier = exchange()
    del carrier.grid.partitions[next(node for node, client in carrier.grid.partitions.items() if client == 1)]
    progress, events = first_phase(carrier)
    assert refused(events) == {1: "its node is not connected"}
    carrier.grid.partitions[77] = 1  # and when it comes back, under a new id, it is found
    assert refused(first_phase(carrier)[1]) == {}
    assert progress.sha256() == inline_without(1).sha256()


def test_a_later_node_neither_takes_a_client_from_a_connected_one_nor_stops_the_run_by_nonsense():
    carrier = exchange()
    owner = next(node for node, client in carrier.grid.partitions.items() if client == 1)
    answer = carrier.grid._answer

    def with_nonsense(message):
        return Message(RecordDict(), reply_to=message) if message.metadata.dst_node_id == 98 else answer(message)

    carrier.grid._answer = with_nonsense
    carrier.grid.partitions |= {98: 0, 99: 1}
    assert carrier.nodes.current()[1] == owner
    assert carrier.nodes.current()[0] != 98
    del carrier.grid.partitions[owner]
    assert carrier.nodes.current()[1] == 99


@pytest.mark.parametrize(
    ("nodes", "partitions", "message"),
    [(2, [0, 1], "no node holds client 2"), (4, [0, 1, 2, 2], "two nodes have partition-id=2")],
)
def test_clients_without_a_node_of_their_own_stop_the_run_before_it_starts(nodes, partitions, message):
    with pytest.raises(ConfigError, match=message):
        exchange(clients=nodes, partitions=partitions)


def test_a_node_refuses_to_work_for_another_client():
    carrier = exchange()
    nodes = list(carrier.grid.partitions)
    carrier.grid.partitions[nodes[0]], carrier.grid.partitions[nodes[1]] = 1, 0  # after the nodes were asked
    _, events = first_phase(carrier)
    assert sorted(refused(events)) == [0, 1]
    assert "this node holds the data of client" in refused(events)[0]


def test_nodes_keep_client_state_only_where_they_are_told_a_folder(tmp_path):
    context = type("C", (), {"node_config": {}})()
    nowhere = handlers._store(handlers.messages.Job.of(settings()), context)
    nowhere.write(0, 0, {})
    with pytest.raises(RuntimeError, match="state-dir"):
        nowhere.write(0, 0, {"kept": np.zeros(1)})
    context.node_config["state-dir"] = str(tmp_path)
    for run in ("/run/a", "/run/b"):  # the server's path is a name here, not a place
        handlers._store(handlers.messages.Job.of(settings(), run), context).write(0, 0, {"kept": np.zeros(1)})
    assert len(list(tmp_path.glob("*/0/000000.safetensors"))) == 2


@pytest.mark.parametrize(
    ("sections", "same"),
    [
        ({"run": {"client_timeout": 5.0, "wait_for_clients": 60.0, "evaluate_rounds": True}}, True),
        ({"run": {"seed": 1}}, False),
        ({"train": {"lr": 0.02}}, False),
        ({"method": {"name": "fedavg"}}, False),
    ],
)
def test_a_run_that_goes_on_with_another_time_out_finds_what_its_clients_kept(sections, same, tmp_path):
    context = type("C", (), {"node_config": {"state-dir": str(tmp_path)}})()
    kept = {"kept": np.arange(3.0)}
    handlers._store(handlers.messages.Job.of(settings()), context).write(0, 0, kept)
    found = handlers._store(handlers.messages.Job.of(settings(**sections)), context).read(0, 1)
    assert (found.keys() == kept.keys()) == same


def test_nodes_of_one_client_each_have_nothing_to_sum():
    with pytest.raises(ConfigError, match="nothing to sum"):
        FlowerExchange(InProcess(handlers.app), settings(run={"aggregate_on_worker": True}))
