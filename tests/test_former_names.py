"""Settings with an earlier name, and settings that take a list or a text of a certain form."""

from dataclasses import dataclass
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcil.errors import ConfigError
from fcil.options import Option, describe, keys_of, parse
from fcil.registry import build_method, method_class


@dataclass(frozen=True, kw_only=True)
class Schema:
    random: Annotated[int, Option("how many", low=0, former="size")] = 5
    layers: Annotated[int | tuple[int, ...] | str, Option("which", low=1, forms=("spread:<k>", "auto"))] = ()
    kept: Annotated[str, Option("how", forms=("all", "top:<k>"))] = "all"


def build(**table):
    return parse(Schema, table, "method.{}".format)


# ---- earlier names ---------------------------------------------------------------------------------------------------


def test_an_earlier_name_is_read_as_the_present_one():
    assert build(size=7) == build(random=7) == Schema(random=7)


@pytest.mark.parametrize("method", ["ranpac", "lorm+ranpac"])
def test_ranpac_reads_the_number_of_random_features_by_its_earlier_name(method):
    assert build_method(method, {"size": 30}) == build_method(method, {"random": 30})
    assert build_method(method, {"size": 30}).random == 30


def test_complaints_have_the_name_that_was_given():
    with pytest.raises(ConfigError, match=r"^method\.size = -1: must be at least 0"):
        build(size=-1)
    with pytest.raises(ConfigError, match=r"^method\.random = -1: must be at least 0"):
        build(random=-1)


def test_both_names_are_refused_and_the_earlier_one_is_to_go():
    """Whichever comes first in the file."""
    for table in ({"random": 7, "size": 7}, {"size": 7, "random": 7}):
        with pytest.raises(ConfigError) as caught:
            build(**table)
        assert str(caught.value).startswith("method.size: ")
        assert "the earlier name of 'random', which is set as well; leave this one out" in str(caught.value)


def test_only_the_present_name_is_shown():
    assert [d.name for d in describe(Schema)] == ["random", "layers", "kept"]
    assert "size" not in keys_of(Schema)
    assert "size" not in [d.name for d in describe(method_class("ranpac"))]


def test_a_setting_without_an_earlier_name_has_none():
    with pytest.raises(ConfigError, match=r"^method\.: unknown setting"):
        parse(Schema, {"": 1}, "method.{}".format)
    with pytest.raises(ConfigError, match=r"^method\.size \(ncm\): unknown setting"):
        build_method("ncm", {"size": 3})


# ---- a list, or a text of a certain form -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3, 3), ([], ()), ([3], (3,)), ([6, 9, 12], (6, 9, 12)), ("auto", "auto"), ("spread:1", "spread:1"),
     ("spread:12", "spread:12")],
)  # fmt: skip
def test_lists_and_texts_of_the_forms_are_read(value, expected):
    assert build(layers=value).layers == expected


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", 'must be integer or list of integer or "spread:<k>" | "auto"'), ("all", 'or "spread:<k>" | "auto"'),
        ("spread:0", 'or "spread:<k>" | "auto"'), ("spread:", "must be"), ("spread:-1", "must be"),
        ("spread:1.5", "must be"), ("spread:03", "must be"), ("Auto", "must be"), (" auto", "must be"),
        ("auto\n", "must be"), ("spread:3,auto", "must be"), ("6", "must be"),
        (0, "must be at least 1"),
        ([0], "must be at least 1"), ([1, -2], "must be at least 1"), ([1.5], "must be integer"),
        (["auto"], "must be integer"), ([True], "must be integer"), ([[1]], "must be integer"),
        ([2**63], "64 bits"),
    ],
)  # fmt: skip
def test_other_values_are_refused_with_what_may_be_written(value, reason):
    with pytest.raises(ConfigError) as caught:
        build(layers=value)
    assert str(caught.value).startswith(f"method.layers = {value!r}: ")
    assert reason in str(caught.value)


@pytest.mark.parametrize("value", [1.5, True, {"a": 1}])
def test_what_is_neither_a_number_nor_a_list_nor_a_text_is_told_of_all(value):
    with pytest.raises(ConfigError) as caught:
        build(layers=value)
    assert "list of integer" in str(caught.value)
    assert '"auto"' in str(caught.value)


def test_the_shown_type_names_the_list_and_the_forms():
    shown = {d.name: d.type for d in describe(Schema)}
    assert shown["layers"] == 'integer or list of integer or "spread:<k>" | "auto"'
    assert shown["kept"] == '"all" | "top:<k>"'


@given(st.text(max_size=12))
def test_a_text_is_read_exactly_when_it_has_one_of_the_forms(text):
    head, _, number = text.partition(":")
    fits = text == "auto" or (head == "spread" and number.isascii() and number.isdigit() and number[0] != "0")
    if fits:
        assert build(layers=text).layers == text
    else:
        with pytest.raises(ConfigError):
            build(layers=text)


@given(st.integers(1, 10**9))
def test_every_whole_number_from_one_on_fits(k):
    assert build(layers=f"spread:{k}").layers == f"spread:{k}"
    assert build(kept=f"top:{k}").kept == f"top:{k}"


def test_closed_forms_without_a_choice_refuse_it():
    with pytest.raises(
        ConfigError, match=r"method\.layers \(ncm\) = 'auto': must be integer or list of integer or \"spread:<k>\"$"
    ):
        build_method("ncm", {"layers": "auto"})


def test_a_penalty_is_a_number_or_one_of_three_words():
    for value in (0.5, 3, "auto", "gcv", "accuracy"):
        assert build_method("ridge", {"penalty": value}).penalty == value
    with pytest.raises(ConfigError, match=r"Did you mean 'gcv'\?"):
        build_method("ridge", {"penalty": "gvc"})
    with pytest.raises(ConfigError, match="greater than 0"):
        build_method("ridge", {"penalty": 0})
