"""A page of runs: well formed, alone in the world, labelled for all, and every number on it is one of the records."""

import base64
import hashlib
import itertools
import json
import re
from collections import Counter
from html import unescape
from html.parser import HTMLParser
from importlib.resources import files
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import CLIENTS, NAMES, PHASES, TASKS, write_comparison_folder, write_run

from fcil.cli.main import main
from fcil.errors import ConfigError
from fcil.report.comparison_result import open_comparison
from fcil.report.html import Shade, html_table
from fcil.report.page.comparison_charts import _runs_of_a_curve
from fcil.report.page.document import report_page
from fcil.report.page.parts import FIT, MUTE, matrix_table
from fcil.report.page.subject import Entry, Subject
from fcil.report.paired import differences_cells
from fcil.report.rows import Row, caption
from fcil.report.sweep_plot import sweep_panels
from fcil.report.tables import to_cells

VOID = {"meta", "input", "br", "link", "img"}


class Page(HTMLParser):
    """Elements with their attributes, tables with their cells; a tag that is not closed in its place fails."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.tables, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice"
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append({"caption": "", "rows": []})
        elif tag == "tr":
            self.tables[-1]["rows"].append([])
        elif tag in ("td", "th"):
            self.tables[-1]["rows"][-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if "caption" in self.open:
            self.tables[-1]["caption"] += data
        elif "td" in self.open or "th" in self.open:
            self.tables[-1]["rows"][-1][-1] += data

    def table(self, words):
        (found,) = [table["rows"] for table in self.tables if words in table["caption"]]
        return found

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page") / "run"
    records = write_run(folder, 3)
    return folder, *records, report_page([folder])


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page") / "pair"
    write_comparison_folder(folder, unfinished=[("fedavg", 2)], seeds=(0, 1, 2))
    return folder, report_page([folder])


@pytest.fixture(params=["run", "comparison"])
def text(request):
    return request.getfixturevalue(request.param)[-1]


# ---- any page --------------------------------------------------------------------------------------------------------


def test_a_page_is_well_formed_and_names_nothing_outside_itself(text):
    page = Page(text)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        for name in ("href", "src", "action", "data", "srcset", "xlink:href"):
            target = attributes.get(name, "#")
            assert target.startswith(("#", "data:")), f"<{tag} {name}={target}>"
            assert target[1:] in ["", *ids] or target.startswith("data:")
        assert not any(name.startswith("on") for name in attributes), "a script in an attribute"
        for target in re.findall(r"url\(([^)]*)\)", " ".join(filter(None, attributes.values()))):
            assert target.strip("#") in ids
    assert "://" not in text
    assert "@import" not in text


def test_only_the_pages_own_script_may_run(text):
    page = Page(text)
    assert len(page.all("script")) == 1
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    script = text[text.index("<script>") + 8 : text.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none';")
    assert f"script-src 'sha256-{digest}'" in policy
    assert "<script>alert(1)" not in text
    assert "<b>fox</b>" not in text
    if "fox" in text:
        assert NAMES[2] in page.text


def test_who_does_not_see_or_has_no_mouse_finds_the_way(text):
    page = Page(text)
    assert page.all("html")[0]["lang"] == "en"
    for landmark in ("header", "nav", "main", "footer", "h1", "title"):
        assert len(page.all(landmark)) == 1, landmark
    assert page.all("nav")[0]["aria-label"]
    assert page.all("a")[0] == {"class": "skip", "href": "#content"}
    assert len(page.all("caption")) == len(page.all("table")) == len([t for t in page.tables if t["caption"]])
    assert {th.get("scope") for th in page.all("th")} <= {"col", "row", "colgroup"}
    for svg in page.all("svg"):
        assert svg["role"] == "img"
        assert len(svg["aria-label"]) > 20
    headings = {a["id"] for tag, a in page.elements if tag in ("h2", "h3")}
    names = [section["aria-labelledby"].split() for section in page.all("section")]
    assert {heading for *_, heading in names} == headings
    texts = {summary["id"] for summary in page.all("summary") if "id" in summary}
    assert {run for run, *rest in names if rest} <= texts, "the same section of another run has another name"
    assert len({*map(tuple, names)}) == len(names)
    for group in [d for d in page.all("div") if d.get("class") == "scroll"]:
        assert (group["tabindex"], group["role"]) == ("0", "group"), "no landmark, of which there would be dozens"
        assert group["aria-label"]
    assert not re.search("<th[^>]*></th>", text), "no cell without a text is read out as a head"
    assert len(page.all("figure")) == len(page.all("svg")), "each chart has its numbers as a table"
    assert text.count("<summary>Numbers: ") == len(page.all("svg"))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_the_same_records_give_the_same_page(run):
    assert report_page([run[0]]) == run[-1]


# ---- a run -----------------------------------------------------------------------------------------------------------


def numbers(rows, skip=1):
    """The cells of a table's body as numbers, NaN where empty."""
    return np.array([[float(cell.replace(",", "") or "nan") for cell in row[1:]] for row in rows[skip:]])


