"""`import fcil`: runs and comparisons as objects, from a script or a notebook."""

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from own_methods import write

import fcil
from fcil.cli.main import main
from fcil.config import MethodChoice, to_table
from fcil.config import load_config as load_file
from fcil.engine.own_method import choice_of, code_digest
from fcil.method import Method
from fcil.options import keys_of
from fcil.registry import method_class, method_names
from strategies.fedavg import FedAvg
from strategies.lorm import LoRM
from strategies.ncm import NCM
from strategies.ridge import Ridge

ROOT = Path(__file__).parent.parent
SMALL = {
    "data": {"train_limit": 100, "test_limit": 60},
    "model": {"image_size": 16},
    "tasks": {"count": 2},
    "partition": {"clients": 2, "min_samples": 1},
    "train": {"rounds": 1, "epochs": 1},
    "method": {"name": "fedavg", "rank": 2},
}


def local(**settings):
    """A method whose class nobody can import."""

    @dataclass(frozen=True, kw_only=True)
    class Local(FedAvg):
        """Average, from inside a function."""

    return Local(**settings)


def toml(table):
    lines = []
    for section, entries in table.items():
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in entries.items())]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with small.toml, and runs/ of these tests."""
    folder = tmp_path_factory.mktemp("api")
    (folder / "small.toml").write_text(toml(SMALL))
    return folder


@pytest.fixture(autouse=True)
def _there(place, monkeypatch):
    monkeypatch.chdir(place)


@pytest.fixture(scope="module")
def finished(place):
    return fcil.run(place / "small.toml", output=place / "finished")


# ---- the package -----------------------------------------------------------------------------------------------------


def test_importing_it_is_light_and_every_name_is_there():
    code = (
        "import sys, fcil; before = {m for m in ('numpy', 'rich', 'torch', 'timm') if m in sys.modules};"
        "assert not before, before; assert fcil.__version__; names = [getattr(fcil, n) for n in fcil.__all__];"
        "assert 'torch' not in sys.modules; print(sorted(set(dir(fcil)) - set(fcil.__all__)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "['__version__']\n"), done.stderr
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        _ = fcil.runn


@pytest.mark.slow
def test_type_checkers_see_the_names(tmp_path):
    (tmp_path / "use.py").write_text(
        "import fcil\nrun = fcil.run({'train': {'rounds': 1}}, {'tasks.count': 2})\n"
        "number: float = run.final_accuracy\ntext: str = fcil.__version__\nreveal_type(run.accuracy)\n"
        "rows: list[fcil.MethodInfo] = fcil.methods()\nfcil.runn\nwrong: str = fcil.compare('a.toml').runs\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--follow-imports=silent", "use.py"],
        cwd=tmp_path, env={"MYPYPATH": str(ROOT), "PATH": "/usr/bin"}, capture_output=True, text=True,
    )  # fmt: skip
    assert "ndarray" in done.stdout
    errors = [line.split(":")[1] for line in done.stdout.splitlines() if ": error:" in line]
    assert errors == ["7", "8"], done.stdout


# ---- settings --------------------------------------------------------------------------------------------------------


def test_a_file_a_dict_and_a_config_are_the_same_settings():
    config = fcil.load_config("small.toml")
    assert config == load_file(Path("small.toml")) == fcil.load_config(SMALL) == fcil.load_config(config)
    assert fcil.load_config({}) == fcil.Config()
    assert to_table(config)["method"] == SMALL["method"]


def test_overrides_by_name_by_section_and_by_keyword():
    expected = load_file(Path("small.toml"), ["train.lr=0.5", "partition.beta=0.1"])
    assert fcil.load_config("small.toml", {"train.lr": 0.5, "partition": {"beta": 0.1}}) == expected
    assert fcil.load_config("small.toml", train={"lr": 0.5}, partition={"beta": 0.1}) == expected
    assert fcil.load_config(SMALL, {"train.lr": 0.5}, partition={"beta": 0.1}) == expected
    assert fcil.load_config(expected, {"method.name": "ties"}).method.settings == {}


@pytest.mark.parametrize(
    ("config", "overrides", "message"),
    [
        ("none.toml", {}, "none.toml: no such file"),
        ("small.toml", {"train.lrr": 1}, "overrides: train.lrr: unknown setting. Did you mean 'lr'?"),
        ("small.toml", {"trian": {"lr": 1}}, r"overrides: \[trian\]: unknown section. Did you mean 'train'?"),
        ("small.toml", {"train": 3}, "overrides: train = 3: write it as"),
        ("small.toml", {"train.lr": "fast"}, "overrides: train.lr = 'fast': must be number"),
        ({"train": {"lr": -1}}, {}, "settings: train.lr = -1: must be greater than 0"),
    ],
)
def test_a_mistake_is_the_same_message_as_on_the_command_line(config, overrides, message):
    with pytest.raises(fcil.ConfigError, match=message):
        fcil.load_config(config, overrides)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fcil.run("small.toml", outptu="runs/a"), "outptu = 'runs/a': .*; did you mean 'output'?"),
        (lambda: fcil.run("small.toml", seed=1), "seed = 1: .*; did you mean 'run.seed'?"),
        (lambda: fcil.run("small.toml", method=FedAvg), r"is a class; give an object .*: FedAvg\(\)"),
        (lambda: fcil.run("small.toml", method=3), "method = 3: must be a dict, for example"),
        (lambda: fcil.run("small.toml", ["train.lr"]), "overrides = .*: must be a dict, for example"),
        (lambda: fcil.run(None), "config = None: must be a TOML file, a Config or a dict"),
        (lambda: fcil.run("small.toml", loggers=print), "loggers = .*: must be a list of loggers"),
        (lambda: fcil.compare("small.toml", methods="ncm", sweep="lr"), "sweep = 'lr': must be a dict, for example"),
        (lambda: fcil.compare("small.toml", seeds=2), r"seeds = 2: must be a list of whole numbers"),
        (lambda: fcil.compare("small.toml", seeds=[]), r"seeds = \[\]: must be a list of whole numbers"),
        (lambda: fcil.compare("small.toml", seeds=[0.5]), r"seeds = \[0.5\]: must be"),
        (
            lambda: fcil.compare("small.toml", methods=["ncm", local(rank=4)]),
            r"methods: .*Local\(.*'my_method.py:Local'",
        ),
        (lambda: fcil.compare("small.toml", methods=[FedAvg]), r"is a class; give an object .*: FedAvg\(\)"),
        (lambda: fcil.compare("small.toml", methods=FedAvg), r"is a class; give an object .*: FedAvg\(\)"),
        (lambda: fcil.compare("small.toml", methods=["ncm", 3]), r"methods: 3: must be a name, .* or a method"),
        (lambda: fcil.compare("small.toml", methods=3), r"methods: 3: must be a name, .* or a method"),
        (lambda: fcil.compare("small.toml"), 'nothing to compare; give methods="a,b"'),
        (lambda: fcil.compare("small.toml", methods="ncm", jobs=True), "jobs = True: must be a whole number"),
        (
            lambda: fcil.compare("small.toml", methods="fedavgg"),
            "^methods: fedavgg: no such method. Did you mean 'fedavg'",
        ),
        (lambda: fcil.compare("small.toml", methods=["ncm", "ncm"]), "^methods: ncm,ncm: names one twice"),
        (lambda: fcil.compare("small.toml", methods="ncm", seeds=[1, 1]), "^seeds: 1,1: names one twice"),
        (lambda: fcil.compare("small.toml", methods="ncm", jobs=-2), "jobs = -2: must be a whole number, at least 0"),
        (lambda: fcil.compare("small.toml", methods="ncm", jobs=1.5), r"jobs = 1\.5: must be a whole number"),
        (lambda: fcil.compare("small.toml", methods="ncm", on="mars"), 'on = \'mars\': must be "here" or "ray"'),
    ],
)
def test_a_slip_in_a_call_is_a_message_and_nothing_is_written(call, message, place):
    before = sorted(place.rglob("*"))
    with pytest.raises(fcil.ConfigError, match=message):
        call()
    assert sorted(place.rglob("*")) == before


def test_methods_as_objects_are_the_rows_of_their_names_with_settings(place):
    few = {**SMALL, "method": {}}
    objects = [FedAvg(rank=2), Ridge(layers=(1, 4), penalty="gcv"), NCM(), "lorm(rank=3)"]
    given = fcil.compare(few, methods=objects, seeds=[0], output="given")
    texts = ["fedavg(rank = 2)", 'ridge(layers = [1, 4], penalty = "gcv")', "ncm", "lorm(rank = 3)"]
    named = fcil.compare(few, methods=texts, seeds=[0], output="named")
    assert [row.label for row in given.rows] == [row.label for row in named.rows]
    assert [run.sha256 for run in given.runs] == [run.sha256 for run in named.runs]
    assert given.runs[0].config.method.settings == {"rank": 2}
    single = fcil.compare(few, methods=NCM(), seeds=[0], output="single")
    assert [run.sha256 for run in single.runs] == [given.runs[2].sha256]


def test_an_objects_settings_are_its_own_whatever_the_configuration_says_of_its_method(place):
    """SMALL has rank = 2 for fedavg, and 16 is the class's default, which a file need not write."""
    assert FedAvg().rank == 16
    run = fcil.run(SMALL, method=FedAvg(), output="run")
    assert run.config.method.settings["rank"] == 16
    compared = fcil.compare(SMALL, methods=[FedAvg()], seeds=[0], output="compared")
    assert compared.runs[0].config.method.settings["rank"] == 16
    assert compared.runs[0].sha256 == run.sha256
    with pytest.raises(fcil.ConfigError, match=r"method\.rank gives another value"):
        fcil.compare(SMALL, {"method.rank": 4}, methods=[FedAvg()], seeds=[0])
    with pytest.raises(fcil.ConfigError, match=r"method\.rank gives another value"):
        fcil.compare(SMALL, methods=[FedAvg()], seeds=[0], sweep={"method.rank": [4, 8]})
    with pytest.raises(fcil.ConfigError, match=r"method\.rank gives another value"):
        fcil.compare({**SMALL, "sweep": {"method.rank": [4, 8]}}, methods=[FedAvg()], seeds=[0])
    rows = {**SMALL, "compare": {"fedavg": {"train": {"lr": 1e-3}}}}
    with pytest.raises(fcil.ConfigError, match=r"has a row \[compare\.fedavg\]"):
        fcil.compare(rows, methods=[FedAvg(rank=4)], seeds=[0])


