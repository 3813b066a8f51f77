"""The resident process of a node: who starts it, what happens to it, and that it always answers or is replaced."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from flower_processes import alive, gone
from flower_runs import InProcess, finish, inline, settings
from flwr.app import ConfigRecord, Context, Message, RecordDict

from fcil.errors import ConfigError
from fcil.exchange.flower import client_app, messages, reply_messages, resident_call, resident_place, resident_start
from fcil.exchange.flower.exchange import FlowerExchange
from fcil.exchange.flower.internals import CRASHED, LATE, RAISED, identify

ECHO = ("-c", "import sys; from fcil.exchange.flower.resident import main; main(sys.argv[1], 'echo_app')")
HEAVY = ("torch", "timm", "torchvision", "ray", "sklearn", "scipy", "fcil.config", "fcil.method")


@pytest.fixture
def folder(monkeypatch):
    """A short folder for the sockets; the residents that a test started are ended by their pids."""
    monkeypatch.setattr(resident_start, "_PROGRAM", ECHO)
    monkeypatch.setattr(resident_start, "_started", [])
    with TemporaryDirectory(prefix="r") as made:
        yield made
        for process in resident_start._started:
            process.kill()
            process.wait()


def message(number=0, fault="", timeout=None):
    identify()
    own = ConfigRecord({"number": number, "fault": fault})
    request = ConfigRecord({"config": json.dumps({"run": {"client_timeout": timeout}})})
    return Message(RecordDict({"own": own, **({"request": request} if timeout else {})}), 7, "train")


def ask(folder, number=0, fault="", timeout=None, **keys):
    node_config = {"resident-dir": folder, "partition-id": 0, **keys}
    return resident_call.answer(message(number, fault, timeout), Context(1, 7, node_config, RecordDict(), {}))


def pid_of(reply):
    assert reply.has_content(), reply.error
    return reply.content["own"]["pid"]


def test_the_process_of_one_message_imports_nothing_heavy():
    code = (
        "import sys\nimport fcil.exchange.flower.client_app, fcil.exchange.flower.resident_call\n"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_messages_are_answered_by_one_process_that_is_not_this_one(folder):
    replies = [ask(folder, number) for number in (3, 4)]
    assert [reply.content["own"]["number"] for reply in replies] == [3, 4]
    assert len({pid_of(reply) for reply in replies}) == 1
    assert pid_of(replies[0]) != os.getpid()
    assert os.getsid(pid_of(replies[0])) == pid_of(replies[0])


def test_other_node_settings_have_a_process_of_their_own(folder):
    assert pid_of(ask(folder)) != pid_of(ask(folder, device="cpu"))


def test_two_starts_at_once_make_one_process(folder):
    with ThreadPoolExecutor(4) as pool:
        assert len({pid_of(reply) for reply in pool.map(lambda k: ask(folder, k), range(4))}) == 1
    assert len(resident_start._started) == 1


def test_an_exception_is_told_and_costs_nothing_else(folder):
    first, bad, after = ask(folder), ask(folder, fault="raises"), ask(folder)
    assert (bad.error.code, bad.error.reason) == (RAISED, "RuntimeError: boom")
    assert pid_of(first) == pid_of(after)


def test_a_process_that_dies_at_work_is_an_error_with_its_log_and_the_next_message_has_another(folder):
    first, bad = ask(folder), ask(folder, fault="dies")
    assert bad.error.code == CRASHED
    assert "killed, or out of memory?" in bad.error.reason
    assert str(next(Path(folder).glob("*.log"))) in bad.error.reason
    assert pid_of(ask(folder)) != pid_of(first)


def test_a_process_that_cannot_start_is_an_error_with_the_end_of_its_log(folder, monkeypatch):
    monkeypatch.setattr(resident_start, "_PROGRAM", ("-c", "raise SystemExit('no such library')"))
    bad = ask(folder)
    assert bad.error.code == CRASHED
    assert "could not be started" in bad.error.reason
    assert "no such library" in bad.error.reason


def test_a_process_that_hangs_is_replaced(folder, monkeypatch):
    first = pid_of(ask(folder))
    os.kill(first, signal.SIGSTOP)
    monkeypatch.setattr(resident_start, "SILENT_SECONDS", 1.5)
    assert pid_of(ask(folder)) != first
    resident_start._started[0].wait(10)


def test_work_that_takes_longer_than_the_server_waits_is_ended(folder):
    first = pid_of(ask(folder))
    late = ask(folder, fault="hangs", timeout=1.0)
    assert (late.error.code, "client_timeout" in late.error.reason) == (LATE, True)
    assert pid_of(ask(folder)) != first


def test_a_message_behind_work_that_goes_on_is_told_that_the_node_is_busy(folder):
    first = pid_of(ask(folder))
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(ask, folder, 0, "hangs", 6.0)
        time.sleep(0.5)
        waiting = ask(folder, timeout=1.0)
        assert "busy with another message" in waiting.error.reason
        assert alive(first)
        assert slow.result().error.code == LATE


def test_it_ends_when_idle_and_takes_its_socket_away(folder):
    first = pid_of(ask(folder, **{"resident-seconds": 0.5}))
    resident_start._started[0].wait(15)
    assert not list(Path(folder).glob("*.sock"))
    assert pid_of(ask(folder, **{"resident-seconds": 0.5})) != first


def test_it_ends_with_its_supernode(folder, monkeypatch):
    node = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        monkeypatch.setattr(os, "getppid", lambda: node.pid)
        pid_of(ask(folder))
    finally:
        node.kill()
        node.wait()
    resident_start._started[0].wait(15)
    assert not list(Path(folder).glob("*.sock"))


def test_it_ends_also_when_its_folder_was_taken_away(folder, monkeypatch):
    node = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        monkeypatch.setattr(os, "getppid", lambda: node.pid)
        pid_of(ask(f"{folder}/deep"))
        shutil.rmtree(f"{folder}/deep")
    finally:
        node.kill()
        node.wait()
    assert resident_start._started[0].wait(15) == 0


def test_it_outlives_the_process_that_started_it_and_keeps_none_of_its_pipes(folder):
    code = (
        "import sys; sys.path.insert(0, 'tests/exchange/flower'); import test_resident as t\n"
        "t.resident_start._PROGRAM = t.ECHO; t.os.getppid = lambda: 1\n"
        f"print(t.pid_of(t.ask({folder!r})))"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60, check=True
    )
    pid = int(done.stdout)
    try:
        assert alive(pid)
    finally:
        os.kill(pid, signal.SIGTERM)
    assert gone([pid])


def test_a_folder_that_others_may_enter_is_refused(folder):
    os.chmod(folder, 0o755)
    bad = ask(folder)
    assert bad.error.code == RAISED
    assert "chmod 700" in bad.error.reason
    assert resident_start._started == []


def test_asked_who_it_is_such_a_node_says_at_once_what_is_wrong(folder):
    """An error would be asked about again and again, for as long as a node may take to read its images."""
    os.chmod(folder, 0o755)
    hello = Message(RecordDict(), 7, messages.HELLO)
    context = Context(1, 7, {"resident-dir": folder, "partition-id": 2}, RecordDict(), {})
    told = reply_messages.read_introduction(resident_call.answer(hello, context).content)
    assert told.client == 2
    assert "chmod 700" in told.reason


def test_a_path_too_long_for_a_socket_is_refused(folder):
    assert "too long for a socket" in ask(f"{folder}/{'x' * 90}").error.reason


def test_without_a_folder_named_it_is_one_of_the_users_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert resident_place._own_folder(None) == tmp_path / "fcil"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(resident_place.tempfile, "gettempdir", lambda: str(tmp_path))
    made = resident_place._own_folder(None)
    assert (made, made.stat().st_mode & 0o777) == (tmp_path / f"fcil-{os.getuid()}", 0o700)


@pytest.mark.parametrize(("key", "value"), [("resident", "yes"), ("resident", 1)])
def test_a_switch_that_is_no_switch_is_refused(key, value):
    with pytest.raises(ConfigError, match="true or false"):
        resident_call.wanted({key: value})
    assert not resident_call.wanted({"resident": False})
    assert resident_call.wanted({})


@pytest.mark.parametrize("value", [0, -1, "600", True])
def test_seconds_that_are_no_seconds_are_refused(folder, value):
    assert "resident-seconds" in ask(folder, **{"resident-seconds": value}).error.reason


def test_frames_arrive_as_they_were_sent_and_a_closed_connection_is_an_error():
    here, there = socket.socketpair()
    with here, there:
        resident_place.send(here, resident_place.REQUEST, b"", b"x" * 70000)
        here.close()
        assert resident_place.receive(there) == (resident_place.REQUEST, [b"", b"x" * 70000])
        with pytest.raises(ConnectionError):
            resident_place.receive(there)


@pytest.mark.slow
def test_a_run_over_resident_processes_ends_in_the_bits_of_inline(folder, monkeypatch):
    monkeypatch.setattr(resident_start, "_PROGRAM", ("-m", "fcil.exchange.flower.resident"))
    monkeypatch.setattr(sys, "argv", ["/somewhere/flwr-clientapp"])
    monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
    exchange = FlowerExchange(InProcess(client_app.app, seed=5), settings(), node_seconds=60)
    assert finish(exchange).sha256() == inline().sha256()
    assert len(resident_start._started) == 3