def test_matrix_and_classes_are_those_of_the_records(run):
    folder, _, _census, events, summary, text = run
    page = Page(text)
    lines = (folder / "accuracy_matrix.csv").read_text().splitlines()[1:]
    recorded = np.array([[float(cell or "nan") for cell in line.split(",")[1:]] for line in lines])
    shown = numbers(page.table("accuracy on each task"), 2)
    np.testing.assert_allclose(shown, 100 * recorded, atol=0.05 + 1e-9)
    rows = page.table("accuracy of each class")
    assert rows[1][1:] == list(NAMES)
    assert rows[0] == ["", "task 1", "task 2", "task 3"]
    done = [event for event in events if event["event"] == "task"]
    for event, row in zip(done, numbers(rows, 2), strict=True):
        expected = 100 * np.array(event["class_correct"]) / event["class_total"]
        np.testing.assert_allclose(row[: len(expected)], expected, atol=0.05 + 1e-9)
        assert np.isnan(row[len(expected) :]).all()
    by_task = page.table("accuracy by task")
    assert [row[3] for row in by_task[1:]] == [f"{100 * event['accuracy']:.1f}" for event in done]
    assert [["final accuracy, pooled", f"{100 * summary['final_accuracy']:.1f} %"]] == [
        row for row in page.table("figures of the finished run") if row[0] == "final accuracy, pooled"
    ]


def test_holders_and_clients_are_those_of_the_census(run):
    _, _, census, _, summary, text = run
    page = Page(text)
    rows = page.table("training images of each client")
    np.testing.assert_array_equal(numbers(rows, 2), census.by_class)
    assert [row[0] for row in rows[2:]] == [f"client {k}" for k in range(CLIENTS)]
    (clients,) = [table["rows"][1:] for table in page.tables if table["caption"] == "clients"]
    assert [int(row[1]) for row in clients] == census.by_class.sum(1).tolist()
    assert [row[2] for row in clients] == [f"{100 * a:.1f}" for a in summary["client_accuracy"]]


def test_phases_are_those_of_the_events_and_add_up(run):
    _, _, _, events, summary, text = run
    _head, *rows, total = Page(text).table("each phase")
    assert len(rows) == TASKS * len(PHASES)
    asked = [event for event in events if event["event"] == "phase"]
    merged = [event for event in events if event["event"] == "merged"]
    for row, ask, end in zip(rows, asked, merged, strict=True):
        assert row[1] == f"{end['updates']} of 3"
        assert row[2:6] == [
            f"{end['upload_bytes'] / 1e6:.3f}", f"{ask['download_bytes'] / 1e6:.3f}", f"{end['seconds_clients']:.2f}",
            f"{end['seconds_merge']:.3f}",
        ]  # fmt: skip
    seconds = summary["seconds"]
    assert total[1:] == [
        f"{summary['asked'] - summary['refused']} of {summary['asked']}", f"{summary['upload_bytes'] / 1e6:.3f}",
        f"{summary['download_bytes'] / 1e6:.3f}", f"{seconds['clients']:.2f}", f"{seconds['merging']:.3f}",
        f"{seconds['evaluation']:.2f}",
    ]  # fmt: skip


