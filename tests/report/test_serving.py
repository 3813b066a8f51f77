"""Pages served while runs go on: on this machine alone, GET alone, no file but those of the runs, gone with Ctrl-C."""

import http.client
import json
import shutil
import socket
import threading
from contextlib import contextmanager

import pytest
from records import write_comparison_folder, write_run

from fcil.errors import ConfigError
from fcil.report.page import serving
from fcil.report.page.serving import Pages, make_server, serve


@contextmanager
def serving_of(folder):
    """Yield `ask(path, ...)` of a server of the folder that ends with the context."""
    with make_server(folder, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()

        def ask(path="/", method="GET", **headers):
            connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
            connection.request(method, path, headers={name.replace("_", "-"): text for name, text in headers.items()})
            reply = connection.getresponse()
            return reply.status, dict(reply.getheaders()), reply.read().decode()

        ask.port = server.server_address[1]
        try:
            yield ask
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serving") / "pair"
    write_comparison_folder(folder, unfinished=[("fedavg", 1)])
    (folder.parent / "secret.txt").write_text("secret")
    return folder


def test_only_pages_are_served_and_only_to_this_machine(pair):
    with serving_of(pair) as ask:
        status, headers, text = ask()
        assert status == 200
        assert "Comparison pair" in text
        assert 'data-seconds="3"' in text
        assert '<meta http-equiv="refresh"' in text, "without scripts the whole page is loaded again"
        assert headers["Content-Security-Policy"].startswith("default-src 'none';")
        assert [ask(f"/run/{number}")[0] for number in (0, 3, 4, 99)] == [200, 200, 404, 404]
        assert "not begun" in ask("/run/3")[2]
        for path in ("/../secret.txt", "//secret.txt", "/run/../../secret.txt", "/run/0/../1", "/grid.json",
                     "/%2e%2e/secret.txt", "/run/-1", "/lorm-seed0/config.toml"):  # fmt: skip
            status, _, text = ask(path)
            assert (status, text) == (404, "no such page"), path
        assert [ask(method=method)[0] for method in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS")] == [501] * 5
        assert ask(Host="evil.example")[0] == 403
        assert ask(Host=f"evil.example:{ask.port}")[0] == 403
        assert ask(Host=f"localhost:{ask.port}")[0] == 200
        here = socket.gethostbyname(socket.gethostname())
        if here != "127.0.0.1":
            with pytest.raises(OSError, match="refused"):
                socket.create_connection((here, ask.port), timeout=2)


def test_a_page_is_sent_again_only_when_the_records_have_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "SECONDS", 0.0)
    folder = tmp_path / "run"
    write_run(folder, done=1)
    with serving_of(folder) as ask:
        status, headers, text = ask()
        assert status == 200
        assert "1 of 3 tasks done" in text
        assert ask(If_None_Match=headers["ETag"])[0] == 304
        shutil.rmtree(folder)
        write_run(folder, done=2)
        status, _, text = ask(If_None_Match=headers["ETag"])
        assert status == 200
        assert "2 of 3 tasks done" in text
        (folder / "metrics.jsonl").write_text("damaged\n")
        status, _, text = ask()
        assert status == 503
        assert "cannot be read" in text


def test_a_finished_run_enters_the_tables_and_charts_are_made_for_no_other_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "SECONDS", 0.0)
    cells = write_comparison_folder(tmp_path / "pair", unfinished=[("fedavg", 1)])
    made = []
    monkeypatch.setattr(serving, "results_sections", lambda subject: made.append(1) or [])
    pages = Pages(tmp_path / "pair")
    assert b"4 runs: 3 finished, 1 not begun" in pages.get("/")
    events = cells[0].folder / "metrics.jsonl"
    events.write_text(events.read_text() + json.dumps({"event": "warning", "reason": "new"}) + "\n")
    pages.get("/")
    assert len(made) == 1
    write_run(cells[-1].folder, 5, changes={"method": {"name": "fedavg"}, "run": {"seed": 1}})
    assert b"4 runs: 4 finished" in pages.get("/")
    assert len(made) == 2


def test_ctrl_c_ends_it_and_leaves_the_port_free(pair, monkeypatch):
    def interrupted(server, *_):
        raise KeyboardInterrupt

    monkeypatch.setattr(serving._Server, "serve_forever", interrupted)
    said = []
    serve(pair, 0, said.append)
    assert said[-1] == "ended"
    port = int(said[0].split(":")[2].partition("/")[0])
    with socket.socket() as free:
        free.bind(("127.0.0.1", port))


def test_a_port_that_is_taken_and_a_folder_of_nothing_are_named(pair, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match=r"--serve \d+: cannot listen"):
            make_server(pair, taken.getsockname()[1])
    with pytest.raises(ConfigError, match="comparison"):
        make_server(tmp_path, 0)