def test_numpys_numbers_are_numbers():
    settings = {"train.lr": np.float64(0.5), "tasks.sizes": np.array([4, 6]), "partition.clients": np.int64(3)}
    assert fcil.load_config("small.toml", settings) == fcil.load_config(
        "small.toml", {"train.lr": 0.5, "tasks.sizes": [4, 6], "partition.clients": 3}
    )
    assert fcil.load_config(SMALL, data={"train_limit": np.int32(7)}).data.train_limit == 7
    done = fcil.compare(SMALL, methods="ncm, fedavg", seeds=np.arange(1), sweep={"train.lr": np.array([1e-3])})
    assert [run.method for run in done.runs] == ["ncm", "fedavg"]


# ---- a run -----------------------------------------------------------------------------------------------------------


def test_figures_are_those_of_the_records(finished):
    summary = json.loads((finished.folder / "summary.json").read_text())
    assert finished.finished
    for name in ("final_accuracy", "average_accuracy", "forgetting", "upload_bytes", "download_bytes", "asked"):
        assert getattr(finished, name) == summary[name]
    assert (finished.method, finished.seed, finished.refused, finished.asked) == ("fedavg", 0, 0, 4)
    assert finished.seconds == summary["seconds"]["total"] > 0
    assert finished.sha256 == summary["sha256"]
    assert finished.accuracy.shape == (2, 2)
    assert np.isnan(finished.accuracy[0, 1])
    assert finished.accuracies[-1] == finished.final_accuracy
    assert finished.accuracies[0] == finished.accuracy[0, 0]
    assert finished.config == load_file(Path("small.toml"))
    assert {path.name for path in finished.plots} == {"accuracy.png", "matrix.png", "clients.png"}
    assert [e["event"] for e in finished.events].count("merged") == 2
    assert next(finished.events)["event"] == "phase"
    assert finished.state()["module"]["blocks.0.attn.qkv.lora_A"].shape == (2, 128)


