"""Methods in modules and in installed packages that announce them."""

import pytest
from own_methods import MINE, write

from fcil.cli.main import main
from fcil.errors import ConfigError
from fcil.registry import build_method, installed_names, method_class, sources


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Installs packages that announce methods: `site("package", mine="package:Mine")`."""

    def install(package, **announced):
        metadata = tmp_path / f"{package}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in announced.items()]
        (metadata / "entry_points.txt").write_text("\n".join(["[fcil.methods]", *lines, ""]))
        monkeypatch.syspath_prepend(tmp_path)
        return tmp_path

    return install


def refused(name):
    with pytest.raises(ConfigError) as error:
        method_class(name)
    return str(error.value)


def test_a_module_is_named_with_its_class(tmp_path, monkeypatch):
    write(tmp_path / "pack_a", "__init__.py", "from .deep import Mine\n")
    write(tmp_path / "pack_a", "deep.py")
    monkeypatch.syspath_prepend(tmp_path)
    method = build_method("pack_a.deep:Mine", {"pull": 2})
    assert method_class("pack_a:Mine") is type(method)
    assert [(file.name, file.inside) for file in sources(method)] == [("pack_a.deep", "pack_a/deep.py")]
    assert "pack_a.deep has no class 'Mina'. Did you mean 'Mine'?" in refused("pack_a.deep:Mina")
    assert "no module 'pack_a.dep' here" in refused("pack_a.dep:Mine")
    assert "Option in pack_a.deep is no subclass" in refused("pack_a.deep:Option")


def test_a_module_that_is_not_there_or_fails_is_told(tmp_path, monkeypatch):
    write(tmp_path, "pack_b.py", "x = 1\nfrom math import nothing\n")
    write(tmp_path, "pack_c.py", "import json\n\n\njson.loads('{')\n")
    write(tmp_path, "pack_d.py", "x = (\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "no module 'nowhere' here; install its package" in refused("nowhere.at.all:Mine")
    assert f"{tmp_path}/pack_b.py, line 2: cannot be imported: ImportError" in refused("pack_b:Mine")
    assert "pack_d.py, line 1: cannot be imported: SyntaxError" in refused("pack_d:Mine")
    assert "JSONDecodeError" in refused("pack_c:Mine")
    assert "cannot be imported" in refused(":Mine")


def test_an_entry_point_is_a_name(site, capsys):
    write(site("good_pack", mine="good_mod:Mine", broken="good_mod:Nothing"), "good_mod.py")
    assert installed_names() == ["broken", "mine"]
    assert build_method("mine", {"pull": 3}).pull == 3.0
    assert [file.name for file in sources(build_method("mine", {}))] == ["good_mod"]
    assert build_method("compose", {"round": "mine(pull = 4.0)"})._round.pull == 4.0
    assert "no such method. Did you mean 'mine'?" in refused("mime")
    said = refused("broken")
    assert "entry point 'broken' of package 'good_pack', good_mod:Nothing: good_mod has no class 'Nothing'" in said
    assert main(["methods"]) == 0
    shown = capsys.readouterr().out
    assert "Averages pairs, like many others." in shown
    assert "has no class 'Nothing'" in shown
    assert main(["methods", "mine"]) == 0
    assert "strength of nothing" in capsys.readouterr().out


def test_an_entry_point_that_cannot_be_imported_is_told(site):
    write(site("bad_pack", mine="bad_mod:Mine", gone="gone_mod:Mine"), "bad_mod.py", "\nx = y\n")
    said = refused("mine")
    assert "entry point 'mine' of package 'bad_pack', bad_mod:Mine: " in said
    assert "bad_mod.py, line 2: cannot be imported: NameError: name 'y' is not defined" in said
    assert "no module 'gone_mod' here" in refused("gone")


def test_an_entry_point_of_a_shipped_name_is_refused_and_both_are_still_to_be_had(site):
    write(site("proud_pack", fedavg="proud_mod:Mine"), "proud_mod.py")
    said = refused("fedavg")
    assert "package 'proud_pack' announces an entry point of that name, which is a shipped method's" in said
    for name in ("proud_mod:Mine", "fcil.strategies.fedavg:FedAvg"):
        assert name in said
        assert method_class(name).__name__ == name.rpartition(":")[2]
    assert method_class("lorm").__name__ == "LoRM"


def test_two_packages_of_one_name_are_told_apart_by_hand(site):
    site("one_pack", mine="one_mod:Mine")
    write(site("two_pack", mine="two_mod:Mine"), "two_mod.py", MINE)
    said = refused("mine")
    assert "several packages announce 'mine'" in said
    assert "package 'two_pack' (two_mod:Mine)" in said
    assert method_class("two_mod:Mine").__name__ == "Mine"
