"""Nodes with images of their own, called in this process: the same bits as simulated sites; others are refused."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from flower_runs import InProcess, finish
from flower_runs import settings as digits_settings
from flwr.app import Message
from site_folders import NAMES, site_settings, write_sites

from fcil.config import from_table
from fcil.engine.records import read_provenance
from fcil.engine.simulation import open_folder, prepare, simulate
from fcil.errors import ConfigError, RunError
from fcil.exchange import introduction, sites
from fcil.exchange.flower import handlers, messages
from fcil.exchange.flower.exchange import FlowerExchange
from fcil.exchange.flower.internals import error_reply
from fcil.exchange.flower.node_settings import local_settings
from fcil.exchange.inline import Inline
from fcil.exchange.introduction import Introduction, introduce
from fcil.exchange.worker import Worker
from fcil.server.loop import step
from fcil.server.plan import initial_progress


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_sites(tmp_path_factory.mktemp("nodes"))


@pytest.fixture(autouse=True)
def _new_nodes():
    """Let every test begin with nodes that have loaded nothing: here they are one process."""
    handlers._workers.clear()
    handlers._introductions.clear()


def simulated(folder, **sections):
    return from_table([("sites", site_settings(folder, **sections))])


def deployed(folder, **sections):
    """The server's settings: it has no images."""
    table = site_settings(folder, **sections)
    table["data"] |= {"sites": [], "class_maps": []}
    table["partition"]["clients"] = 3
    return from_table([("server", table)])


def node_configs(folder, **changes):
    own = {
        0: {"data-root": f"{folder}/a"},
        1: {"data-root": f"{folder}/b", "class-map": f"{folder}/b.toml"},
        2: {"data-root": f"{folder}/c", "data-cache": f"{folder}/cache"},
    }
    return {client: {**config, **changes.get(f"node{client}", {})} for client, config in own.items()}


def connect(config, folder, seed=0, **changes):
    grid = InProcess(handlers.app, seed=seed, node_configs=node_configs(folder, **changes))
    return FlowerExchange(grid, config, node_seconds=0.1)


@pytest.mark.parametrize("method", ["lorm", "ridge"])
def test_sites_behind_nodes_end_in_the_bits_of_simulated_ones(folder, method, tmp_path):
    """LoRM trains; ridge holds out samples by their numbers, which must be the same here and there."""
    settings = simulated(folder, method={"name": method})
    alone = simulate(prepare(settings, tmp_path / "alone"), tmp_path / "alone")
    exchange = connect(deployed(folder, method={"name": method}), folder)
    session = prepare(deployed(folder, method={"name": method}), tmp_path / "nodes", nodes=exchange.introductions)
    summary = simulate(session, tmp_path / "nodes", exchange=exchange)
    keys = ("sha256", "correct", "total", "site_accuracy", "upload_bytes", "download_bytes", "class_correct",
            "client_accuracy", "worst_class", "state_bytes", "client_bytes", "absent")  # fmt: skip
    for key in keys:
        assert summary[key] == alone[key], key
    here, there = read_provenance(tmp_path / "alone"), read_provenance(tmp_path / "nodes")
    assert there["data_sha256"] == here["data_sha256"]
    assert [node["client"] for node in there["nodes"]] == [0, 1, 2]
    assert there["nodes"][1]["classes"]["two"] == [16, 6]
    assert there["nodes"][2]["versions"]["torch"] == here["versions"]["torch"]


@pytest.mark.parametrize(
    "order", [{}, {"order": "shuffled", "order_seed": 1993}, {"order_list": sorted(NAMES, key=len)}]
)
def test_the_server_reads_no_image(folder, monkeypatch, order):
    tasks = {"tasks": {"count": 3, **order}}
    exchange = connect(deployed(folder, **tasks), folder)
    monkeypatch.setattr("fcil.exchange.worker.load_sites", None)
    session = prepare(deployed(folder, **tasks), nodes=exchange.introductions)
    census, counted = session.plan.census, prepare_census(folder, **tasks)
    assert census.classes == counted.classes
    assert set(census.classes) == set(NAMES)
    assert (census.classes == tuple(sorted(NAMES))) == (not order)
    for name in ("train", "test", "by_class", "test_by_class"):
        np.testing.assert_array_equal(getattr(census, name), getattr(counted, name))
    assert session.provenance()["data_sha256"]


