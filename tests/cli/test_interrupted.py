"""Ctrl-C: one line, exit code 130, and nothing that the next command would trip over."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from fcil.cli import main as commands
from fcil.cli import start
from fcil.cli.main import main
from fcil.data import cache

ROOT = Path(__file__).parents[2]
QUICK = "configs/quickstart.toml"
COMMANDS = {
    f"run {QUICK}": True,
    "resume nowhere": True,
    f"compare {QUICK} --methods lorm": True,
    f"tune {QUICK} --methods lorm --grid train.lr=1": True,
    "merge-bench configs/merge_bench/digits.toml": True,
    f"plan {QUICK}": False,
    f"data preview {QUICK}": False,
    "data prepare digits": False,
}
"""Command -> whether the same command goes on with what is done."""


def interrupted(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_says_it_in_one_line(words, monkeypatch, capsys):
    parser = commands._parser()

    def parse_args(arguments):
        args = type(parser).parse_args(parser, arguments)
        args.do = interrupted
        return args

    monkeypatch.setattr(commands, "_parser", lambda: SimpleNamespace(parse_args=parse_args))
    assert main(words.split()) == 130
    rest = "; the same command goes on with what is done so far" if COMMANDS[words] else ""
    assert capsys.readouterr() == ("", f"fcil: interrupted{rest}\n")


def test_also_while_the_commands_are_imported(monkeypatch, capsys):
    class Slow:
        main = property(interrupted)

    monkeypatch.setitem(sys.modules, "fcil.cli.main", Slow())
    assert start() == 130
    assert capsys.readouterr() == ("", "fcil: interrupted\n")


def test_images_that_were_half_decoded_are_not_left_behind(tmp_path, monkeypatch):
    from fcil.data.family import Part

    (tmp_path / "cache").mkdir()

    def decoded(images, *rest):
        yield images[0]
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "decoded", decoded)
    import numpy as np

    part = Part(np.zeros((3, 4, 4, 3), np.uint8), np.zeros(3, np.int64))
    with pytest.raises(KeyboardInterrupt):
        cache.write_part(tmp_path / "cache" / "train", part, 4, "images", {})
    assert not list((tmp_path / "cache").iterdir())


SMALL = """
data = {train_limit = 90, test_limit = 80}
model = {image_size = 16}
tasks = {count = 2}
partition = {clients = 2, min_samples = 1}
train = {rounds = 2, epochs = 1}
method = {name = "fedavg", rank = 2}
run = {device = "cpu"}
[bench]
methods = ["task_arithmetic", "lorm"]
"""


@pytest.mark.slow  # whole processes, each of which imports torch twice
@pytest.mark.parametrize(
    ("words", "awaited"),
    [
        ("run small.toml --output out", "task 1/2, round 1"),
        ("compare small.toml --methods fedavg,ties --seeds 0 --jobs 2 --output out", "jobs"),
        ("merge-bench small.toml --output out", "expert 1"),
        ("data preview small.toml --output out", ""),
    ],
)
def test_after_ctrl_c_the_same_command_ends_well(words, awaited, tmp_path):
    (tmp_path / "small.toml").write_text(SMALL)
    command = [sys.executable, "-u", "-m", "fcil.cli", *words.split()]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(  # a group of its own, to which a terminal would send Ctrl-C
        command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a shell's jobs ignore it
    )  # fmt: skip
    while awaited and awaited not in process.stdout.readline():
        if awaited == "jobs" and (tmp_path / "out" / "jobs" / "2.log").exists():
            break
        time.sleep(0.01)
    while not awaited and "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.01)  # while it imports torch
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    *doing, last = error.splitlines()  # what it was at, and one message
    assert last.startswith("fcil: interrupted")
    assert not [line for line in doing if line.startswith(("fcil:", "Traceback", " "))]
    again = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