def test_diagnostics_and_remarks_are_those_of_the_events(run):
    _, _, _, events, _, text = run
    page = Page(text)
    for task in range(TASKS):
        last = [e for e in events if e["event"] == "diagnostics" and e["task"] == task and "client_kinship" in e][-1]
        shown = numbers(page.table(f"last round of task {task + 1}"))
        np.testing.assert_allclose(shown, last["client_kinship"], atol=0.005 + 1e-9)
    assert [row[1] for row in page.table("intruder dimensions")[1:]] == ["2.00"] * TASKS
    assert page.table("what happened beside the plan") == [
        ["task 1, round 1", "client 1 refused: <script>alert(1)</script>"]
    ]


def test_settings_that_differ_come_first_and_all_are_there_folded(run):
    _, config, _, _, _, text = run
    page = Page(text)
    changed = dict(page.table("settings that differ"))
    assert changed == {"method.name": "lorm", "tasks.count": "3", "run.seed": "3", "run.diagnostics": "true"}
    every = dict(page.table("all settings"))
    assert changed.items() <= every.items()
    assert every["partition.beta"] == json.dumps(config.partition.beta)
    assert dict(page.table("what the numbers depend on"))["versions torch"] == "1.2.3"
    assert not any("open" in fold for fold in page.all("details"))


def test_an_unfinished_run_and_one_of_an_earlier_version(tmp_path):
    write_run(tmp_path / "run", done=1)
    (tmp_path / "run" / "census.json").unlink()
    page = Page(report_page([tmp_path / "run"]))
    assert "not finished: 1 of 3 tasks done" in page.text
    assert "begun with an earlier version" in page.text
    assert page.table("accuracy of each class")[0][1:] == ["class 1", "class 2"]


# ---- several runs ----------------------------------------------------------------------------------------------------


def test_a_comparison_has_the_tables_and_remarks_that_compare_writes(comparison):
    folder, text = comparison
    page, opened = Page(text), open_comparison(folder)
    heads, lines = to_cells(opened.rows)
    assert page.table("mean and sample standard deviation") == [heads, *lines]
    assert caption(opened.rows) in page.text
    heads, lines = differences_cells(opened.differences[""])
    assert lines
    assert page.table("paired differences") == [heads, *lines]
    assert page.table("runs that are not finished")[1][:2] == ["fedavg, seed 2", "not begun"]
    head, *rows = page.table("every run by itself")
    assert [(row[0], row[1]) for row in rows] == [(label, str(s)) for label in ("lorm", "fedavg") for s in range(3)]
    at = head.index("final, %")
    final = {(figures["label"], str(figures["seed"])): figures["final_accuracy"] for figures in opened.figures}
    for row in rows:
        assert row[at] == (f"{100 * final[row[0], row[1]]:.1f}" if (row[0], row[1]) in final else "")


def test_runs_named_together_are_told_apart_by_a_setting_that_some_do_not_record(tmp_path):
    folders = []
    for number, (seed, own) in enumerate([(0, {}), (1, {}), (0, {"gram_shrink": 0.5}), (1, {"gram_shrink": 0.5})]):
        folders.append(tmp_path / str(number))
        write_run(folders[-1], seed, changes={"method": {"name": "lorm", **own}})
    _, *rows = Page(report_page(folders)).table("mean and sample standard deviation")
    assert [row[:2] for row in rows] == [["lorm", "2"], ["lorm (method.gram_shrink = 0.5)", "2"]]