def prepare_census(folder, **sections):
    import fcil.data.sites

    settings = simulated(folder, **sections)
    data = fcil.data.sites.load_sites(settings.data, 16)
    from fcil.scenario.scenario import make_scenario

    return make_scenario(data, settings.tasks, settings.partition, 0).census(data)


def test_without_counts_by_class_only_those_of_tasks_are_told(folder, tmp_path):
    private = {
        "data": {"class_counts": False},
        "tasks": {"count": 3, "classes": list(NAMES)},
        "method": {"name": "ncm"},
    }
    exchange = connect(deployed(folder, **private), folder)
    for node in exchange.introductions.values():
        assert not node.classes
        assert len(node.tasks) == 3
    session = prepare(deployed(folder, **private), tmp_path / "run", nodes=exchange.introductions)
    assert session.plan.census.by_class is None
    summary = simulate(session, tmp_path / "run", exchange=exchange)
    alone = prepare(simulated(folder, **private))
    assert alone.plan.census.by_class is None
    assert summary["sha256"] == finish(Inline(alone.worker), alone.plan).sha256()
    assert summary["macro_accuracy"] is None
    assert "keep their classes" in summary["absent"]["macro_accuracy"]
    assert "class_correct" not in (tmp_path / "run" / "metrics.jsonl").read_text()
    assert not any(
        name in (tmp_path / "run" / "config.toml").read_text().split("[[provenance.nodes]]")[1] for name in NAMES
    )


def test_test_images_of_the_server(folder, tmp_path):
    server = tmp_path / "server"
    server.mkdir()
    (server / "test").symlink_to(folder / "pooled" / "test")
    settings = {"data": {"test_at": "server", "root": str(server)}, "method": {"name": "ncm"}}
    exchange = connect(deployed(folder, **settings), folder)
    session = prepare(deployed(folder, **settings), nodes=exchange.introductions)
    done = finish(exchange, session.plan)
    alone = prepare(simulated(folder, **settings))
    expected = finish(Inline(alone.worker), alone.plan)
    assert done.sha256() == expected.sha256()
    assert done.correct == expected.correct
    assert done.class_correct == expected.class_correct
    assert [len(row) for row in done.class_correct] == [task.seen for task in session.plan.census.tasks]
    assert session.provenance()["data_sha256"] == alone.provenance()["data_sha256"]
    assert all(test == 0 for node in exchange.introductions.values() for _, test in node.classes.values())


@pytest.mark.parametrize(("changes", "message"), [
    ({"node1": {"class-map": ""}}, None),
    ({"node2": {"data-root": "/nowhere"}}, r"^site 2 \(/nowhere\): .*no folder /nowhere"),
    ({"node0": {"class-map": "none.toml"}}, r"^site 0 .*class map .*none.toml"),
    ({"node0": {"weights": "other"}}, r"client 0: other weights: sha256 \w{12} instead of \w{12}"),
    ({"node0": {"data_root": "/x"}}, r"client 0: node config: data_root: did you mean 'data-root'"),
])  # fmt: skip
def test_a_node_with_something_else_is_refused_before_the_first_round(folder, changes, message, tmp_path):
    if "weights" in changes.get("node0", {}):
        from safetensors.numpy import load_file, save_file

        from fcil.model.backbone import _path

        arrays = load_file(_path(deployed(folder).model))
        name = sorted(arrays)[0]
        arrays[name] = arrays[name] + 1
        save_file(arrays, tmp_path / "other.safetensors")
        changes = {"node0": {"weights": str(tmp_path / "other.safetensors")}}
    if message is None:  # own names without a map are classes of their own, unless tasks.classes says which there are
        assert len(connect(deployed(folder), folder, **changes).config.tasks.classes) == 10
        config, message = (
            deployed(folder, tasks={"classes": list(NAMES)}),
            rf"^site 1 \({folder}/b\): has images of 'ziffer-4', which is not in tasks.classes. Known: five, ",
        )
    else:
        config = deployed(folder)
    with pytest.raises(ConfigError, match=message):
        connect(config, folder, **changes)