def test_nothing_is_printed_unless_progress_is_asked_for(finished, place, capsys):
    again = fcil.run("small.toml", output=str(finished.folder))
    assert capsys.readouterr().out == capsys.readouterr().err == ""
    assert again == finished
    shown = fcil.run(SMALL, output=place / "shown", progress=True)
    assert "after task 2/2: accuracy" in capsys.readouterr().out
    assert shown.sha256 == finished.sha256


def test_the_command_goes_on_with_what_a_call_began_and_the_other_way(finished, capsys):
    assert main(["run", "small.toml", "--output", str(finished.folder)]) == 0
    assert "finished before" in capsys.readouterr().out
    assert main(["run", "small.toml", "--set", "train.lr=0.01"]) == 0
    stamp = Path("runs/small+train.lr=0.01/summary.json").stat().st_mtime_ns
    run = fcil.run("small.toml", {"train.lr": 0.01})
    assert run.folder == Path("runs/small+train.lr=0.01")
    assert (run.folder / "summary.json").stat().st_mtime_ns == stamp
    with pytest.raises(fcil.ConfigError, match=r"holds another run, which differs in train\.lr"):
        fcil.run("small.toml", output=run.folder)


def test_without_a_file_the_folder_is_named_after_the_settings(monkeypatch, tmp_path):
    from fcil.api import _name

    assert _name(SMALL) == _name(fcil.load_config(SMALL)) != _name({**SMALL, "train": {"rounds": 1}})
    assert _name("some/where/small.toml") == "small"


