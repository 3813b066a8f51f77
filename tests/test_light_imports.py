"""A slip in the settings is answered without waiting for torch: what a person may see first imports nothing heavy."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "timm", "torchvision", "ray", "flwr", "sklearn", "pandas", "matplotlib", "scipy")
CONFIG = "configs/quickstart.toml"
SLIPS = {
    f"run {CONFIG} --set train.lrr=1": "train.lrr: unknown setting. Did you mean 'lr'?",
    f"run {CONFIG} --set method.rnak=4": "method.rnak (lorm): unknown setting. Did you mean 'rank'?",
    f"run {CONFIG} --set method.rank=0": "method.rank (lorm) = 0: must be at least 1",
    f"run {CONFIG} --set method.name=lorrm": "Did you mean 'lorm'?",
    f"run {CONFIG} --set data.name=digit": "Did you mean 'digits'?",
    f"run {CONFIG} --set tasks.count=11": "tasks.count = 11",
    f"run {CONFIG} --set run.min_clients=99": "run.min_clients = 99",
    "run none.toml": "none.toml: no such file",
    "resume nowhere": "nowhere: no such folder",
    f"plan {CONFIG} --set train.lrr=1": "train.lrr",
    f"compare {CONFIG} --methods lorm,fedavgg": "Did you mean 'fedavg'?",
    f"compare {CONFIG} --methods lorm,fedavg --set method.rnak=1": "method.rnak",
    "merge-bench none.toml": "none.toml: no such file",
    "data preview none.toml": "none.toml: no such file",
    "methods lorrm": "Did you mean 'lorm'?",
}
SHOWN = ("--help", "run --help", "--version", "settings", "methods", "methods lorm", "methods compose")


def python(code):
    """What `code` prints as its last line, as JSON; it may ask `heavy()` which heavy modules are loaded."""
    before = f"import json, sys\nheavy = lambda: [m for m in {HEAVY} if m in sys.modules]\n"
    done = subprocess.run([sys.executable, "-c", before + code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_settings_and_every_method_are_built_without_heavy_modules():
    names, loaded = python(
        "from pathlib import Path\n"
        "from fcil.config import load_config\n"
        "from fcil.engine.checks import check_settings\n"
        "from fcil.registry import build_method, method_names\n"
        "from fcil.report.methods import needs\n"
        f"check_settings(load_config(Path({CONFIG!r})))\n"
        "for name in method_names(): needs(build_method(name, {}))\n"
        "print(json.dumps([method_names(), heavy()]))"
    )
    assert len(names) >= 29
    assert loaded == []


@pytest.fixture(scope="module")
def commands():
    """Command -> exit code, what it printed, and the heavy modules that are loaded after it, all in one process."""
    return python(
        "import io\nfrom contextlib import redirect_stderr, redirect_stdout\nfrom fcil.cli.main import main\nout = {}\n"
        "from fcil.data import progress\nprogress.SILENCE = 100\n"  # however busy the machine is
        f"for words in {[*SLIPS, *SHOWN]}:\n"
        "    with redirect_stdout(io.StringIO()) as told, redirect_stderr(io.StringIO()) as wrong:\n"
        "        try:\n"
        "            code = main(words.split())\n"
        "        except SystemExit as end:\n"
        "            code = end.code or 0\n"
        "    out[words] = [code, told.getvalue(), wrong.getvalue(), heavy()]\n"
        "print(json.dumps(out))"
    )


@pytest.mark.parametrize("words", SLIPS)
def test_a_slip_is_answered_without_heavy_modules(words, commands):
    code, out, wrong, loaded = commands[words]
    assert (code, out, loaded) == (2, "", [])
    assert SLIPS[words] in wrong
    assert len(wrong.splitlines()) == 1


@pytest.mark.parametrize("words", SHOWN)
def test_what_is_only_shown_is_shown_without_heavy_modules(words, commands):
    code, out, wrong, loaded = commands[words]
    assert (code, wrong, loaded) == (0, "", [])
    assert "fcil" in out or "rank" in out or "LoRA" in out
