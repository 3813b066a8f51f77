"""A page in a real browser: filters hide what was not chosen, nothing is refused, a served page renews itself."""

import itertools
import re
import shutil
import subprocess
from types import SimpleNamespace

import pytest
from records import write_comparison_folder, write_run
from test_serving import serving_of

from fcil.report.page.document import report_page

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not BROWSER, reason="no Chromium here")]


def browse(address, folder, *options):
    """What the browser writes: the page after its scripts, and what it complained of."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
               "--enable-logging=stderr", *options, str(address)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture
def page(tmp_path):
    write_comparison_folder(tmp_path / "pair")
    return report_page([tmp_path / "pair"])


def test_filters_hide_the_other_runs_and_no_rule_is_broken(page, tmp_path):
    (tmp_path / "plain.html").write_text(page)
    text, complaints = browse((tmp_path / "plain.html").as_uri(), tmp_path, "--dump-dom")
    assert not complaints
    assert "4 of 4 runs" in text
    choose = """<script>
        const form = document.querySelector("form");
        form.elements.method.value = "fedavg"; form.elements.text.value = "SEED 1 fedavg";
        form.dispatchEvent(new Event("input"));
        </script></body>"""
    free = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page).replace("</body>", choose)
    (tmp_path / "chosen.html").write_text(free)
    text, _ = browse((tmp_path / "chosen.html").as_uri(), tmp_path, "--dump-dom")
    runs = re.findall(r'<details class="run" id="(run-\d)"([^>]*)>', text)
    assert [name for name, rest in runs if "hidden" not in rest] == ["run-4"]
    assert "1 of 4 runs: method = fedavg, with " in text
    assert "A mean is over all seeds of its row" in text, "the row of seeds 0 and 1 is shown, and says so"
    shapes = re.findall(r'<g data-runs="([\d ]+)"( hidden="")?>', text)
    assert {runs for runs, hidden in shapes if not hidden} == {"2 3", "3"}
    assert {runs for runs, hidden in shapes if hidden} == {"0 1", "0", "1", "2"}
    told = re.findall(r'aria-label="(?:lines|points): ([^"]*)" data-label', text)
    assert len(told) == 3
    assert all("fedavg" in label and "lorm" not in label for label in told), "what is hidden is not read out either"
    (tmp_path / "foreign.html").write_text(page.replace("</body>", "<script>document.title = 'broken'</script></body>"))
    text, complaints = browse((tmp_path / "foreign.html").as_uri(), tmp_path, "--dump-dom")
    assert "<title>broken</title>" not in text
    assert len(complaints) == 1, "a script that is not the page's own does not run"


def test_folds_filters_focus_and_scrolling_stay_when_the_page_is_replaced(page, tmp_path):
    renew = """<script>
        const before = document.documentElement.outerHTML, chosen = filters().elements;
        document.querySelector("#run-2").open = true;
        chosen.method.value = "lorm"; chosen.method.focus(); apply(); scrollTo(0, 150);
        replace(before.replace("<h1>", "<h1>New: "));
        document.title = [
          document.querySelector("h1").textContent.startsWith("New: "), document.querySelector("#run-2").open,
          document.querySelector("#run-1").open, filters().elements.method.value, document.activeElement.name, scrollY,
          [...document.querySelectorAll("details.run")].map((fold) => fold.hidden).join(" "),
        ].join(", ");
        </script></body>"""
    free = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page).replace("</body>", renew)
    (tmp_path / "page.html").write_text(free)
    text, _ = browse((tmp_path / "page.html").as_uri(), tmp_path, "--dump-dom", "--window-size=800,600")
    assert "<title>true, true, false, lorm, method, 150, false false true true</title>" in text


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_window(page, tmp_path, width):
    told = "<script>document.title = document.documentElement.scrollWidth + ' of ' + innerWidth</script></body>"
    free = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page).replace("</body>", told)
    (tmp_path / "page.html").write_text(free)
    frame = f'<!DOCTYPE html><iframe src="page.html" width="{width}" height="800"></iframe>'
    frame = frame.replace("src=", "onload='document.title = this.contentDocument.title' src=")
    (tmp_path / "frame.html").write_text(frame)
    options = ("--dump-dom", "--allow-file-access-from-files", "--virtual-time-budget=2000")
    text, _ = browse((tmp_path / "frame.html").as_uri(), tmp_path, *options)
    wide, window = map(int, re.search(r"<title>(\d+) of (\d+)</title>", text).groups())
    assert window == width
    assert wide <= width


def test_it_prints(page, tmp_path):
    (tmp_path / "page.html").write_text(page)
    browse((tmp_path / "page.html").as_uri(), tmp_path, f"--print-to-pdf={tmp_path / 'page.pdf'}")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_a_served_page_renews_itself(tmp_path, monkeypatch):
    from fcil.report.page import document, serving

    monkeypatch.setattr(serving, "SECONDS", 0.2)
    write_run(tmp_path / "run", done=1)
    looks, make = [], document.run_page

    def counted(run, *rest):
        looks.append(1)
        if len(looks) == 2:
            shutil.rmtree(run.folder)
            write_run(run.folder, done=2)
        return make(run, *rest)

    monkeypatch.setattr(serving, "run_page", counted)
    monkeypatch.setattr(serving, "_stamps", lambda *_: object())  # every look makes the page anew
    monkeypatch.setattr(serving, "time", SimpleNamespace(monotonic=itertools.count().__next__))
    with serving_of(tmp_path / "run") as ask:
        address = f"http://127.0.0.1:{ask.port}/"
        text, complaints = browse(address, tmp_path, "--dump-dom", "--virtual-time-budget=3000")
    assert len(looks) >= 2
    assert "2 of 3 tasks done" in text
    assert not complaints
