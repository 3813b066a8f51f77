"""What is in the wheel: one import name, with methods, configurations and weights inside."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from own_methods import write

ROOT = Path(__file__).parent.parent


def built(root, out, **environment):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=root, check=True, capture_output=True, env=os.environ | environment)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    return built(ROOT, out)


def test_only_fcil_is_at_the_top_level(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"fcil"}
    assert {"fcil/strategies/lorm.py", "fcil/strategies/fedavg.py", "fcil/configs/quickstart.toml"} <= set(names)
    assert "fcil/assets/vit_tiny_fashion.safetensors" in names
    assert {"fcil/py.typed", "fcil/report/page/style.css", "fcil/report/page/script.js"} <= set(names)
    left_out = {"tests", "hatch_build.py", "install_checkout.py"}
    assert not [name for name in names if left_out & {*name.split("/")} or Path(name).match("test_*.py")]


def test_built_again_at_another_place_and_time_it_is_the_same_to_the_byte(wheel, tmp_path):
    for name in ("fcil", "strategies", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, copy_function=shutil.copyfile)  # with times of now
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, tmp_path / name)
        os.utime(tmp_path / name, (10**9, 10**9))
    again = built(tmp_path, tmp_path / "out", TZ="Asia/Tokyo")
    assert again.name == wheel.name
    assert again.read_bytes() == wheel.read_bytes()


def test_the_package_index_would_take_it(wheel):
    pytest.importorskip("twine", reason="needs twine, from the extra `dev`")
    checked = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", str(wheel)], capture_output=True)
    assert checked.returncode == 0, checked.stdout


def test_the_wheel_lists_the_methods_and_finds_its_weights_from_anywhere(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    (tmp_path / "strategies").mkdir()
    (tmp_path / "strategies" / "__init__.py").write_text("raise ImportError('a foreign package')")
    write(tmp_path)
    code = (
        "import fcil; from fcil.registry import build_method, method_names; from fcil.model.backbone import *;"
        "from fcil.strategies import LoraMethod; from fcil.strategies.ffa import FFA;"
        "assert isinstance(build_method('mine.py:Mine', {}), LoraMethod) and issubclass(FFA, LoraMethod);"
        "assert type(build_method('ffa', {})) is FFA;"
        "print(fcil.__file__, method_names(), build_method('lorm', {'rank': 2}), describe_backbone(Model()).width)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(site)}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert str(site) in result.stdout
    assert "'fedavg'" in result.stdout
    assert "'lorm'" in result.stdout
    assert result.stdout.rstrip().endswith("128")


def test_the_code_of_the_wheel_has_the_hash_of_the_checkout(wheel, tmp_path):
    """Nodes that installed the wheel and a server that runs from a checkout, or the reverse, have the same code."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = "from fcil.exchange.versions import code_sha256; print(code_sha256())"
    hashes = {
        subprocess.run(
            [sys.executable, "-P", "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(path)}, capture_output=True,
            text=True, check=True,
        ).stdout
        for path in (tmp_path / "site", ROOT)
    }  # fmt: skip
    assert len(hashes) == 1
    assert len(hashes.pop().strip()) == 64


def test_a_foreign_package_called_strategies_is_refused(tmp_path):
    (tmp_path / "fcil").symlink_to(ROOT / "fcil")
    (tmp_path / "strategies").mkdir()
    (tmp_path / "strategies" / "__init__.py").write_text("")
    code = "from fcil.registry import method_names; method_names()"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert "ConfigError" in result.stderr
    assert "another package of that name" in result.stderr