def test_a_node_without_images_says_how_to_name_them(folder):
    with pytest.raises(ConfigError, match="data-root is missing: start this SuperNode with"):
        local_settings(messages_table(deployed(folder)), {"partition-id": 1})
    with pytest.raises(ConfigError, match="partition-id = 7: must be a number from 0 to 2"):
        local_settings(messages_table(deployed(folder)), {"partition-id": 7, "data-root": "x"})


def messages_table(config):
    return json.loads(messages.Job.of(config).config)


@pytest.mark.parametrize("what", ["code", "settings", "weights", "data"])
def test_each_hash_is_compared(what, monkeypatch):
    def other(worker, client=-1):
        told = introduce(worker, client)
        return Introduction(**{**told.__dict__, what: "0" * 64}) if client == 1 else told

    monkeypatch.setattr("fcil.exchange.flower.handlers.introduce", other)
    with pytest.raises(ConfigError, match=rf"client 1: other {what}: sha256 000000000000 instead of"):
        FlowerExchange(InProcess(handlers.app), digits_settings(), node_seconds=0.1)


def test_a_common_data_set_under_other_class_names_is_other_data(folder):
    config = from_table([("folder", {"data": {"name": "folder", "root": f"{folder}/b"}, "model": {"image_size": 16}})])
    worker = Worker.of(config)
    told = introduce(worker)
    renamed = SimpleNamespace(classes=tuple(reversed(worker.dataset.classes)), sha256=worker.dataset.sha256)
    assert introduction._common_data(renamed) != told.data


def test_versions_and_processors_are_told_and_not_refused(folder, monkeypatch, tmp_path):
    def other(worker, client=-1):
        told = introduce(worker, client)
        changed = {"processor": "Z80", "versions": {**told.versions, "torch": "1.0"}}
        return Introduction(**{**told.__dict__, **changed}) if client == 1 else told

    monkeypatch.setattr("fcil.exchange.flower.handlers.introduce", other)
    exchange = connect(deployed(folder, method={"name": "ncm"}), folder)
    session = prepare(deployed(folder, method={"name": "ncm"}), tmp_path, nodes=exchange.introductions)
    assert [w.partition(",")[0] for w in session.warnings] == ["client 1: torch 1.0", "client 1: processor Z80"]


def test_joint_training_is_refused(folder):
    exchange = connect(deployed(folder, method={"name": "joint", "rank": 2}), folder)
    with pytest.raises(ConfigError, match="trains on all images in one place"):
        prepare(deployed(folder, method={"name": "joint", "rank": 2}), nodes=exchange.introductions)


def test_a_run_does_not_go_on_with_other_images_of_a_site(folder, tmp_path):
    config = deployed(folder, method={"name": "ncm"})
    exchange = connect(config, folder)
    first = prepare(config, tmp_path / "run", nodes=exchange.introductions)
    open_folder(tmp_path / "run", first.plan.config, first)[0].close()
    nodes = exchange.introductions
    nodes[2] = Introduction(**{**nodes[2].__dict__, "data": "0" * 64})
    second = prepare(config, tmp_path / "run", nodes=nodes)
    with pytest.raises(ConfigError, match="differs in images of client 2, data files"):
        open_folder(tmp_path / "run", second.plan.config, second)


def evaluation_without(folder, lost, **run):
    """The text of the error of a run of which some sites leave, or fail, when they are asked to evaluate."""
    config = deployed(folder, method={"name": "ncm"}, run={"device": "cpu", **run})
    exchange = connect(config, folder)
    session = prepare(config, nodes=exchange.introductions)
    evaluate, answer, asked = exchange.evaluate, exchange.grid._answer, []

    def leave(arrays, task):
        nodes = exchange.grid.partitions.items()
        exchange.grid.partitions = {node: client for node, client in nodes if lost.get(client) != "away"}
        return evaluate(arrays, task)

    def fail(message):
        client = exchange.grid.partitions[message.metadata.dst_node_id]
        if message.metadata.message_type != messages.EVALUATE or client not in lost:
            return answer(message)
        asked.append(client)
        if lost[client] == "dies":
            del exchange.grid.partitions[message.metadata.dst_node_id]
        return error_reply(message, 1, "the disk is gone")

    exchange.evaluate, exchange.grid._answer = leave, fail
    with pytest.raises(RunError) as error:
        finish(exchange, session.plan)
    return str(error.value), asked


