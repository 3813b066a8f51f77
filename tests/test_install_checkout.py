"""What `make` says while it installs."""

import subprocess
import sys
from pathlib import Path

import pytest

from fcil.install_checkout import steps, watched

PRINTED = """Obtaining file:///home/me/fcil
  Preparing editable metadata (pyproject.toml): started
Collecting torch<3,>=2.6 (from fcil==0.2.0)
  Downloading torch-2.14.1-cp311-cp311-manylinux_2_28_x86_64.whl.metadata (31 kB)
Collecting rich<15,>=14 (from fcil==0.2.0)
Downloading torch-2.14.1-cp311-cp311-manylinux_2_28_x86_64.whl (512.5 MB)
Downloading rich-14.0.0-py3-none-any.whl (243 kB)
Downloading nvidia_cublas-13.1.1.3-py3-none-manylinux_2_27_x86_64.whl (1.1 GB)
Installing collected packages: rich, nvidia-cublas, torch, fcil
Successfully installed fcil-0.2.0 nvidia-cublas-13.1.1.3 rich-14.0.0 torch-2.14.1
"""


def test_one_text_for_each_step_and_each_large_download():
    told = list(steps(PRINTED.splitlines()))
    assert [text.partition(",")[0] for text in told] == [
        "choosing and downloading packages; about 6 GB where torch comes with CUDA",
        "downloading torch",
        "downloading nvidia_cublas",
        "writing 4 packages",
    ]
    assert told[1].endswith("512.5 MB")


@pytest.mark.parametrize(("code", "shown"), [(0, False), (3, True)])
def test_what_pip_said_is_shown_whole_where_it_failed_and_only_there(tmp_path, capfd, code, shown):
    said = PRINTED + "ERROR: No matching distribution found for ray\n"
    (tmp_path / "said").write_text(said)
    script = "import sys; sys.stdout.write(open(sys.argv[1]).read()); sys.stderr.flush(); sys.exit(int(sys.argv[2]))"
    told = []
    assert watched([sys.executable, "-c", script, str(tmp_path / "said"), str(code)], told.append) == code
    assert (said in capfd.readouterr().out) is shown
    assert (told[-1] == "pip failed; all that it said:") is shown


def test_it_needs_nothing_that_is_installed():
    """It runs before anything is."""
    path = Path(__file__).parents[1] / "fcil" / "install_checkout.py"
    code = "import runpy, sys; runpy.run_path(sys.argv[1])"
    subprocess.run([sys.executable, "-I", "-S", "-c", code, str(path)], check=True)
