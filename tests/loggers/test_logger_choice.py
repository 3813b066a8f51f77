"""Which logger a name in `run.log` means, and what is told where it cannot work."""

from pathlib import Path

import pytest

from fcil.cli.main import main
from fcil.config import from_table, identity, to_table
from fcil.errors import ConfigError
from fcil.loggers import BUILT_IN, Logger, build_loggers, choice

OWN = """
from fcil.loggers import Logger

class Mine(Logger):
    \"\"\"Listens.\"\"\"
"""


def write(folder, source, name="mine.py"):
    (folder / name).write_text(source)
    return folder / name


def config(*names):
    return from_table([("test", {"run": {"log": list(names)}})])


def test_names_and_files_are_loggers(tmp_path):
    path = write(tmp_path, OWN)
    loggers = build_loggers(["csv", str(path), f"{path}:Mine"])
    assert [*loggers] == ["csv", str(path), f"{path}:Mine"]
    assert all(isinstance(logger, Logger) for logger in loggers.values())
    assert type(loggers[str(path)]) is type(loggers[f"{path}:Mine"])


def test_paths_are_made_absolute_in_the_settings_and_are_no_part_of_a_runs_identity(tmp_path, monkeypatch):
    write(tmp_path, OWN)
    monkeypatch.chdir(tmp_path)
    made = config("csv", "mine.py")
    assert made.run.log == ("csv", str(tmp_path / "mine.py"))
    assert from_table([("again", to_table(made))]) == made
    assert identity(to_table(made)) == identity(to_table(config()))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["tensorbord"], "run.log: \"tensorbord\": no such logger. Did you mean 'tensorboard'?"),
        (["csv", "csv"], 'run.log: names "csv" twice'),
        (["none.py"], "no such file: none.py"),
    ],
)
def test_a_slip_is_one_message_before_anything_runs(names, message, tmp_path, capsys):
    command = ["run", "configs/quickstart.toml", "--log", ",".join(names), "--output", str(tmp_path / "run")]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", [name for name, built_in in BUILT_IN.items() if built_in.package])
def test_a_missing_package_is_told_with_the_command_that_installs_it(name, monkeypatch):
    monkeypatch.setattr(choice, "find_spec", lambda package: None)
    with pytest.raises(ConfigError, match=rf'run.log: "{name}".*pip install "fcil\[{name}\]"') as refused:
        build_loggers([name])
    assert str(refused.value).count("out of run.log") == 1


def test_every_package_is_an_extra_of_fcil():
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for name, built_in in BUILT_IN.items():
        if built_in.package:
            assert [text.partition(">")[0] for text in project["optional-dependencies"][name]] == [built_in.package]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1", "must define one subclass of fcil.loggers.Logger; it defines none"),
        (OWN + OWN.replace("Mine", "Other"), "it defines 2: Mine, Other; say which"),
        ("import nothing_of_that_name", "line 1: cannot be imported"),
        (OWN + "    def __init__(self, place): ...\n", r"Mine\(\) failed: TypeError"),
    ],
)
def test_what_is_wrong_in_a_file_is_told(source, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        build_loggers([str(write(tmp_path, source))])


def test_a_class_that_is_not_there_is_told_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"has no logger 'Mein'\. Did you mean 'Mine'"):
        build_loggers([f"{write(tmp_path, OWN)}:Mein"])