def test_a_site_that_is_away_when_all_evaluate_stops_the_run_and_what_helps_is_told(folder):
    said, asked = evaluation_without(folder, {1: "away"})
    assert "task 1: 1 of 3 sites of the evaluation could not be asked, site 1: its node is not connected; " in said
    for cure in ("an accuracy needs all sites", "--set run.wait_for_clients=", 'data.test_at = "server"'):
        assert cure in said
    assert "run.client_timeout" not in said
    assert "failed twice" not in said
    assert asked == []


def test_a_site_that_was_asked_and_fails_stops_the_run_with_its_reason(folder):
    said, asked = evaluation_without(folder, {1: "fails"})
    assert said == (
        "task 1: 1 of 3 sites of the evaluation failed twice, site 1: the disk is gone; mend the cause and the same "
        "command goes on with the run"
    )
    assert asked == [1, 1]


def test_sites_that_are_away_and_sites_that_fail_are_told_apart(folder):
    said, asked = evaluation_without(folder, {0: "fails", 2: "dies"})
    assert "1 of 3 sites of the evaluation could not be asked, site 2: the disk is gone, then its node is not" in said
    assert "1 of 3 sites of the evaluation failed twice, site 0: the disk is gone; an accuracy needs all sites" in said
    assert sorted(asked) == [0, 0, 2]


def test_a_site_that_does_not_answer_is_told_with_the_setting_that_holds_for_it(folder, monkeypatch):
    monkeypatch.setattr("fcil.exchange.flower.evaluation.replies", lambda *_: [])
    said, _ = evaluation_without(folder, {}, client_timeout=7.0)
    assert "3 of 3 sites of the evaluation failed twice, site 0: no reply within 7 seconds (run.client_timeout)" in said


@pytest.mark.parametrize("text", [
    "", "[]", "{}", "null", '{"client": 1}', '{"client": "1", "classes": {}, "tasks": [], "versions": {}}',
    '{"client": true, "classes": {}, "tasks": [], "versions": {}, "code": "", "settings": "", "weights": "", '
    '"data": ""}',
    '{"client": 0, "classes": {"a": [1, -2]}, "tasks": [], "versions": {}, "code": "", "settings": "", "weights": "", '
    '"data": ""}', "[" * 100_000,
])  # fmt: skip
def test_a_malformed_introduction_is_a_value_error(text):
    with pytest.raises(ValueError, match="the introduction is malformed"):
        Introduction.read(text)


def test_an_introduction_is_read_as_it_was_written(folder):
    told = connect(deployed(folder), folder).introductions[1]
    assert Introduction.read(told.write()) == told
    assert sites.with_classes(deployed(folder), {1: told}).tasks.classes == ("five", "four", "three", "two")


def test_images_that_change_during_a_run_cost_the_update_and_then_the_node(tmp_path):
    """A new process of the same node loads what lies there now; it says who it is only when it is asked."""
    folder = write_sites(tmp_path)
    config = deployed(folder, method={"name": "lorm"}, tasks={"count": 1})
    exchange = connect(config, folder)
    plan = prepare(config, nodes=exchange.introductions).plan
    progress = step(plan, initial_progress(plan), exchange, lambda event: None)
    zero, one = (folder / "a" / "train" / name for name in ("zero", "one"))
    zero.rename(tmp_path / "aside")
    one.rename(zero)
    (tmp_path / "aside").rename(one)
    handlers._workers.clear()  # the resident process ended
    events = []
    step(plan, progress, exchange, events.append)
    lost = [e for e in events if e["event"] == "refused"]
    assert [(e["client"], e["reason"]) for e in lost] == [
        (0, "its images, weights or code are others than when it introduced itself")
    ]
    assert 0 not in exchange.nodes.current()
    assert exchange.nodes.why_missing(0).startswith("other data: sha256")