@pytest.fixture
def stopped(finished, tmp_path):
    """The finished run as if it had been killed in its second task."""
    folder = tmp_path / "stopped"
    shutil.copytree(finished.folder, folder)
    (folder / "summary.json").unlink()
    (folder / "checkpoint" / "000002.safetensors").unlink()
    lines = (folder / "accuracy_matrix.csv").read_text().splitlines()
    (folder / "accuracy_matrix.csv").write_text("\n".join(lines[:2]) + "\n")
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"event": "cli')
    return folder


def test_a_run_that_was_stopped_can_be_looked_at_and_gone_on_with(finished, stopped):
    run = fcil.open_run(str(stopped))
    assert not run.finished
    assert np.isnan([run.final_accuracy, run.average_accuracy, run.forgetting]).all()
    assert run.accuracy.shape == (1, 2)
    assert run.accuracies.tolist() == [finished.accuracies[0]]
    assert 0 < run.upload_bytes < finished.upload_bytes
    assert 0 < run.seconds < finished.seconds
    assert (run.sha256, run.asked, run.refused) == ("", 0, 0)
    assert set(run.state()) == {"module", "head"}
    assert "not finished: 1 of 2 tasks done" in repr(run)
    assert "not finished" in run._repr_html_()
    done = fcil.run(run.config, output=run.folder)
    assert done.sha256 == finished.sha256
    assert done.finished


def test_before_its_first_phase_a_run_says_so(finished, tmp_path):
    (tmp_path / "config.toml").write_text((finished.folder / "config.toml").read_text())
    run = fcil.open_run(tmp_path)
    assert (run.accuracy.shape, run.accuracies.shape, list(run.events), run.plots) == ((0, 0), (0,), [], [])
    assert (run.upload_bytes, run.seconds) == (0, 0)
    assert "0 of 2 tasks" in repr(run)
    assert "<table>" in run._repr_html_()
    with pytest.raises(fcil.ConfigError, match="has no good checkpoint"):
        run.state()
    with pytest.raises(fcil.ConfigError, match="no such folder"):
        fcil.open_run(tmp_path / "nowhere")


