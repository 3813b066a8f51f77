"""Additivity is declared, and a class that changes its merge without a word about it is refused when it is made."""

from dataclasses import dataclass

import pytest

from fcil.engine.simulation import prepare
from fcil.errors import ConfigError
from fcil.method import Method
from fcil.registry.shipped import package
from strategies.fedavg import FedAvg

DRAFT = """
from dataclasses import dataclass
from strategies.fedavg import FedAvg

@dataclass(frozen=True, kw_only=True)
class Half(FedAvg):
    '''Half the mean.'''

    def merge(self, state, phase, updates):
        return state
"""


def test_a_method_is_not_additive_unless_it_says_so():
    class Summing(Method):
        def sums(self, phase, broadcast, updates):
            return {}

    assert not Method().additive
    assert not Summing().additive, "having `sums` says nothing about `merge`"
    assert FedAvg().additive


def test_a_merge_of_its_own_under_an_inherited_declaration_is_refused_when_the_class_is_made():
    with pytest.raises(TypeError) as error:

        @dataclass(frozen=True, kw_only=True)
        class Median(FedAvg):
            def merge(self, state, phase, updates):
                return state

    for part in ("Median", "`merge`", "Averaging", "`additive`", "run.aggregate_on_worker", "`sums` and `merge_sums`"):
        assert part in str(error.value)


def test_a_merge_that_comes_from_a_class_beside_the_declaration_is_refused_too():
    class Median:
        def merge(self, state, phase, updates):
            return state

    with pytest.raises(TypeError, match=r"Both: .*`merge` of Median.*Averaging"):

        class Both(Median, FedAvg):
            pass


def test_a_merge_with_its_declaration_is_taken_and_so_are_its_children():
    @dataclass(frozen=True, kw_only=True)
    class Median(FedAvg):
        additive = False

        def merge(self, state, phase, updates):
            return state

    @dataclass(frozen=True, kw_only=True)
    class Other(Median):
        strength: float = 1.0

    assert not Other().additive


def test_a_first_merge_and_other_sums_need_no_declaration():
    class First(Method):
        def merge(self, state, phase, updates):
            return state

    class OtherSums(FedAvg):
        def sums(self, phase, broadcast, updates):
            return super().sums(phase, broadcast, updates)

    assert not First().additive
    assert OtherSums().additive


def test_a_file_with_such_a_class_is_told_as_a_mistake_in_the_settings(tmp_path, monkeypatch, digits_config):
    (tmp_path / "half_of_it.py").write_text(DRAFT)
    monkeypatch.setattr(package(), "__path__", [*package().__path__, str(tmp_path)])
    with pytest.raises(ConfigError, match=r"strategies/half_of_it\.py cannot be imported: TypeError: Half: .*additive"):
        prepare(digits_config({"method": {"name": "half_of_it"}}))