def test_a_node_without_a_number_is_refused_with_the_reason(folder):
    grid = InProcess(handlers.app, clients=4, partitions=[0, 1, 2, -1], node_configs=node_configs(folder))
    with pytest.raises(ConfigError, match="a node: node config: partition-id = -1: must be a number from 0 to 2"):
        FlowerExchange(grid, deployed(folder), node_seconds=0.1)


def test_without_counts_by_class_a_slip_at_a_node_tells_no_class_name(folder, capsys):
    private = {"data": {"class_counts": False}, "tasks": {"count": 3, "classes": list(NAMES)}}
    with pytest.raises(ConfigError) as error:
        connect(deployed(folder, **private), folder, node1={"class-map": ""})
    assert "client 1: this node cannot load what the run needs; its own log says why" in str(error.value)
    assert "ziffer" not in str(error.value)
    assert "ziffer" in capsys.readouterr().err


def test_nor_does_one_that_comes_up_during_the_run(tmp_path, capsys):
    folder = write_sites(tmp_path)
    config = deployed(
        folder, method={"name": "lorm"}, data={"class_counts": False}, tasks={"count": 1, "classes": list(NAMES)}
    )
    exchange = connect(config, folder)
    plan = prepare(config, nodes=exchange.introductions).plan
    (folder / "b.toml").write_text('"ziffer-4" = "five"\n')
    handlers._workers.clear()  # the resident process ended
    with pytest.raises(RunError, match="client 1 raised ConfigError: this node cannot load") as error:
        step(plan, initial_progress(plan), exchange, lambda event: None)
    assert "ziffer" not in str(error.value)
    assert "ziffer" in capsys.readouterr().err
    (content,) = messages.evaluate_contents({}, plan.phases[0].task, 1, exchange.job)
    node = next(node for node, client in exchange.grid.partitions.items() if client == 1)
    reply = exchange.grid._answer(Message(content, node, messages.EVALUATE))
    assert "ConfigError: this node cannot load" in reply.error.reason
    assert "ziffer" not in reply.error.reason


def test_texts_and_numbers_of_an_introduction_are_limited():
    good = Introduction(0, "c", "s", "w", "d").write()
    assert Introduction.read(good).code == "c"
    changes = [
        {"versions": {"x": "\ud800"}}, {"code": "x" * 1000}, {"classes": {str(i): [1, 1] for i in range(20_001)}},
        {"classes": {"a": [2**31, 0]}}, {"tasks": [[1, 1]] * 20_001},
    ]  # fmt: skip
    for change in changes:
        with pytest.raises(ValueError, match="the introduction is malformed"):
            Introduction.read(json.dumps({**json.loads(good), **change}))


@pytest.mark.slow
def test_sites_on_ray_workers_end_in_the_bits_of_inline(folder, tmp_path):
    """Any worker serves any site; batches of evaluation are dealt out over sites."""
    settings = simulated(folder, method={"name": "lorm"})
    alone = simulate(prepare(settings, tmp_path / "alone"), tmp_path / "alone")
    ray = simulated(folder, method={"name": "lorm"}, run={"device": "cpu", "evaluation_batch": 16, "exchange": "ray",
                                                          "workers": 2})  # fmt: skip
    summary = simulate(prepare(ray, tmp_path / "ray"), tmp_path / "ray")
    for key in ("sha256", "correct", "site_accuracy"):
        assert summary[key] == alone[key], key


def test_flowers_simulation_refuses_sites_whose_folders_the_settings_do_not_name(folder):
    """Its nodes have no --node-config: what a SuperNode is told to do would be of no use."""

    class InMemoryGrid(InProcess):
        """Named as the grid of Flower's simulation."""

    partly = simulated(folder, data={"sites": [f"{folder}/a", "", f"{folder}/c"]})
    for settings in (deployed(folder), partly):
        with pytest.raises(ConfigError, match=r"data\.sites: names no folder .* name a folder for every site"):
            FlowerExchange(InMemoryGrid(handlers.app), settings, node_seconds=0.1)
