"""`fcil new-method`: what it writes works as it is."""

import inspect
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location

import pytest

from fcil.cli.main import main
from fcil.cli.new_method import KINDS
from fcil.method import Method
from fcil.registry import method_class


def loaded(path):
    spec = spec_from_file_location(path.stem, path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_a_method_that_keeps_the_contract(kind, tmp_path, capsys):
    assert main(["new-method", "my_own2", "--kind", kind, "--output", str(tmp_path / "new")]) == 0
    assert f"fcil check-method {tmp_path / 'new' / 'my_own2.py'}" in capsys.readouterr().out
    method = method_class(str(tmp_path / "new" / "my_own2.py"))
    assert issubclass(method, Method)
    assert method.__name__ == "MyOwn2"
    tests = {name: test for name, test in vars(loaded(tmp_path / "new" / "test_my_own2.py")).items() if "test_" in name}
    quick = {name: test for name, test in tests.items() if not inspect.signature(test).parameters}
    assert "test_it_keeps_the_contract" in quick
    assert len(tests) >= 2
    for test in quick.values():  # those that carry out runs are tried by the slow test
        test()


@pytest.mark.slow
def test_pytest_passes_on_what_is_written(tmp_path):
    for kind in KINDS:
        assert main(["new-method", f"own_{kind.replace('-', '_')}", "--kind", kind, "--output", str(tmp_path)]) == 0
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "."], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "7 passed" in done.stdout


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("My-Method", "write it in small letters, digits and _"),
        ("2own", "write it in small letters"),
        ("class", "write it in small letters"),
        ("random", "is the name of a module that random.py would hide"),
        ("test_mine", "choose another"),
    ],
)
def test_a_name_that_no_module_should_have_is_refused(name, message, tmp_path, capsys):
    assert main(["new-method", name, "--output", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("there", ["mine.py", "test_mine.py"])
def test_nothing_is_overwritten(there, tmp_path, capsys):
    (tmp_path / there).write_text("work of a week")
    assert main(["new-method", "mine", "--output", str(tmp_path)]) == 2
    assert f"{there}: exists, and is not overwritten" in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(there, "work of a week")]
