"""`fcil deploy`: what it sends, what it shows, and how it ends."""

import json
import logging
import sys
import threading
from pathlib import Path

import pytest

from fcil.cli.deployment import deploy, flwr_command
from fcil.cli.deployment.flwr_command import FlwrError
from fcil.cli.main import main
from fcil.cli.server_errors import Stopped, as_one_message, told
from fcil.config import from_table, load_config
from fcil.data import progress
from fcil.errors import ConfigError, MergeError, RunError

QUICKSTART = Path(__file__).parents[3] / "configs" / "quickstart.toml"


def test_the_settings_that_are_sent_are_those_of_the_file(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(f'base = "{QUICKSTART}"\n[partition]\nclients = 3\n[compare.a.method]\nname = "ncm"\n')
    layers = json.loads(deploy._layers(path, ["method.rank=2", "partition.beta=0.25"]))
    assert from_table(layers) == load_config(path, ["method.rank=2", "partition.beta=0.25"])


@pytest.mark.parametrize(("line", "shown"), [
    ("\x1b[92mINFO \x1b[0m:      task 1, round 1: 3 updates in 5.0 s\n", "task 1, round 1: 3 updates in 5.0 s"),
    ("\x1b[93mWARNING \x1b[0m:   client 1: no reply\n", "client 1: no reply"),
    ("\x1b[92mINFO \x1b[0m:      Starting logstream for run_id `1`\n", ""),
    ("\x1b[92mINFO \x1b[0m:      \n", ""),
])  # fmt: skip
def test_lines_of_the_log_are_shown_without_colours_and_without_what_is_flowers_own(line, shown):
    assert deploy._shown(line) == shown


STOPS = """\
\x1b[92mINFO \x1b[0m:      task 1, round 1: 3 updates in 5.0 s
\x1b[91mERROR \x1b[0m:     the run stopped: RunError: client 1 raised RuntimeError: boom
Traceback (most recent call last):
  in its code
\x1b[92mINFO \x1b[0m:      after that
"""


def test_why_a_run_stopped_is_kept_for_its_end(monkeypatch):
    """The end of the command tells it, from what Flower keeps of the run; twice would be once too often."""
    monkeypatch.setattr(deploy, "find", lambda name: sys.executable)
    popen, shown = deploy.subprocess.Popen, []
    script = f"import sys; sys.stdout.write({STOPS!r})"
    monkeypatch.setattr(deploy.subprocess, "Popen", lambda command, **kind: popen([command[0], "-c", script], **kind))
    log = deploy._Log("17", "hospitals", None, shown.append)
    assert log.ended(30.0)
    log.close(10.0)
    assert shown == ["task 1, round 1: 3 updates in 5.0 s", "after that"]
    assert log.why == [
        "the run stopped: RunError: client 1 raised RuntimeError: boom",
        "Traceback (most recent call last):",
        "in its code",
    ]


@pytest.fixture
def answers(monkeypatch, tmp_path):
    """Flower's commands, which answer what a test says; and what was asked of them."""
    asked, ends = [], []

    class Log:
        why = ("the run stopped: RunError: 1 of 3",)

        def __init__(self, *_):
            pass

        def ended(self, seconds):
            return True

        def close(self, seconds):
            pass

    def flwr_json(command, *arguments, env=None):
        asked.append([command, *arguments])
        if command == "run":
            file = Path(arguments[arguments.index("--run-config") + 1])
            asked.append(file.read_text())
            return {"success": True, "run-id": "17"}
        end = ends.pop(0)
        if isinstance(end, Exception):
            raise end
        return {"success": True, "runs": [{"status": end[0], "status-details": end[1]}]}

    monkeypatch.setattr(deploy, "flwr_json", flwr_json)
    monkeypatch.setattr(deploy, "_Log", Log)
    monkeypatch.setattr(deploy, "_POLL_SECONDS", 0.0)
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    return asked, ends


def command(*more):
    return main(["deploy", str(QUICKSTART), "--federation", "hospitals", *more])


FAILED = "ServerApp failed with exception: "


@pytest.mark.parametrize(("ends", "code", "message"), [
    ([("running", ""), ("finished:completed", "")], 0, ""),
    ([("finished:failed", f"{FAILED}ConfigError: data.root: no such folder")], 2, "data.root: no such folder"),
    ([("finished:failed", f"{FAILED}RunError: 1 of 3 clients")], 1, "1 of 3 clients"),
    ([("finished:failed", f"{FAILED}division by zero")], 1, "division by zero"),
    ([("finished:failed", "No heartbeat received from the task")], 1, "No heartbeat"),
    ([("finished:stopped", "")], 1, "finished:stopped"),
    ([flwr_command.FlwrError("gone")] * 3 + [("finished:completed", "")], 0, ""),
    ([flwr_command.FlwrError("gone")] * 10, 1, "gone"),
])  # fmt: skip
def test_the_exit_code_tells_how_the_run_ended(answers, capsys, ends, code, message):
    answers[1].extend(ends)
    assert command() == code
    said = capsys.readouterr()
    assert message in said.err
    kept = isinstance(ends[-1], tuple) and ends[-1][1]  # then nothing of the log is needed
    assert ("the run stopped" in said.out) == (not kept)


def test_what_ctrl_c_does_is_said_before_it_takes_its_time(answers, monkeypatch, capsys):
    stopped = []

    def flwr(*words, env=None):
        stopped.append((words, capsys.readouterr().out.splitlines()[-1]))

    def interrupted(log, seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(deploy, "flwr", flwr)
    monkeypatch.setattr(deploy._Log, "ended", interrupted)
    assert command() == 130
    assert stopped == [(("stop", "17", "hospitals"), "interrupted; stopping the run")]


@pytest.mark.parametrize("line", ["interrupt this command", "load their code first"])
def test_ctrl_c_stops_a_run_as_soon_as_it_is_there(answers, monkeypatch, line):
    stopped = []

    def show(text):
        if line in text:
            raise KeyboardInterrupt

    monkeypatch.setattr(deploy, "flwr", lambda *words, env=None: stopped.append(words))
    monkeypatch.setattr(deploy, "deployed", lambda *arguments: "17")
    with pytest.raises(KeyboardInterrupt):
        deploy.carry_out(QUICKSTART.parent, "hospitals", QUICKSTART, [], "out", {}, show)
    assert stopped == [("stop", "17", "hospitals")]


def test_a_files_sweep_is_said_to_be_for_comparisons(answers, tmp_path, capsys):
    file = tmp_path / "swept.toml"
    file.write_text(f'base = "{QUICKSTART}"\n[sweep]\n"partition.beta" = [0.5, 0.1]\n')
    answers[1].extend([("finished:completed", "")] * 2)
    assert main(["deploy", str(file), "--federation", "hospitals"]) == 0
    assert "[sweep] is for fcil compare; this is one run, with partition.beta = " in capsys.readouterr().out
    assert command() == 0
    assert "[sweep]" not in capsys.readouterr().out


def test_the_superlink_is_asked_when_the_log_ends_and_seldom_before(answers, monkeypatch):
    """Each question is a process that takes a second of a core, which the run's own could use."""
    waits = [(False, 30.0), (False, 30.0), (True, 30.0)]

    def ended(log, seconds):
        over, expected = waits.pop(0)
        assert seconds == expected
        return over

    monkeypatch.setattr(deploy._Log, "ended", ended)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it slept while the log went on"))
    answers[1].extend([*[("running", "")] * 2, ("finished:completed", "")])
    assert command() == 0
    assert waits == []


def test_the_run_folder_is_absolute_and_the_app_is_this_checkout(answers):
    answers[1].append(("finished:completed", ""))
    command("--output", "/srv/run")
    sent, values = answers[0][:2]
    assert sent[:3] == ["run", str(QUICKSTART.parents[1]), "hospitals"]
    assert 'output = "/srv/run"' in values
    assert json.loads(values.split("settings = ", 1)[1].splitlines()[0].strip("'\"").encode().decode("unicode_escape"))


def test_a_slip_in_the_settings_is_told_before_anything_is_sent(answers, capsys):
    assert command("--set", "train.lrr=1") == 2
    assert "Did you mean 'lr'?" in capsys.readouterr().err
    assert answers[0] == []


SITES = ["--set", "data.name=folder", "--set", "partition.kind=sites"]


@pytest.mark.parametrize(("changes", "message"), [
    (["--set", "run.aggregate_on_worker=true", "--set", "method.name=fedavg"], "every node works for one client"),
    ([*SITES, "--set", "method.name=joint"], "trains on all images in one place, and those of sites stay there"),
])  # fmt: skip
def test_what_nodes_cannot_carry_out_is_told_before_anything_is_sent(answers, capsys, changes, message):
    assert command(*changes) == 2
    assert message in capsys.readouterr().err
    assert answers[0] == []


def test_a_connection_that_flower_does_not_know_is_told_with_those_it_knows(answers, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    config = tmp_path / "config.toml"
    config.write_text('[superlink]\ndefault = "north"\n[superlink.north]\naddress = "a:1"\n[superlink.local]\n')
    assert command() == 2
    said = capsys.readouterr().err
    assert f"--federation hospitals: no such connection in {config}. Known: north, local." in said
    assert answers[0] == []


@pytest.mark.parametrize("text", ["", "[superlink", "superlink = 1", "[superlink.hospitals]", None])
def test_what_cannot_be_read_of_flowers_connections_is_left_to_flower(answers, tmp_path, monkeypatch, text):
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    if text is not None:
        (tmp_path / "config.toml").write_text(text)
    answers[1].append(("finished:completed", ""))
    assert command() == 0


def test_a_folder_without_an_app_is_refused(answers, tmp_path, capsys):
    assert command("--app", str(tmp_path)) == 2
    assert "no Flower app here" in capsys.readouterr().err


def test_an_interrupt_stops_the_run(answers, monkeypatch):
    stopped = []
    monkeypatch.setattr(deploy, "flwr", lambda *words, env=None: stopped.append(words))
    monkeypatch.setattr(deploy, "_end", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert command() == 130
    assert stopped == [("stop", "17", "hospitals")]


# ---- in the ServerApp ------------------------------------------------------------------------------------------------


def raises(error):
    @as_one_message
    def app(grid, context):
        raise error

    return app


def logged(caplog, error):
    """What Flower's log would have of a ServerApp that ends in `error`, and the details that Flower keeps."""
    log = logging.getLogger("flwr")
    before = list(log.filters)
    try:
        raises(error)(None, None)
    except Exception as raised:
        with caplog.at_level(logging.ERROR, "flwr"):
            log.propagate, was = True, log.propagate
            log.error("%s raised an exception", "ServerApp", exc_info=raised)
            log.propagate = was
        return caplog.text, f"{FAILED}{raised}"
    finally:
        log.filters = before
    raise AssertionError


@pytest.mark.parametrize("error", [ConfigError("no folder"), RunError("too few"), MergeError("not finite")])
def test_an_error_that_the_user_can_mend_is_one_message(caplog, error):
    text, details = logged(caplog, error)
    assert f"the run stopped: {type(error).__name__}: {error}" in text
    assert "Traceback" not in text
    assert told(details) == (str(error), error.exit_code)


def test_another_error_keeps_its_traceback(caplog):
    text, details = logged(caplog, ZeroDivisionError("by zero"))
    assert "Traceback" in text
    assert told(details) == (details, 1)


def test_a_message_of_many_lines_stays_whole():
    with pytest.raises(Stopped, match="a\nb") as stopped:
        raises(RunError("a\nb"))(None, None)
    assert told(f"{FAILED}{stopped.value}") == ("a\nb", 1)


def test_that_a_run_is_being_sent_is_said_after_two_seconds_of_silence(monkeypatch, capsys):
    def slow(*arguments):
        assert said.wait(10)
        raise FlwrError("no SuperLink")

    said = threading.Event()
    tell = progress.tell
    monkeypatch.setattr(progress, "SILENCE", 0.01)
    monkeypatch.setattr(progress, "tell", lambda text: (tell(text), said.set()))
    monkeypatch.setattr(deploy, "deployed", slow)
    monkeypatch.setenv("FLWR_HOME", "/nowhere")
    assert main(["deploy", str(QUICKSTART), "--federation", "hospital", "--app", str(QUICKSTART.parents[1])]) == 1
    assert capsys.readouterr().err.splitlines()[0] == "sending code and settings to hospital"
