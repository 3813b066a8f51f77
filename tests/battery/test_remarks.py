"""What `fcil check-method` remarks on without calling it a mistake."""

import pytest
from own_methods import MINE, write

from fcil.battery import remarks
from fcil.cli.main import main
from fcil.cli.new_method import KINDS, new_method
from fcil.registry import method_class, method_names

ODD = (
    MINE
    + """
    mu = 0.1
    kind = "plain"
    LIMIT = 3
    _inner = 2
    additive = True

    def local_los(self, step):
        return step.cross_entropy()

    def helper(self, step):
        return 0

    def loss(self, step):
        return step.cross_entropy() + self.helper(step)
"""
)


def of(path):
    return [(remark.message, remark.place) for remark in remarks(method_class(str(path)))]


def test_constants_that_look_like_settings_and_functions_that_nobody_calls_are_told_with_their_lines(tmp_path):
    path = write(tmp_path, source=ODD)
    lines = ODD.splitlines()
    mu, kind, hook = of(path)
    assert "mu = 0.1 is a constant of Mine and no setting" in mu[0]
    assert 'mu: Annotated[float, Option("what it means")] = 0.1' in mu[0]
    assert "MU for a constant" in mu[0]
    assert "kind = 'plain' is a constant of Mine" in kind[0]
    assert "nothing in this file calls Mine.local_los" in hook[0]
    assert "did you mean 'local'?" in hook[0]
    for (_, place), text in zip((mu, kind, hook), ("mu = 0.1", "kind = ", "def local_los"), strict=True):
        assert text in lines[int(place.rpartition(":")[2]) - 1]


def test_functions_of_an_adapter_are_looked_at_too(tmp_path):
    source = (
        MINE + "\n\nfrom fcil.model.lora import Lora\n\n\nclass Own(Lora):\n    def next_rounds(self):\n        pass\n"
    )
    ((message, _),) = of(write(tmp_path, source=source))
    assert message.endswith("did you mean 'next_round'?")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_still_to_do_in_a_new_file_is_told(kind, tmp_path):
    path, _ = new_method("fresh", kind, tmp_path)
    remarked = of(path)
    assert len(remarked) == 2
    assert remarked[0] == ("Fresh: TODO say in a sentence what it does.", f"{path}:1")
    assert remarked[1][0].startswith("TODO: what")


def test_the_command_prints_them_and_they_are_no_failures(tmp_path, monkeypatch, capsys):
    write(tmp_path, source=ODD)
    monkeypatch.chdir(tmp_path)
    assert main(["check-method", "mine.py"]) == 0
    *_, mu, kind, hook, verdict = capsys.readouterr().out.splitlines()
    assert mu.startswith("remark: mine.py:15: mu = 0.1 is a constant")
    assert kind.startswith("remark: mine.py:16: kind")
    assert hook.startswith("remark: mine.py:21: nothing in this file calls")
    assert verdict.startswith("mine.py keeps to the contract")


def test_there_is_nothing_to_remark_on_shipped_methods():
    assert {name: told for name in method_names() if (told := remarks(method_class(name)))} == {}
