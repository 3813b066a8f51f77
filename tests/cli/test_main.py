"""The command line as a person uses it: by subprocess, exit codes and messages included."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from fcil.cli.arguments import output_folder
from fcil.cli.main import _parser, main
from fcil.method import Method

ROOT = Path(__file__).parents[2]
SMALL = """
data = {train_limit = 100, test_limit = 60}
model = {image_size = 16}
tasks = {count = 2}
partition = {clients = 2, min_samples = 1}
train = {rounds = 2, epochs = 1}
method = {name = "lorm", rank = 2}
[compare.fedavg.train]
lr = 1e-3
[compare.exact]
method = {name = "lorm", rank = 2, gram_b = "exact"}
"""


def fcil(*arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-m", "fcil.cli", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


def test_run_shows_progress_and_a_table_and_a_second_time_only_the_table(small, tmp_path, capsys):
    first = fcil("run", small, "--output", tmp_path / "run")
    assert first.returncode == 0, first.stderr
    assert "\x1b" not in first.stdout
    for word in ("task 1", "task 2", "final", "forgetting", "MB", "sha256"):
        assert word in first.stdout
    stamp = (tmp_path / "run" / "summary.json").stat().st_mtime_ns
    for again in (["run", str(small), "--output", str(tmp_path / "run")], ["resume", str(tmp_path / "run")]):
        assert main(again) == 0
        assert (tmp_path / "run" / "summary.json").stat().st_mtime_ns == stamp
        assert capsys.readouterr().out.splitlines()[-1] == first.stdout.splitlines()[-1]


def test_compare_writes_tables_and_plots_and_reuses_finished_runs(small, tmp_path):
    out = tmp_path / "out"
    assert main(["compare", str(small), "--seeds", "0,1", "--output", str(out)]) == 0
    names = {"comparison.csv", "comparison.md", "comparison.tex", "runs.csv", "figures.csv", "figures.md"}
    names |= {"accuracy.png", "traffic.png", "seconds.png", "differences.csv", "grid.json"}
    runs = {f"{label}-seed{seed}" for label in ("fedavg", "exact") for seed in (0, 1)}
    assert {p.name for p in out.iterdir()} == names | runs
    rows = list(csv.DictReader((out / "comparison.csv").read_text().splitlines()))
    assert [row["method"] for row in rows] == ["fedavg", "exact"]
    final = [json.loads((out / f"exact-seed{s}" / "summary.json").read_text())["final_accuracy"] for s in (0, 1)]
    column = next(name for name in rows[1] if "final" in name and "mean" in name)
    assert float(rows[1][column]) == pytest.approx(sum(final) / 2)
    stamps = [(out / run / "summary.json").stat().st_mtime_ns for run in sorted(runs)]
    assert main(["compare", str(small), "--seeds", "0,1", "--output", str(out)]) == 0
    assert [(out / run / "summary.json").stat().st_mtime_ns for run in sorted(runs)] == stamps


BAD = {
    "partition.bta=0.1": ["--set: partition.bta", "Did you mean 'beta'"],
    "partition.beta=0": ["partition.beta = 0", "greater than 0"],
    "partition.beta=-1": ["greater than 0"],
    "method.rank=0": ["method.rank", "at least 1"],
    "method.rank=1000": ["method.rank = 1000", "between 1 and 128"],
    "method.gram=1": ["unknown setting", "Did you mean"],
    "method.name=lorrm": ["no such method", "Did you mean 'lorm'"],
    "partition.clients=1000": ["partition.clients = 1000", "min_samples"],
    "tasks.sizes=[2,2,2]": ["tasks.sizes = [2, 2, 2]", "sum to 6", "10 classes"],
    "tasks.count=11": ["tasks.count = 11"],
    "model.weights=nowhere.safetensors": ["model.weights = 'nowhere.safetensors'"],
    "model.backbone=vit_tny": ["model.backbone = 'vit_tny'"],
    "model.image_size=15": ["model.image_size = 15", "patch size 4"],
    "run.device=cuda:99": ["run.device = 'cuda:99'", "GPUs"],
    "run.device=gpu": ["run.device = 'gpu'"],
    "data.name=cifar": ["data.name = 'cifar'"],
    "trian.lr=1": ["[trian]", "Did you mean 'train'"],
    "train.lr='fast'": ["train.lr = 'fast'", "must be number"],
    "nonsense": ["--set nonsense", "section.key=value"],
}


@pytest.mark.parametrize("setting", BAD)
def test_a_bad_setting_is_one_clear_message_and_exit_code_2(small, tmp_path, setting, capsys):
    assert main(["run", str(small), "--output", str(tmp_path / "run"), "--set", setting]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert len(output.err.splitlines()) == 1
    for word in BAD[setting]:
        assert word in output.err
    assert not (tmp_path / "run").exists()


def test_missing_data_says_what_to_put_where(small, tmp_path, capsys):
    settings = ["--set", "data.name=fashion-mnist", "--set", f"data.root={tmp_path}"]
    assert main(["run", str(small), "--output", str(tmp_path / "r"), *settings]) == 2
    output = capsys.readouterr().err
    assert "train-images-idx3-ubyte" in output
    assert str(tmp_path) in output


def test_messages_name_the_file(small, tmp_path, capsys):
    above = tmp_path / "above.toml"
    above.write_text('base = "small.toml"\n[partition]\nbeta = 0.0\n')
    assert main(["run", str(above)]) == 2
    assert f"{above}: partition.beta = 0.0: must be greater than 0" in capsys.readouterr().err
    assert main(["run", str(tmp_path / "none.toml")]) == 2
    assert "none.toml: no such file" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_one_message(small, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["run", str(small), "--output", str(tmp_path / "file" / "run")]) == 2
    assert "choose another --output" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    ["report FILE", "report FILE --html page.html", "resume FILE", "watch FILE", "export FILE --out out.safetensors",
     "compare FILE --methods lorm --output FILE", "tune FILE --methods lorm --grid train.lr=1 --output FILE"],
)  # fmt: skip
def test_a_file_in_the_place_of_a_folder_is_one_message(small, words, capsys):
    assert main(words.replace("FILE", str(small)).split()) == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert error.startswith(f"fcil: {small}: ")
    assert "a file, not the folder" in error or "cannot be written" in error


def test_the_records_of_a_run_are_no_configuration_and_the_message_says_why(tmp_path, capsys):
    (tmp_path / "config.toml").write_text("[provenance]\nfcil = '0.2.0'\n")
    assert main(["run", str(tmp_path / "config.toml")]) == 2
    assert "[provenance]: recorded by a run" in capsys.readouterr().err


def test_another_run_in_the_folder_is_refused(small, tmp_path):
    assert main(["run", str(small), "--output", str(tmp_path / "run")]) == 0
    result = fcil("run", small, "--output", tmp_path / "run", "--set", "train.lr=0.5")
    assert result.returncode == 2
    *before, message = result.stderr.splitlines()
    assert message.startswith("fcil: ")
    assert "holds another run" in message
    assert before in ([], ["loading code, data and weights"])  # where that takes longer than two seconds


def test_without_output_other_settings_have_a_folder_of_their_own(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "small").mkdir(parents=True)
    (tmp_path / "runs" / "small" / "config.toml").write_text("[train]\nlr = 0.1\n")  # what the plain config left
    command = ["run", str(small), "--set", "train.lr = 0.5"]
    assert main(command) == 0
    assert {p.name for p in (tmp_path / "runs").iterdir()} == {"small", "small+train.lr=0.5"}
    capsys.readouterr()
    assert main(command) == 0
    assert "finished before" in capsys.readouterr().out


def folder(*settings, command="run"):
    words = [word for setting in settings for word in ("--set", setting)]
    return output_folder(_parser().parse_args([command, "configs/x.toml", *words]))


def test_names_of_run_folders():
    assert str(folder()) == str(Path("runs/x"))
    assert folder("a.b=1", "c.d=2") == folder("c.d=2", "a.b=1") != folder("a.b=1")
    assert folder('model.weights="/some/where.npz"').parent == Path("runs")
    many = [f"section{k}.key=value" for k in range(50)]
    assert len(folder(*many).name) < 120
    assert folder(*many) != folder(*many[1:])
    folders = [folder(f"method.name={path}") for path in ("a/mine.py:Mine", "b/mine.py:Mine", "a_mine.py_Mine")]
    assert len(set(folders)) == 3
    assert all(path.parent == Path("runs") and ":" not in path.name for path in folders)
    assert folders[0].name.startswith("x+method.name=mine.py_Mine-")


SHOWN = {
    ("methods",): ("lorm", "fedavg", "Match the clients' responses"),
    ("methods", "lorm"): ("rank", "gram_b", "exact", "diagonal", "2410.17961", "16"),
    ("adapters",): ("lora", "snella", "loftq", "full", "head", "frozen features"),
    ("adapters", "lora"): ('adapter = "lora"', "targets"),
    ("adapters", "snella"): ("snella(sparsity = 0.8)", "beta1", "2510.24037", '"code" | "paper" | "none"'),
    ("adapters", "loftq"): ("2 | 4 | 16", "2310.08659"),
    ("adapters", "head"): ("no settings, and no rank",),
    ("settings",): ("[partition]", "beta", "> 0", "Dirichlet concentration", "[method]", "[train]", "pixels"),
    ("settings", "train"): ("[train]", "participation", "optimizer"),
    ("settings", "method"): ("fcil methods NAME",),
    ("data", "list"): ("digits", "fashion-mnist", "scikit-learn"),
    ("doctor",): ("torch", "cores", "bf16", "GPUs", "memory", "data digits"),
}


@pytest.mark.parametrize("words", SHOWN, ids=" ".join)
def test_small_commands(words, capsys):
    assert main(words) == 0
    output = capsys.readouterr().out
    for word in SHOWN[words]:
        assert word in output


def test_settings_of_one_section_or_one_alone(capsys):
    assert main(["settings", "train.participation"]) == 0
    output = capsys.readouterr().out
    assert "participation" in output
    assert "participants" not in output
    assert "[data]" not in output


@pytest.mark.parametrize(("name", "meant"), [("trian", "'train'"), ("train.lrr", "'lr'"), ("methd", "'method'")])
def test_a_misspelt_section_or_setting_is_told(name, meant, capsys):
    assert main(["settings", name]) == 2
    assert f"settings {name}: no such" in (told := capsys.readouterr().err)
    assert f"Did you mean {meant}" in told


def test_a_broken_draft_hides_no_other_method(monkeypatch, capsys):
    from fcil.registry import shipped

    original = shipped.import_module

    def broken(name):
        if name.endswith(".fedavg"):
            raise ImportError("No module named 'nope'")
        return original(name)

    monkeypatch.setattr(shipped, "import_module", broken)
    assert main(["methods"]) == 0
    output = capsys.readouterr().out
    assert "strategies/fedavg.py cannot be imported" in output
    assert "Match the clients' responses" in output
    assert main(["methods", "fedavg"]) == 2


@pytest.mark.parametrize(("classes", "message"), [([], "it defines none"), (["One", "Two"], "it defines 2: One, Two")])
def test_a_strategy_file_has_one_method(classes, message, monkeypatch, capsys):
    from fcil.registry import shipped

    original = shipped.import_module

    def other(name):
        if not name.endswith(".fedavg"):
            return original(name)
        module = ModuleType(name)
        for one in classes:
            setattr(module, one, type(one, (Method,), {"__module__": name}))
        return module

    monkeypatch.setattr(shipped, "import_module", other)
    assert main(["methods", "fedavg"]) == 2
    assert f"strategies/fedavg.py: must define exactly one subclass of fcil.method.Method; {message}" in " ".join(
        capsys.readouterr().err.split()
    )
    assert main(["methods"]) == 0


@pytest.mark.parametrize("command", ["run", "resume", "compare", "methods", "settings", "data", "doctor", "bench"])
def test_every_subcommand_has_help(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"usage: fcil {command}" in capsys.readouterr().out


def test_what_is_counted_begins_with_1(capsys):
    for option, what in (("--batch", "images"), ("--threads", "threads"), ("--repeats", "pairs")):
        assert main(["bench", option, "0"]) == 2
        assert f"must be a number of {what}, at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds=-1"], "write seeds as 0,1,2"),
        (["--seeds", "0,x"], "write seeds as 0,1,2"),
        (["--seeds", ","], "',': name at least one"),
        (["--methods", ","], "',': name at least one"),
    ],
)
def test_lists_are_neither_empty_nor_of_anything_else(words, message, capsys):
    assert main(["compare", "configs/quickstart.toml", *words]) == 2
    assert message in capsys.readouterr().err
