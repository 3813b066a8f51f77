"""Settings from annotated dataclasses."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest

from fcil.errors import ConfigError
from fcil.options import Option, describe, nearest, parse


@dataclass(frozen=True, kw_only=True)
class Schema:
    count: Annotated[int, Option("how many", "images", low=1, high=9)] = 3
    rate: Annotated[float, Option("how fast", above=0)] = 0.5
    kind: Annotated[Literal["mean", "median"], Option("which")] = "mean"
    sizes: Annotated[tuple[int, ...], Option("each", low=1)] = ()
    flag: Annotated[bool, Option("whether")] = False
    name: str = "x"
    maybe: Annotated[int | None, Option("or none")] = None
    strength: Annotated[float | Literal["auto"], Option("a number or a word", above=0)] = "auto"
    made: int = field(default=0, init=False)


def build(**table):
    return parse(Schema, table, lambda key: f"here: {key}")


def test_defaults_and_values():
    assert build() == Schema()
    assert build(count=9, rate=2, kind="median", sizes=[1, 2], flag=True, maybe=4) == Schema(
        count=9, rate=2.0, kind="median", sizes=(1, 2), flag=True, maybe=4
    )
    assert isinstance(build(rate=2).rate, float)
    assert build(maybe=None).maybe is None
    assert [build(strength=value).strength for value in ("auto", 2, 0.5)] == ["auto", 2.0, 0.5]


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({"count": 0}, "here: count = 0: must be at least 1"),
        ({"count": 10}, "at most 9"),
        ({"count": 2.0}, "must be integer"),
        ({"count": "2"}, "must be integer"),
        ({"count": True}, "must be integer"),
        ({"count": 10**400}, "64 bits"),
        ({"rate": 10**400}, "64 bits"),
        ({"rate": 0}, "greater than 0"),
        ({"rate": float("nan")}, "finite"),
        ({"rate": float("inf")}, "finite"),
        ({"rate": False}, "must be number"),
        ({"kind": "medain"}, 'must be "mean" | "median". Did you mean \'median\'?'),
        ({"kind": 1}, 'must be "mean"'),
        ({"sizes": 3}, "list of integer"),
        ({"sizes": [1, 0]}, "at least 1"),
        ({"sizes": [1.5]}, "must be integer"),
        ({"flag": 1}, "true or false"),
        ({"flag": "yes"}, "true or false"),
        ({"name": 3}, "must be text"),
        ({"maybe": "3"}, "must be integer"),
        ({"strength": "aut"}, "must be number or \"auto\". Did you mean 'auto'?"),
        ({"strength": 0}, "greater than 0"),
        ({"strength": True}, "must be number"),
        ({"made": 1}, "unknown setting"),
        ({"cuont": 1}, "here: cuont: unknown setting. Did you mean 'count'?"),
        ({"zzzzzzz": 1}, "Known: count, flag, kind"),
    ],
)
def test_complaints_say_where_what_and_why(table, reason):
    with pytest.raises(ConfigError) as caught:
        build(**table)
    assert reason in str(caught.value)
    assert str(caught.value).startswith("here: ")


def test_describe_tells_all_that_can_be_set():
    described = {d.name: d for d in describe(Schema)}
    assert list(described) == ["count", "rate", "kind", "sizes", "flag", "name", "maybe", "strength"]
    assert described["count"].option == Option("how many", "images", low=1, high=9)
    assert (described["count"].type, described["count"].default) == ("integer", 3)
    assert described["sizes"].type == "list of integer"
    assert described["maybe"].type == "integer"


def test_nearest():
    assert nearest("bata", ["beta", "alpha"]) == "Did you mean 'beta'?"
    assert nearest("qqq", ["beta", "alpha"]) == "Known: alpha, beta."
    assert nearest("qqq", []) == "Known: none."
