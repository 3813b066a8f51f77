"""Serve the page of a run or comparison on this machine while runs go on, by the standard library's server.

It listens on 127.0.0.1 alone, answers GET alone, and knows the paths / and /run/NUMBER alone: no path of a request ever
becomes that of a file. A request that names another host is refused, so that no web site can read the page through a
name that it lets point here.
"""

import hashlib
import re
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from fcil.engine.grid import GRID, read_grid, run_state
from fcil.engine.jobs import alive
from fcil.engine.records import CONFIG, EVENTS, FAILED, SUMMARY
from fcil.errors import ConfigError
from fcil.report.grid_view import GridView
from fcil.report.page.comparison_parts import results_sections
from fcil.report.page.document import policy, run_page, subject_page
from fcil.report.page.parts import Section
from fcil.report.page.subject import Subject, of_comparison
from fcil.report.run_result import Run

__all__ = ["Pages", "make_server", "serve"]

HOST, SECONDS = "127.0.0.1", 3.0
"""Seconds between two looks of a browser, and during which a page is not made again, however many look."""


class Pages:
    """Makes the pages of a folder, anew where its records have changed."""

    def __init__(self, folder: Path) -> None:
        """Look at a folder.

        Raises:
            ConfigError: it holds neither a run nor a comparison.
        """
        self.folder, self.single = folder, (folder / CONFIG).exists() and not (folder / GRID).exists()
        cells = [] if self.single else read_grid(folder)
        self.runs = [folder] if self.single else [cell.folder for cell in cells]
        self._view = None if self.single else GridView(cells, folder)
        self._lock = threading.Lock()  # matplotlib draws in one thread at a time
        self._made: dict[str, tuple[float, object, bytes]] = {}
        self._results: tuple[object, Subject, Sequence[Section]] | None = None

    def get(self, path: str) -> bytes | None:
        """Make the page at a path; None where there is none."""
        number = re.fullmatch(r"/run/([0-9]{1,6})", path)
        if path != "/" and (self.single or number is None or int(number[1]) >= len(self.runs)):
            return None
        with self._lock:
            at, stamp, page = self._made.get(path, (0.0, None, b""))
            if time.monotonic() - at < SECONDS and page:
                return page
            folders = [self.runs[int(number[1])]] if number else self.runs
            now = _stamps(folders, (EVENTS, SUMMARY, FAILED)), alive(self.folder)
            if now != stamp:
                page = self._make(folders[0] if number or self.single else None).encode()
            self._made[path] = time.monotonic(), now, page
            return page

    def _make(self, run: Path | None) -> str:
        if run is not None:
            return run_page(Run(run), SECONDS, "" if self.single else "/")
        stamps = _stamps(self.runs, (SUMMARY,))
        if self._results is None or self._results[0] != stamps:  # charts cost most and change with finished runs only
            subject = of_comparison(self.folder)
            self._results = stamps, subject, results_sections(subject)
        _, subject, results = self._results
        targets = [f"/run/{number}" for number in range(len(self.runs))]
        return subject_page(subject, SECONDS, targets, self._view, results)


def _stamps(folders: Sequence[Path], names: Sequence[str]) -> object:
    """Collect what tells whether records have changed: the state of every run, and time and size of files."""
    return [(run_state(folder), [_stamp(folder / name) for name in names]) for folder in folders]


def _stamp(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_mtime_ns, stat.st_size


class _Handler(BaseHTTPRequestHandler):
    """Answers GET, and everything else with an error."""

    server_version, sys_version, timeout = "fcil", "", 30
    server: "_Server"

    def do_GET(self) -> None:
        """Send the page, or say that it has not changed."""
        host = (self.headers.get("Host") or "").partition(":")[0]
        if host not in (HOST, "localhost"):
            return self._say(403, "ask for this page at 127.0.0.1")
        try:
            page = self.server.pages.get(self.path.partition("?")[0])
        except Exception as error:  # records that are just being written, or damaged in some way
            return self._say(503, f"the records cannot be read: {error}")
        if page is None:
            return self._say(404, "no such page")
        tag = f'"{hashlib.sha256(page).hexdigest()[:24]}"'
        if self.headers.get("If-None-Match") == tag:
            return self._answer(304, b"", tag)
        return self._answer(200, page, tag)

    def _say(self, status: int, text: str) -> None:
        self._answer(status, text.encode(), "", "text/plain")

    def _answer(self, status: int, body: bytes, tag: str, kind: str = "text/html") -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", f"{kind}; charset=utf-8"), ("Content-Length", str(len(body))), ("ETag", tag),
            ("Cache-Control", "no-cache"), ("Content-Security-Policy", policy()),
            ("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "no-referrer"),
        ):  # fmt: skip
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Take a line for a log, and write none."""


class _Server(ThreadingHTTPServer):
    """A server with the pages that it shows."""

    daemon_threads = True

    def __init__(self, pages: Pages, port: int) -> None:
        self.pages = pages
        super().__init__((HOST, port), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Take an error of one connection, such as a browser that is gone, and go on serving."""


def make_server(folder: Path, port: int) -> _Server:
    """Make a server of a folder's pages that listens, but does not answer yet.

    Args:
        port: 0 for any that is free.

    Raises:
        ConfigError: the folder holds nothing to show, or the port is taken.
    """
    pages = Pages(folder)
    try:
        return _Server(pages, port)
    except OSError as error:
        raise ConfigError(
            f"--serve {port}: cannot listen there ({error.strerror}); name another port, or 0 for any that is free"
        ) from None


def serve(folder: Path, port: int, tell: Callable[[str], None]) -> None:
    """Serve the page of a run or a comparison on this machine until Ctrl-C.

    Args:
        tell: shows a line to the user.

    Raises:
        ConfigError: as `make_server`.
    """
    with make_server(folder, port) as server:
        tell(f"http://{HOST}:{server.server_address[1]}/ shows {folder}; Ctrl-C ends it")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            tell("ended")