def test_every_part_of_a_chart_and_table_knows_its_runs_so_that_filters_reach_it(comparison):
    """Runs 0 to 2 are lorm's, 3 to 5 fedavg's, of which the last has not begun."""
    text = comparison[-1]
    curves, traffic, seconds = re.findall(r"<figure.*?</figure>", text, re.DOTALL)[:3]
    for chart in (curves, traffic, seconds):
        head = chart[: chart.index(">")]
        assert head == '<figure data-runs="0 1 2 3 4"'
        assert set(re.findall(r'<tr data-runs="([\d ]+)"', chart)) == {"0 1 2", "3 4"}
        said = json.loads(unescape(re.search(r'data-said="([^"]*)"', chart)[1]))
        assert [(words.split()[0], runs) for words, runs in said] == [("lorm", "0 1 2"), ("fedavg", "3 4")]
    lines = Counter(re.findall(r'<g data-runs="([\d ]+)">', curves))
    assert lines == {"0 1 2": 4, "3 4": 4, "0": 1, "1": 1, "2": 1, "3": 1, "4": 1}, "band, mean, two of the legend"
    points = Counter(re.findall(r'<g data-runs="([\d ]+)">', traffic))
    assert points.keys() == {"0 1 2", "3 4"}
    assert min(points.values()) >= 5, "marker, bar, its two ends, the label"
    section = re.search(r'<section id="results"[^>]*>', text)[0]
    assert 'data-runs="0 1 2 3 4"' in section
    assert '<li data-runs="0 1 2 3 4"><a href="#results">' in text
    folds = [d["data-runs"] for d in Page(text).all("details") if "data-runs" in d]
    assert folds == list("012345")


@given(values=st.lists(st.lists(st.sampled_from(["0.1", "a, b", "x"]), min_size=1, max_size=3, unique=True),
                       min_size=1, max_size=3), labels=st.sampled_from([("lorm",), ("lorm", "fedavg")]),
       zipped=st.booleans())  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_a_curve_of_a_sweep_is_made_of_the_runs_at_its_points(values, labels, zipped):
    """Against a plain look: the runs of the label whose other settings have the panel's values."""
    names = [f"s.{'abc'[i]}" for i in range(len(values))]
    if zipped:
        values = [own[: min(map(len, values))] for own in values]
    combinations = list(zip(*values, strict=True)) if zipped else list(itertools.product(*values))
    points = {str(c): dict(zip(names, c, strict=True)) for c in combinations}
    runs = [(label, name) for name in points for label in labels]
    tables = {name: [Row(label, 1, (0.5,) * 7, (0.0,) * 7) for label in labels] for name in points}
    entries = [Entry(None, label, {}, "finished", {"swept": points[name], "value": name}) for label, name in runs]
    subject = Subject("", SimpleNamespace(points=points, tables=tables), entries)
    for setting, _, panels, _ in sweep_panels(points, tables):
        found = [_runs_of_a_curve(subject, setting, panel, label) for panel in panels for label in panels[panel]]
        assert sorted(itertools.chain(*found)) == list(range(len(runs))), "each run is in one curve"
        for own in found:
            others = [{k: v for k, v in points[runs[i][1]].items() if k not in setting.split(", ")} for i in own]
            assert len({runs[i][0] for i in own}) == 1
            assert all(other == others[0] for other in others)


def test_runs_can_be_chosen_by_all_in_which_they_differ(comparison, tmp_path):
    page = Page(comparison[-1])
    assert "hidden" in page.all("form")[0], "without scripts there is no form that does nothing"
    assert [select["name"] for select in page.all("select")] == ["method", "seed", "state"]
    for name, beta in (("a", 0.1), ("b", 0.5), ("c", 0.5)):
        write_run(tmp_path / name, 1, changes={"partition": {"beta": beta}})
    page = Page(report_page([tmp_path / name for name in "abc"]))
    assert "partition.beta" in [select["name"] for select in page.all("select")]
    facts = [json.loads(row["data-facts"]) for row in page.all("tr") if "data-facts" in row]
    assert [fact["partition.beta"] for fact in facts] == ["0.1", "0.5", "0.5"]
    seeds = {row[0]: row[1] for row in page.table("mean and sample standard deviation")[1:]}
    assert len(seeds) == 3, "the same run twice is no second seed"
    assert set(seeds.values()) == {"1"}


