"""Methods named by a file, a module or an entry point: found, told apart, and refused with a message for people."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from own_methods import MINE, write

from fcil.config import MethodChoice
from fcil.errors import ConfigError
from fcil.method import Averaging, Method
from fcil.options import parse_call
from fcil.registry import absolute, build_method, label, method_class, method_names, sources
from fcil.registry.misnamed import miskinded, misnamed
from strategies.fedavg import FedAvg

ROOT = Path(__file__).parents[2]


def refused(name, where=""):
    with pytest.raises(ConfigError) as error:
        method_class(str(name), where)
    return str(error.value)


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", ["{}", "{}:Mine"])
def test_a_file_is_a_method_with_its_settings(tmp_path, written):
    method = build_method(written.format(write(tmp_path)), {"rank": 2, "pull": 3})
    assert isinstance(method, Averaging)
    assert (type(method).__name__, method.rank, method.pull) == ("Mine", 2, 3.0)
    with pytest.raises(ConfigError, match=r"method\.pull .*at least 0"):
        build_method(written.format(tmp_path / "mine.py"), {"pull": -1})


def test_a_file_that_is_imported_twice_is_one_class_and_one_that_has_changed_another(tmp_path):
    path = write(tmp_path)
    first = method_class(f"{path}:Mine")
    assert method_class(str(path)) is first
    path.write_text(MINE.replace("= 0.5", "= 0.6"))
    assert method_class(str(path)) is not first
    assert (build_method(str(path), {}).pull, first().pull) == (0.6, 0.5)
    path.write_text(MINE)
    assert method_class(str(path)) is first


def test_a_function_that_looks_like_a_misspelt_one_is_refused_unless_it_is_called(tmp_path):
    path = write(tmp_path, source=MINE + "\n    def losss(self, step):\n        return step.cross_entropy()\n")
    assert refused(path).endswith("Mine.losss: nothing calls it. Did you mean 'loss'? If not, begin its name with _")
    path.write_text(MINE + "\n    def _losss(self, step):\n        return 0\n")
    assert method_class(str(path)).__name__ == "Mine"
    path.write_text(
        MINE + "\n    def losses(self, step):\n        return step.cross_entropy()\n"
        "\n    def loss(self, step):\n        return self.losses(step)\n"
    )
    assert method_class(str(path)).__name__ == "Mine"
    path.write_text(
        MINE + "\n    def losses(self, step):\n        return step.cross_entropy()\n"
        "\n\nclass Other:\n    def of(self, method, step):\n        return method.losses(step)\n"
    )
    assert method_class(str(path)).__name__ == "Mine"
    path.write_text(
        MINE + "\n    def merge_sum(self, state, phase, sums):\n        return state\n"
        "\n\n@dataclass(frozen=True, kw_only=True)\nclass Leaf(Mine):\n    'Its base has the misspelt one.'\n"
    )
    assert "Mine.merge_sum: nothing calls it. Did you mean 'merge_sums'?" in refused(f"{path}:Leaf")
    for name in method_names():
        assert not misnamed(method_class(name)), name


def test_a_setting_that_only_others_have_and_a_file_that_lies_beside_are_named(tmp_path, monkeypatch):
    with pytest.raises(
        ConfigError, match=r"unknown setting. .* \d+ other methods have one of this name, ridge has none"
    ):
        build_method("ridge", {"rank": 4})
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert refused("mnie.py").endswith("Did you mean 'mine.py'?")


def test_files_of_one_name_do_not_meet(tmp_path):
    one, two = (write(tmp_path / f, source=MINE.replace("= 0.5", f"= {v}")) for f, v in (("a", 1.5), ("b", 2.5)))
    same = write(tmp_path / "c", source=MINE.replace("= 0.5", "= 1.5"))
    kinds = [method_class(str(path)) for path in (one, two, same)]
    assert len(set(kinds)) == 3
    assert [kind().pull for kind in kinds] == [1.5, 2.5, 1.5]
    assert all(sys.modules[kind.__module__].__file__ == str(p) for kind, p in zip(kinds, (one, two, same), strict=True))


def test_annotations_as_text_are_understood(tmp_path):
    path = write(tmp_path, source="from __future__ import annotations\n" + MINE)
    assert build_method(str(path), {"pull": 1}).pull == 1.0


def test_a_path_is_relative_to_the_current_folder_and_then_to_the_apps(tmp_path, monkeypatch):
    write(tmp_path / "app" / "mine", "one.py", MINE.replace("= 0.5", "= 7.0"))
    write(tmp_path, "here.py")
    monkeypatch.chdir(tmp_path)
    assert build_method("here.py", {}).pull == 0.5
    assert "no such file: mine/one.py" in refused("mine/one.py")
    monkeypatch.syspath_prepend(tmp_path / "app")
    assert build_method("mine/one.py:Mine", {}).pull == 7.0
    write(tmp_path / "mine", "one.py")
    assert build_method("mine/one.py:Mine", {}).pull == 0.5
    assert build_method("strategies/fedavg.py:FedAvg", {}).rank == 16  # that of fcil/


def test_a_shipped_file_by_its_path_is_the_shipped_class():
    assert method_class(str(ROOT / "strategies" / "fedavg.py")) is FedAvg


@pytest.mark.parametrize("way", ["from .fedavg import FedAvg", "from fcil.strategies.fedavg import FedAvg",
                                 "from strategies.fedavg import FedAvg"])  # fmt: skip
def test_every_way_to_a_shipped_method_leads_to_its_class(tmp_path, way):
    path = write(tmp_path, source=f"{way}\nclass Mine(FedAvg):\n    '''Mine.'''\n")
    assert issubclass(method_class(str(path)), FedAvg)


def test_mistakes_in_files_are_told(tmp_path, monkeypatch):
    path = write(tmp_path)
    assert refused(tmp_path / "none.py") == f"method.name = '{tmp_path}/none.py': no such file: {tmp_path}/none.py"
    monkeypatch.chdir(tmp_path)
    assert f"no such file: none.py in {tmp_path}" in refused("none.py:Mine")
    assert f"{path} has no class 'Mina'. Did you mean 'Mine'?" in refused(f"{path}:Mina")
    assert "'annotated'" not in refused(f"{path}:Anotated").lower()  # only methods are offered
    assert f"Option in {path} is no subclass of fcil.method.Method" in refused(f"{path}:Option")
    assert "Did you mean" not in refused(f"{path}:Zzzzz")
    (tmp_path / "folder.py").mkdir()
    assert "no such file" in refused("folder.py")
    assert "A file is written path/to/file.py:Class" in refused("some/where")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\n", r"must define one subclass of fcil\.method\.Method; it defines none"),
        (MINE + "class Other(Mine):\n    pass\n", r"it defines 2: Mine, Other; say which, .*draft\.py:Mine"),
        ("x = 1\ny = nothing\n", r"draft\.py, line 2: cannot be imported: NameError: name 'nothing' is not defined"),
        ("\n\nx = (1\n", r"draft\.py, line 3: cannot be imported: SyntaxError: '\(' was never closed"),
        ("import nowhere\n", r"draft\.py, line 1: cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        ("import beside\n", r"draft\.py, line 1: .*beside\.py lies beside it, but .* one file.*package\.module:Class"),
        ("raise SystemExit(3)", r"draft\.py, line 1: cannot be imported: SystemExit: 3"),
        ("import json\nx = 0\njson.loads('{')", r"draft\.py, line 3: cannot be imported: JSONDecodeError"),
        (b"x = '\xff'", r"cannot be imported: SyntaxError"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_told_with_its_line(tmp_path, source, message):
    write(tmp_path, "beside.py", "")
    path = tmp_path / "draft.py"
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    assert re.search(message, refused(path))
    assert re.search(message, refused(path))  # nothing half imported is left
    assert refused(path, "here").startswith("here: ")


# ---- settings --------------------------------------------------------------------------------------------------------


def test_paths_in_settings_are_made_absolute(tmp_path, monkeypatch):
    path = write(tmp_path / "a b")
    monkeypatch.chdir(tmp_path)
    assert absolute("a b/mine.py:Mine") == f"{path}:Mine"
    assert absolute(" a b/mine.py(pull = 1)") == f" {path}(pull = 1)"
    assert absolute("core_space(host = 'a b/mine.py:Mine(pull = 1)')") == f"core_space(host = '{path}:Mine(pull = 1)')"
    for other in ("lorm", "none.py:Mine", "pkg.mod:Class", str(path), "ties(top = 0.3)", "a.pyc", "see mine.py, there"):
        assert absolute(other) == other
    choice = MethodChoice("a b/mine.py", {"round": "a b/mine.py:Mine", "several": ["a b/mine.py", 1], "x": 2})
    assert choice.name == str(path)
    assert choice.settings == {"round": f"{path}:Mine", "several": [str(path), 1], "x": 2}
    assert choice.label == "mine.py"


def test_labels():
    assert [label(name) for name in ("lorm", "/a/b.py:C", "b.py", "p.q:C")] == ["lorm", "b.py:C", "b.py", "p.q:C"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("ties", ("ties", {})), ("lorm+ranpac (rank = 2)", ("lorm+ranpac", {"rank": 2})),
        ("a/b.py:Mine(x = 1)", ("a/b.py:Mine", {"x": 1})), ("a (1)/b c.py", ("a (1)/b c.py", {})),
        ("pack.mod:Mine(x = 'a.py')", ("pack.mod:Mine", {"x": "a.py"})), ("my-own.one", ("my-own.one", {})),
    ],
)  # fmt: skip
def test_calls(text, parts):
    assert parse_call(text, "here") == parts


@pytest.mark.parametrize("text", ["", "ties(", "ties(top)", "two words", "a/b:Mine", "(x = 1)"])
def test_what_is_no_call_is_told(text):
    with pytest.raises(ConfigError, match="here: write a method"):
        parse_call(text, "here")


def test_parts_of_composed_methods_live_anywhere_too(tmp_path, monkeypatch):
    path = write(tmp_path)
    method = build_method("compose", {"round": f"{path}:Mine(pull = 2.0)", "rank": 3})
    assert (method._round.pull, method._round.rank) == (2.0, 3)
    with pytest.raises(ConfigError, match=r"method\.round = '.*mine\.py:Mina': .* has no class 'Mina'"):
        build_method("compose", {"round": f"{path}:Mina"})
    with pytest.raises(ConfigError, match=r"method\.round = .*: pull = -1: must be at least 0"):
        build_method("compose", {"round": f"{path}:Mine(pull = -1)"})


# ---- sources ---------------------------------------------------------------------------------------------------------


def test_sources_are_the_files_of_the_class_its_parts_and_their_bases(tmp_path, monkeypatch):
    path = write(tmp_path)
    (base,) = sources(build_method(str(path), {}))
    assert (base.name, base.path, base.inside) == (str(path), path, "")
    assert len(base.sha256) == 64
    assert sources(build_method("lorm", {})) == sources(Method()) == []
    write(tmp_path, "own_base.py")
    monkeypatch.syspath_prepend(tmp_path)
    other = write(tmp_path / "b", "other.py", "from own_base import Mine\nclass Other(Mine):\n    '''Other.'''\n")
    files = sources(build_method("compose", {"round": f"{path}:Mine", "task": "lorm"}))
    assert [file.name for file in files] == [str(path)]
    files = sources(build_method(str(other), {}))
    assert [(file.name, file.inside) for file in files] == [(str(other), "b/other.py"), ("own_base", "own_base.py")]


# ---- the import path of what is shipped ------------------------------------------------------------------------------

SAME = """
{first}
{second}
import sys, fcil.strategies, strategies
assert fcil.strategies is strategies
assert sys.modules["fcil.strategies.fedavg"] is sys.modules["strategies.fedavg"]
assert one.FedAvg is two.FedAvg and one.__spec__.name == "strategies.fedavg" == one.__name__
from fcil.strategies import LoraMethod
from strategies._lora import LoraMethod as Again
from strategies.ffa import FFA
assert LoraMethod is Again and issubclass(FFA, LoraMethod)
for missing in ("fcil.strategies.nowhere", "fcil.strategies.fedavg.x"):
    try:
        __import__(missing)
    except ModuleNotFoundError as error:
        assert error.name.startswith(missing[:20]), error
    else:
        raise AssertionError(missing)