def test_it_is_readable_as_text_and_as_html(finished, tmp_path):
    assert "fedavg, seed 0" in repr(finished)
    assert f"final accuracy {100 * finished.final_accuracy:.1f} %" in repr(finished)
    html = finished._repr_html_()
    assert html.count("<table>") == html.count("<caption>") == html.count("</table>") == 2
    assert '<th scope="col">when learned</th>' in html
    assert "MB" in html
    odd = tmp_path / "<b>&"
    shutil.copytree(finished.folder, odd)
    table = json.loads((odd / "summary.json").read_text())
    (odd / "summary.json").write_text(json.dumps({**table, "refused": 3}))
    run = fcil.open_run(odd)
    assert "<b>" not in run._repr_html_()
    assert "&lt;b&gt;&amp;" in run._repr_html_()
    assert "3 of 4 updates missing" in run._repr_html_()
    assert "3 of 4 updates missing" in repr(run)


# ---- a method of one's own -------------------------------------------------------------------------------------------


def halved():
    """A class that no other process can import, as in a notebook's cell."""

    @dataclass(frozen=True, kw_only=True)
    class Halved(FedAvg):
        """Half of the loss."""

        share: float = 0.5

        def loss(self, step):
            return self.share * step.cross_entropy()

    return Halved


def test_a_shipped_method_may_be_given_by_name_by_section_or_as_an_object(finished):
    for method in ("fedavg", {"rank": 2}, {"name": "fedavg", "rank": 2}, FedAvg(rank=2)):
        run = fcil.run(SMALL, method=method, output=finished.folder)
        assert run.sha256 == finished.sha256
        assert run.method == "fedavg"


def test_a_method_of_ones_own_is_given_as_an_object(finished, tmp_path):
    kind = halved()
    run = fcil.run("small.toml", method=kind(rank=2), output=tmp_path / "own")
    assert run.method == f"Halved@{code_digest(kind)[:8]}"
    assert run.config.method.settings == {"rank": 2}
    assert run.sha256 != finished.sha256
    stamp = (run.folder / "summary.json").stat().st_mtime_ns
    assert fcil.run("small.toml", method=halved()(rank=2), output=run.folder).sha256 == run.sha256
    assert (run.folder / "summary.json").stat().st_mtime_ns == stamp
    with pytest.raises(fcil.ConfigError, match=r"differs in method\.share"):
        fcil.run("small.toml", method=kind(rank=2, share=0.25), output=run.folder)
    with pytest.raises(fcil.ConfigError, match="no such method"):
        fcil.run(run.config, output=run.folder)


def test_a_method_from_a_file_or_a_module_goes_by_its_name(tmp_path, monkeypatch):
    write(tmp_path, "kept_here.py")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("kept_here:Mine", f"{tmp_path / 'kept_here.py'}:Mine"):
        assert choice_of(method_class(name)(rank=4)) == (MethodChoice(name, {"rank": 4}), None)
    with pytest.raises(fcil.ConfigError, match=r"method\.pull \(kept_here:Mine\) = -1.0: must be at least 0"):
        choice_of(method_class("kept_here:Mine")(pull=-1.0))


def test_another_version_of_its_code_is_another_method():
    def version(body, name="Mine", doc=""):
        space = {"__name__": "cell", "FedAvg": FedAvg, "dataclass": dataclass}
        exec(f"@dataclass(frozen=True)\nclass {name}(FedAvg):\n    '''{doc}'''\n{body}", space)
        return space[name]

    bodies = [
        "    def loss(self, step): return 1 * step.cross_entropy()",
        "    def loss(self, step): return 2 * step.cross_entropy()",
        "    def loss(self, step): return step.mean()",
        "    @property\n    def adapter(self): return None",
        "    @property\n    def adapter(self): return (lambda: 1)()",
        "    stream = 'pooled'",
        "    def loss(self, step): return {1, 2, 3}",
    ]
    digests = [code_digest(version(body)) for body in bodies]
    assert len(set(digests)) == len(bodies)
    assert [code_digest(version(body, doc="Another text.")) for body in bodies] == digests
    moved = version("\n\n    def loss(self, step):\n        '''Said.'''\n        return 1 * step.cross_entropy()")
    assert code_digest(moved) == digests[0]