def test_a_page_of_nothing_is_refused(tmp_path, comparison):
    with pytest.raises(ConfigError, match="not a run folder"):
        report_page([tmp_path])
    with pytest.raises(ConfigError, match="name it alone"):
        report_page([comparison[0], tmp_path])


def test_the_command_writes_the_page_whole_or_says_why_not(run, tmp_path, capsys):
    assert main(["report", str(run[0]), "--html", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_text() == run[-1]
    assert main(["report", str(run[0]), "--html", str(tmp_path / "nowhere" / "page.html")]) == 2
    assert "--html" in capsys.readouterr().err


def test_the_command_draws_again_in_another_form_without_data(tmp_path, comparison):
    write_run(tmp_path / "run", done=1)
    events = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(line for line in events if "diagnostics" not in line))
    assert main(["report", str(tmp_path / "run"), "--format", "svg", "--width", "column"]) == 0
    drawn = {path.name for path in (tmp_path / "run" / "plots").iterdir()}
    assert drawn == {"accuracy.svg", "matrix.svg", "clients.svg"}
    assert main(["report", str(comparison[0]), "--format", "svg"]) == 0
    assert {path.name for path in comparison[0].glob("*.svg")} == {"accuracy.svg", "traffic.svg", "seconds.svg"}


# ---- parts -----------------------------------------------------------------------------------------------------------


@given(text=st.text(), share=st.floats(-1, 1))
@settings(max_examples=20)
def test_no_text_leaves_its_cell(text, share):
    table = html_table(text, [text, text], [[text, Shade(text, share)]], look="plain", facts=[{text: text}], runs=[[1]])
    assert not re.search(r"[\"'<>&]", re.sub(r"<[^<>]*>|&\w+;|&#\w+;", "", table))
    assert table.count("<td") == table.count("</td>") == (1 if text else 3), "heads without a text are cells"


def test_wide_matrices_fit_the_page_and_their_numbers_are_still_in_it():
    for count in (3, FIT + 1, MUTE + 1):
        names, cells = [str(i) for i in range(count)], [Shade(f"{i}", i / count) for i in range(count)]
        page = Page(matrix_table("m", "", names, [("row", cells)]))
        look = page.all("table")[0]["class"].split()
        assert ("fit" in look, "mute" in look) == (count > FIT, count > MUTE)
        assert page.table("m")[1] == ["row", *names]
        assert bool(page.all("input")) == (count > MUTE)


def luminance(colour):
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def mixed(one, other, share):
    pairs = [(int(one[i : i + 2], 16), int(other[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in pairs)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_text_can_be_read_on_every_colour(mode):
    """WCAG 2.2: a contrast of 4.5 for text."""
    style = (files("fcil.report.page") / "style.css").read_text()
    colours = dict(re.findall(r"--(\w+): (#\w{6})", re.findall(r":root \{(.*?)\}", style, re.DOTALL)[mode]))

    def contrast(a, b):
        low, high = sorted([luminance(a), luminance(b)])
        return (high + 0.05) / (low + 0.05)

    for ink, ground in (("dim", "page"), ("link", "page"), ("ink", "tint"), ("ink", "bar"), ("dim", "tint")):
        assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    for end in ("high", "below"):
        for share in np.linspace(0, 1, 11):
            assert contrast(colours["ink"], mixed(colours["low"], colours[end], share)) >= 4.5, (end, share)
