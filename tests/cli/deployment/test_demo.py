"""The parts of `fcil deploy-demo`, and the whole of it."""

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from fcil.cli.deployment import demo
from fcil.cli.deployment.certificates import make_certificates, make_node_key
from fcil.cli.deployment.demo import demo_settings
from fcil.cli.deployment.processes import Processes, free_port
from fcil.cli.deployment.sites import CLASSES, check_sites, write_sites
from fcil.cli.main import main
from fcil.config import from_table
from fcil.engine.simulation import prepare, simulate
from fcil.errors import ConfigError, RunError

ROOT = Path(__file__).parents[3]


def handshake(server, trusted, host):
    """A TLS connection to `host` with a server's certificate, by a client that trusts one authority."""
    _, certificate, key = server
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    ours, theirs = socket.socketpair()

    def serve():
        try:
            context.wrap_socket(theirs, server_side=True).close()
        except OSError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with ssl.create_default_context(cafile=trusted).wrap_socket(ours, server_hostname=host) as connection:
            return connection.version()
    finally:
        ours.close()
        thread.join()


def test_certificates_are_good_for_their_hosts_only_and_only_under_their_authority(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    server, other = (make_certificates(tmp_path / name, ["localhost", "127.0.0.1"]) for name in "ab")
    assert handshake(server, server[0], "localhost")
    assert handshake(server, server[0], "127.0.0.1")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(server, server[0], "elsewhere.org")
    with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
        handshake(server, other[0], "localhost")
    assert server[2].stat().st_mode & 0o777 == 0o600


def test_node_keys_are_such_as_flower_reads(tmp_path):
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

    path = make_node_key(tmp_path / "node")
    public = load_ssh_public_key((tmp_path / "node.pub").read_bytes())
    assert load_ssh_private_key(path.read_bytes(), None).public_key() == public
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_sites_share_some_classes_and_no_image(tmp_path):
    sites = write_sites(tmp_path)
    settings = from_table([("x", {
        "data": {"name": "folder", "sites": [str(site.root) for site in sites],
                 "class_maps": [str(site.class_map or "") for site in sites]},
        "partition": {"kind": "sites"}, "tasks": {"classes": list(CLASSES), "count": 5},
        "method": {"name": "ncm"}, "run": {"device": "cpu"},
    })])  # fmt: skip
    census = prepare(settings).plan.census
    held = [range(0, 6), range(2, 8), range(4, 10)]
    assert census.by_class.tolist() == [[12 * (digit in part) for digit in range(10)] for part in held]
    assert {path.name for path in (sites[2].root / "train").iterdir()} == {f"digit-{digit}" for digit in held[2]}
    contents = [path.read_bytes() for path in tmp_path.rglob("*.png")]
    assert len(contents) == 3 * 6 * 16
    assert len({path.name for path in tmp_path.rglob("*.png")}) == len(contents)  # the names are indices


def test_more_images_than_there_are_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"3 sites with 160 images of each class: .* enough for 1 sites"):
        write_sites(tmp_path, train=100, test=60)


def test_more_sites_than_there_are_images_for_are_refused_before_anything_starts(monkeypatch, capsys):
    monkeypatch.setattr(demo, "_folder", lambda *_: pytest.fail("it began"))
    assert main(["deploy-demo", "--clients", "20"]) == 2
    most = int(re.search(r"the digits are enough for (\d+) sites", capsys.readouterr().err)[1])
    check_sites(most)
    with pytest.raises(ConfigError, match=f"enough for {most} sites"):
        check_sites(most + 1)


PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(child.pid, flush=True)
child.wait()
"""


def test_what_a_process_started_is_ended_too(tmp_path, monkeypatch):
    monkeypatch.setattr("fcil.cli.deployment.processes._END_SECONDS", 1.0)
    with Processes(tmp_path) as processes:
        processes.start("a", "python", "-c", PARENT, env=dict(os.environ))
        while not (told := processes.log("a").read_text().strip()):
            time.sleep(0.02)
    with pytest.raises(ProcessLookupError):
        os.kill(int(told), 0)


SLEEPER = "import signal, sys, time; {}; print('up', flush=True); time.sleep(600)"


@pytest.mark.parametrize("stubborn", [False, True])
def test_processes_are_ended_also_on_failure_and_if_they_do_not_want_to(tmp_path, monkeypatch, stubborn):
    monkeypatch.setattr("fcil.cli.deployment.processes._END_SECONDS", 1.0)
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)" if stubborn else "pass"
    pids = []

    def fail():
        with Processes(tmp_path) as processes:
            for name in ("a", "b"):
                processes.start(name, "python", "-c", SLEEPER.format(ignore), env=dict(os.environ))
            pids.extend(processes.pids().values())
            while not all("up" in processes.log(name).read_text() for name in ("a", "b")):
                time.sleep(0.02)
            processes.check()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_process_that_ends_by_itself_is_told_with_the_end_of_its_log(tmp_path):
    with Processes(tmp_path) as processes:
        processes.start("link", "python", "-c", "raise SystemExit('port in use')", env=dict(os.environ))
        with pytest.raises(RunError, match="link ended by itself: port in use"):
            processes.listening("link", free_port())


def test_a_port_on_which_nobody_listens_is_told(tmp_path):
    with Processes(tmp_path) as processes, pytest.raises(RunError, match=r"does not listen after 0\.1 seconds"):
        processes.listening("link", free_port(), 0.1)


# ---- the whole -------------------------------------------------------------------------------------------------------


def mentioning(text):
    """Processes that have a text in their arguments or environment."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            known = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if text.encode() in known and int(folder.name) != os.getpid():
            found[int(folder.name)] = known[:200]
    return found


def start_demo():
    command = [sys.executable, "-u", "-m", "fcil.cli", "deploy-demo", "--keep"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a shell's jobs ignore it
    )  # fmt: skip


@pytest.mark.slow
def test_the_demonstration_ends_in_the_bits_of_inline_and_leaves_no_process(tmp_path):
    demo = start_demo()
    said, _ = demo.communicate(timeout=420)
    assert demo.returncode == 0, said[-3000:]
    folder = re.search(r"folder: (\S+)", said)[1]
    sites = write_sites(tmp_path / "sites")  # here as a simulation, whose settings name the folders
    here = {"sites": [str(site.root) for site in sites], "class_maps": [str(site.class_map or "") for site in sites]}
    settings = from_table([("demo", demo_settings(3)), ("here", {"data": here, "run": {"exchange": "inline"}})])
    summary = simulate(prepare(settings, tmp_path / "run"), tmp_path / "run")
    assert f"final arrays: sha256 {summary['sha256']}" in said
    assert mentioning(folder) == {}
    assert (Path(folder) / "run" / "summary.json").exists()
    shutil.rmtree(folder)


@pytest.mark.slow
def test_an_interrupted_demonstration_leaves_no_process_and_no_folder():
    demo = start_demo()
    said = ""
    while "run " not in said.rpartition("folder")[2].partition("\n")[2]:
        line = demo.stdout.readline()
        assert line, said
        said += line
    folder = re.search(r"folder: (\S+)", said)[1]
    assert mentioning(folder)
    demo.send_signal(signal.SIGINT)
    rest, _ = demo.communicate(timeout=120)
    assert demo.returncode == 130
    assert rest.index("stopping the run") < rest.index("ending the SuperLink and its nodes")
    assert mentioning(folder) == {}
    assert not Path(folder).exists()
