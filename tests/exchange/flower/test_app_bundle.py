"""What of the checkout travels to the nodes."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Path -> size of every file in the app's bundle."""
    folder = tmp_path_factory.mktemp("bundle")
    env = {
        **os.environ,
        "FLWR_HOME": str(folder / "home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    command = [Path(sys.executable).parent / "flwr", "build", "--app", ROOT]
    subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True, timeout=120)
    (file,) = folder.glob("*.fab")
    assert file.stat().st_size < 3_000_000
    with zipfile.ZipFile(file) as archive:
        return {info.filename: info.file_size for info in archive.infolist()}


def test_code_and_settings_travel(bundle):
    for room in ("fcil", "strategies"):
        wanted = {str(p.relative_to(ROOT)) for p in (ROOT / room).rglob("*.py")}
        assert wanted
        assert wanted <= bundle.keys()
    assert {str(p.relative_to(ROOT)) for p in (ROOT / "configs").rglob("*.toml")} <= bundle.keys()


def test_nothing_else_does(bundle):
    rooms = {path.split("/")[0] for path in bundle}
    assert not rooms & {"tests", "docs", "runs", ".venv", ".git", "build", "dist"}
    assert {Path(path).suffix for path in bundle} <= {".py", ".toml", ".md", ""}
