"""Methods in files on nodes: the file is found where the app lies there, is the server's, or work is refused."""

import json

import pytest
from flower_runs import InProcess, finish, refused, settings
from own_methods import MINE, write

from fcil.engine.simulation import prepare
from fcil.errors import ConfigError, RunError
from fcil.exchange.flower import handlers, method_files
from fcil.exchange.flower.exchange import FlowerExchange
from fcil.exchange.flower.messages import Job, Work
from fcil.exchange.flower.reply_messages import read_partial
from fcil.exchange.inline import Inline
from fcil.method import Broadcast, Phase, Task
from fcil.server.loop import step
from fcil.server.plan import initial_progress


def own(path, **run):
    return {"method": {"name": f"{path}:Mine", "rank": 2}, "run": {"device": "cpu", **run}}


@pytest.fixture
def app(tmp_path, monkeypatch):
    """The folder of the app, on the server's machine."""
    monkeypatch.syspath_prepend(tmp_path / "app")
    return tmp_path / "app"


def test_a_file_works_on_nodes_as_inline(tmp_path):
    session = prepare(settings(**own(write(tmp_path))))
    exchange = FlowerExchange(InProcess(handlers.app), session.plan.config)
    assert finish(exchange, session.plan).sha256() == finish(Inline(session.worker), session.plan).sha256()
    assert type(next(iter(handlers._workers.values())).method) is type(session.worker.method)


def test_a_job_names_the_files_with_their_place_in_the_app_and_their_hash(app, tmp_path):
    path = write(app / "deep")
    ((name, inside, sha256),) = json.loads(Job.of(settings(**own(path))).sources)
    assert (name, inside, len(sha256)) == (str(path), "deep/mine.py", 64)
    ((_, inside, _),) = json.loads(Job.of(settings(**own(write(tmp_path / "else")))).sources)
    assert inside == ""
    assert Job.of(settings()).sources == "[]"


def moved(tmp_path, monkeypatch, app, source):
    """The app of another machine, where the server's path does not exist."""
    path = write(app)
    job = Job.of(settings(**own(path)))
    path.unlink()
    monkeypatch.syspath_prepend(tmp_path / "copy")
    if source:
        write(tmp_path / "copy", source=source)
    return method_files.paths_here(json.loads(job.config), job.sources), job.sources


def test_on_a_node_the_file_is_that_of_its_own_copy_of_the_app(app, tmp_path, monkeypatch):
    table, files = moved(tmp_path, monkeypatch, app, MINE)
    assert table["method"]["name"] == f"{tmp_path}/copy/mine.py:Mine"
    name = table["method"].pop("name")
    assert type(method_files.node_method(name, table["method"], files)).__name__ == "Mine"


def test_the_copy_of_the_same_content_is_preferred(app, tmp_path, monkeypatch):
    path = write(app)
    job = Job.of(settings(**own(path)))
    write(app, source=MINE + "# older\n")
    monkeypatch.syspath_prepend(tmp_path / "copy")
    write(tmp_path / "copy")
    table = method_files.paths_here(json.loads(job.config), job.sources)
    assert table["method"]["name"] == f"{tmp_path}/copy/mine.py:Mine"


def first_phase(path, change, **run):
    """Of a run whose file is changed before the nodes see it: why it stopped, and the events."""
    plan, events = prepare(settings(**own(path, **run))).plan, []
    exchange = FlowerExchange(InProcess(handlers.app), plan.config)
    change(path)
    handlers._workers.clear()
    with pytest.raises(RunError) as stopped:
        step(plan, initial_progress(plan), exchange, events.append)
    return str(stopped.value), events


CHANGES = {
    "holds other code here than on the server": lambda path: path.write_text(MINE + "# older\n"),
    "no such file": lambda path: path.unlink(),
}


@pytest.mark.parametrize("message", CHANGES)
def test_a_node_without_the_servers_code_stops_the_run_and_says_what_to_do(tmp_path, message):
    path = write(tmp_path)
    reason, _ = first_phase(path, CHANGES[message])
    for part in (str(path), message, "put the file into the folder of the app", "install the package"):
        assert part in reason


def test_where_errors_are_skipped_every_lost_update_names_the_file(tmp_path):
    path = write(tmp_path)
    _, events = first_phase(path, CHANGES["no such file"], on_client_error="skip")
    assert len(refused(events)) == 3
    assert all(f"no such file: {path}" in reason for reason in refused(events).values())


def test_a_group_of_clients_is_refused_whole():
    work = Work(Job("{}"), Phase(3, "train", Task(0, 0, 2), 1, 0), Broadcast({}), (0, 2), summed=True)
    partial = read_partial(handlers._refused(work, ConfigError("no such file: x.py")))
    assert [(f.client, f.reason) for f in partial.failures] == [(c, "ConfigError: no such file: x.py") for c in (0, 2)]
    assert partial.members == ()
    assert partial.phase == 3


def test_an_entry_point_or_module_that_is_missing_on_the_node_is_told():
    files = json.dumps([["gone_mod", "", "0" * 64]])
    for name, message in (("gone_mod:Mine", "no module 'gone_mod' here"), ("gone-name", "no such method")):
        with pytest.raises(ConfigError, match=f"{message}.*install the package that holds it on every node"):
            method_files.node_method(name, {}, files)
