"""Fetching files, against a server in this process: resumed, checked, whole or not there."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from fcil.data.download import fetch
from fcil.data.family import File
from fcil.errors import ConfigError

CONTENT = bytes(range(256)) * 5000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Site(HTTPServer):
    """Serves CONTENT at any path; remembers what was asked."""

    resumes = True
    breaks_after = None
    """Bytes after which a reply ends too early."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/file.tar"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        if self.path == "/gone":
            self.send_error(404)
            return
        begin = int(wanted.split("=")[1].rstrip("-")) if wanted and self.server.resumes else 0
        if begin >= len(CONTENT):
            self.send_error(416)
            return
        body = CONTENT[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.breaks_after])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def site():
    server = Site()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_file_is_fetched_checked_and_whole(site, tmp_path):
    path = fetch(File("file.tar", site.url, MD5), tmp_path / "new")
    assert path.read_bytes() == CONTENT
    assert names(tmp_path / "new") == ["file.tar"]
    fetch(File("file.tar", site.url, MD5), tmp_path / "new")
    assert len(site.asked) == 1


def test_a_broken_transfer_goes_on_where_it_stopped(site, tmp_path):
    site.breaks_after = 1000
    file = File("file.tar", site.url, MD5)
    with pytest.raises(ConfigError, match=r"goes on with what has come so far.*by hand"):
        fetch(file, tmp_path)
    assert names(tmp_path) == ["file.tar.part"]
    site.breaks_after = None
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert site.asked == [None, "bytes=1000-"]
    assert names(tmp_path) == ["file.tar"]


def test_a_server_that_does_not_resume_starts_over(site, tmp_path):
    site.resumes = False
    (tmp_path / "file.tar.part").write_bytes(b"x" * 700)
    assert fetch(File("file.tar", site.url, MD5), tmp_path).read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_thrown_away(site, tmp_path):
    (tmp_path / "file.tar.part").write_bytes(CONTENT + b"more")
    assert fetch(File("file.tar", site.url, MD5), tmp_path).read_bytes() == CONTENT


def test_other_content_is_refused_and_deleted(site, tmp_path):
    with pytest.raises(ConfigError, match=f"its MD5 is {MD5}, not the authors' {'0' * 32}"):
        fetch(File("file.tar", site.url, "0" * 32), tmp_path)
    assert names(tmp_path) == []


def test_no_server_no_page_and_no_address_are_messages(site, tmp_path):
    with pytest.raises(ConfigError, match="404"):
        fetch(File("file.tar", site.url.replace("file.tar", "gone"), MD5), tmp_path)
    with pytest.raises(ConfigError, match="cannot be fetched"):
        fetch(File("file.tar", "http://127.0.0.1:9/file.tar", MD5), tmp_path)
    with pytest.raises(ConfigError, match="no longer serve it"):
        fetch(File("file.tar"), tmp_path)
    assert names(tmp_path) == []


def test_prepare_fetches_only_when_asked(site, tmp_path, monkeypatch):
    from dataclasses import replace

    import archives

    import fcil.data as data

    archives.cub(tmp_path)
    content = (tmp_path / "CUB_200_2011.tgz").read_bytes()
    (tmp_path / "CUB_200_2011.tgz").unlink()
    monkeypatch.setattr("test_download.CONTENT", content)
    family = data.FAMILIES["cub200"]
    file = replace(family.files[0], url=site.url, md5=hashlib.md5(content).hexdigest())
    monkeypatch.setitem(data.FAMILIES, "cub200", replace(family, files=(file,)))
    settings = archives.settings("cub200", tmp_path)
    with pytest.raises(ConfigError, match="--download"):
        data.load(settings, 28)
    assert site.asked == []
    loaded = data.load(settings, 28, download=True)
    assert (len(site.asked), len(loaded.train)) == (1, 4)
    assert "MD5 of" not in loaded.files  # the checksum is right, the numbers are not CUB's
    assert "images, not 5,994 + 5,794" in loaded.files
