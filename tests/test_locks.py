"""Systems without POSIX file locks."""

import importlib
import sys

import pytest

from fcil.cli.main import main
from fcil.errors import ConfigError


@pytest.fixture
def no_fcntl(monkeypatch):
    """Import as Windows does: there is no `fcntl`, and nothing that uses it has been imported yet."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    for name in ("fcil.files", "fcil.engine.folder_lock", "fcil.engine.grid"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.usefixtures("no_fcntl")
def test_where_there_are_no_locks_one_message_says_what_to_do():
    with pytest.raises(ConfigError, match="WSL 2"):
        importlib.import_module("fcil.files")


@pytest.mark.usefixtures("no_fcntl")
def test_a_command_ends_with_that_message_and_without_a_traceback(tmp_path, capsys):
    assert main(["watch", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("fcil: this system has no POSIX file locks")