def test_on_ray_an_object_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(fcil.ConfigError, match=r'method\.name = "path/to/file\.py:Halved"'):
        fcil.run("small.toml", method=halved()(rank=2), exchange="ray", output=tmp_path / "ray")
    assert not (tmp_path / "ray").exists()


def test_settings_of_an_object_are_checked_and_must_fit_a_file():
    with pytest.raises(fcil.ConfigError, match=r"method\.rank \(lorm\) = 0: must be at least 1"):
        fcil.run("small.toml", method=LoRM(rank=0))

    @dataclass(frozen=True, kw_only=True)
    class Odd(FedAvg):
        table: object = None

    with pytest.raises(fcil.ConfigError, match=r"method\.table .*cannot be kept in config\.toml"):
        fcil.run("small.toml", method=Odd(table={1: 2}))


# ---- comparisons -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def comparison(place):
    return fcil.compare(place / "small.toml", methods=["fedavg", "ridge"], seeds=[0, 1], output=place / "pair")


def test_a_comparison_has_rows_runs_and_tables(comparison, place):
    assert [row.label for row in comparison.rows] == ["fedavg", "ridge"]
    assert [(run.method, run.seed) for run in comparison.runs] == [
        ("fedavg", 0), ("fedavg", 1), ("ridge", 0), ("ridge", 1)
    ]  # fmt: skip
    final = [run.final_accuracy for run in comparison.runs[:2]]
    assert comparison.rows[0].figures["final_accuracy_mean"] == pytest.approx(np.mean(final))
    assert comparison.rows[0].figures["final_accuracy_std"] == pytest.approx(np.std(final, ddof=1))
    assert comparison.markdown() == (place / "pair" / "comparison.md").read_text()
    assert [path.name for path in comparison.plots] == ["accuracy.png", "seconds.png", "traffic.png"]
    assert "<Comparison" in repr(comparison)
    assert "ridge" in repr(comparison)
    html = comparison._repr_html_()
    assert html.count("<tr>") == 3
    assert '<th scope="row" style="text-align:left">ridge</th>' in html
    assert "missing" not in html + repr(comparison)


def test_the_command_finds_what_the_call_has_run(comparison, place, capsys):
    stamps = [(run.folder / "summary.json").stat().st_mtime_ns for run in comparison.runs]
    words = ["--methods", "fedavg,ridge", "--seeds", "0,1", "--output", str(place / "pair")]
    assert main(["compare", "small.toml", *words]) == 0
    assert [(run.folder / "summary.json").stat().st_mtime_ns for run in comparison.runs] == stamps


def test_rows_with_missing_updates_say_so(comparison):
    rows = [replace(comparison.rows[0], missing=3, asked=60), comparison.rows[1]]
    lossy = replace(comparison, tables={"": rows})
    for text in (lossy.markdown(), repr(lossy), lossy._repr_html_()):
        assert "3 of 60" in text


def test_a_sweep_from_a_dict_has_a_table_for_each_value(comparison, place):
    swept = fcil.compare(
        {**SMALL, "sweep": {"partition.beta": [0.5, 5.0]}}, methods=["ridge"], seeds=[0], output=place / "swept"
    )
    assert list(swept.tables) == ["partition.beta=0.5", "partition.beta=5.0"]
    assert swept.markdown() == (place / "swept" / "comparison.md").read_text()
    names = [str(path.relative_to(swept.folder)) for path in swept.plots]
    of_each = [f"{value}/{name}.png" for value in swept.tables for name in ("accuracy", "traffic")]
    assert {*of_each, "sweep.png"} <= set(names)
    timed = [value for value, rows in swept.tables.items() if not rows[0].untimed]
    assert {name for name in names if "seconds" in name} == {f"{value}/seconds.png" for value in timed}
    assert swept._repr_html_().count("<caption>partition.beta=") == 2
    with pytest.raises(fcil.ConfigError, match=r"settings sweeps over it"):
        fcil.compare({**SMALL, "sweep": {"partition.beta": [0.5]}}, {"partition.beta": 1.0}, methods=["ridge"])