"""
WAYS = "import fcil.strategies.fedavg as one", "import strategies.fedavg as two"


@pytest.mark.parametrize("ways", [WAYS, WAYS[::-1]])
def test_shipped_methods_have_one_class_by_both_names(ways):
    code = SAME.format(first=ways[0], second=ways[1])
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---- of another kind than the contract's -----------------------------------------------------------------------------

KINDS = """
from dataclasses import dataclass
from fcil.strategies import LoraMethod

@dataclass(frozen=True, kw_only=True)
class Mine(LoraMethod):
    {line}
"""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "def keeps_modules(self): return False",
            "keeps_modules is a property of the contract: put @property",
        ),
        ("loss = property(lambda self: 1)", "Mine.loss is a function of the contract, which is called"),
        ("loss: str = 'mse'", "Mine.loss is a function of the contract: call the setting otherwise"),
        (
            "adapter: str = 'lora'",
            "Mine.adapter is a property of the contract that gives an Adapter, and no text",
        ),
        ("adapter: 'Annotated[str, 1]'", r"adapter_text, Annotated\[str, Option\(.*parse_adapter"),
        ("adapter = 'lora'", "and let the property adapter return"),
        ("mu: float", "method.mu.*: not given, and the setting has no default"),
    ],
)
def test_members_of_another_kind_and_settings_without_a_value_are_refused(tmp_path, line, message):
    path = tmp_path / "kinds.py"
    path.write_text(KINDS.format(line=line))
    with pytest.raises(ConfigError, match=message):
        build_method(str(path), {})


def test_no_shipped_method_has_a_member_of_another_kind():
    assert not {name: found for name in method_names() if (found := miskinded(method_class(name)))}