def test_a_grid_from_a_call_is_that_of_the_command_and_its_frame_has_a_column_for_each_setting(
    place, tmp_path, monkeypatch
):
    sweep = {"partition.beta": [0.5, 5.0], "train.batch": [8, 16], "zip": True}
    (tmp_path / "small.toml").write_text((place / "small.toml").read_text())
    monkeypatch.chdir(tmp_path)
    swept = fcil.compare("small.toml", methods=["ncm"], seeds=[0], sweep=sweep)
    assert list(swept.tables) == ["partition.beta=0.5,train.batch=8", "partition.beta=5.0,train.batch=16"]
    stamps = {run.folder: (run.folder / "summary.json").stat().st_mtime_ns for run in swept.runs}
    words = [w for text in ("partition.beta=0.5,5.0", "train.batch=8,16", "zip=true") for w in ("--sweep", text)]
    assert main(["compare", "small.toml", "--methods", "ncm", "--seeds", "0", *words]) == 0
    assert {p.parent: p.stat().st_mtime_ns for p in tmp_path.joinpath("runs").rglob("summary.json")} == {
        tmp_path / folder: stamp for folder, stamp in stamps.items()
    }
    monkeypatch.setitem(sys.modules, "pandas", Frames)
    frame = swept.to_pandas()
    assert [(row["partition.beta"], row["train.batch"]) for row in frame] == [("0.5", "8"), ("5.0", "16")]


def test_a_slip_in_a_comparison_is_found_before_anything_runs(place):
    with pytest.raises(fcil.ConfigError, match="Did you mean 'ridge'"):
        fcil.compare("small.toml", methods=["fedavg", "ridgee"], output=place / "none")
    with pytest.raises(fcil.ConfigError, match="settings: nothing to compare"):
        fcil.compare(SMALL, output=place / "none")
    assert not (place / "none").exists()


# ---- pandas, which may be missing ------------------------------------------------------------------------------------


class Frames:
    """In the place of pandas: a DataFrame is what it was made of."""

    DataFrame = staticmethod(lambda columns: columns)


def test_with_pandas_there_are_data_frames(finished, comparison, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", Frames)
    frames = finished.to_pandas()
    assert list(frames) == ["accuracy", "figures", "events"]
    assert frames["accuracy"]["after_task"] == [1, 2]
    assert frames["accuracy"]["task_1"] == finished.accuracy[:, 0].tolist()
    assert frames["figures"][0]["final_accuracy"] == finished.final_accuracy
    assert len(frames["events"]) == len(list(finished.events))
    rows = comparison.to_pandas()
    written = list(csv.DictReader((comparison.folder / "comparison.csv").read_text().splitlines()))
    assert [row["method"] for row in rows] == ["fedavg", "ridge"]
    for row, line in zip(rows, written, strict=True):
        assert row["upload_bytes_mean"] == float(line["upload_bytes_mean"])


def test_with_the_real_pandas_too(finished, comparison):
    pandas = pytest.importorskip("pandas")
    assert isinstance(finished.to_pandas()["accuracy"], pandas.DataFrame)
    assert comparison.to_pandas().set_index("method").loc["ridge", "seeds"] == 2


def test_without_pandas_it_is_said_what_to_install(finished, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        finished.to_pandas()


# ---- methods ---------------------------------------------------------------------------------------------------------


def test_methods_are_records_and_the_same_as_json(capsys):
    records = fcil.methods()
    assert [record.name for record in records] == method_names()
    lorm = next(record for record in records if record.name == "lorm")
    assert (lorm.source, lorm.merges, lorm.error) == ("arXiv 2410.17961", "rounds, tasks", "")
    assert {s.name for s in lorm.settings} == set(keys_of(LoRM))
    rank = next(s for s in lorm.settings if s.name == "rank")
    assert (rank.type, rank.default, rank.low, rank.required) == ("integer", 16, 1, False)
    assert main(["methods", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed == json.loads(json.dumps([record.to_dict() for record in records]))
    assert main(["methods", "lorm", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == next(one for one in listed if one["name"] == "lorm")


def test_every_record_is_a_method_with_a_sentence():
    for record in fcil.methods():
        assert record.summary, record
        assert not record.error
        assert issubclass(type(record), fcil.MethodInfo)
    assert issubclass(LoRM, Method)
