"""Descriptions of values by which equal work is recognised: what differs is told apart, what cannot be is refused."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcil.arrays import weighted_total
from fcil.exchange.described import Undescribed, sha256_of
from fcil.method import Local, Pass
from fcil.method.local import as_broadcast, no_arrays
from fcil.model.lora import Lora
from fcil.registry import build_method

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(scalars, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(), v, max_size=4))


def same(a, b):
    """Equality that tells types apart, as JSON and Python do not: 1, 1.0 and True."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b)


@given(values, values)
def test_two_values_have_one_description_if_and_only_if_they_are_the_same(a, b):
    assert (sha256_of(a) == sha256_of(b)) == same(a, b)


def test_types_are_told_apart():
    different = [1, 1.0, True, "1", None, [1], (1,), {"1": 1}, np.ones(1), np.ones(1, np.float32), np.ones((1, 1))]
    assert len({sha256_of(value) for value in different}) == len(different)


def test_functions_are_known_by_name_and_by_what_is_bound_to_them():
    assert sha256_of(as_broadcast) != sha256_of(no_arrays)
    bound = [partial(weighted_total, 1), partial(weighted_total, 2), partial(weighted_total, weights=1), weighted_total]
    assert len({sha256_of(function) for function in bound}) == len(bound)
    methods = [build_method("fedavg", {"rank": rank}).trains for rank in (2, 3)]
    assert sha256_of(methods[0]) != sha256_of(methods[1])


def test_dataclasses_are_known_by_their_class_and_every_field():
    local = Local(("a",), {"a": 0.1}, (Pass(()),))
    others = [
        replace(local, trains=("b",)), replace(local, lr={"a": 0.2}), replace(local, passes=()),
        replace(local, receives=no_arrays), replace(local, frozen=as_broadcast), replace(local, training=(Lora(2),)),
        replace(local, passes=(Pass((), batch=1),)), replace(local, passes=(Pass((), transform="train"),)), Lora(4),
    ]  # fmt: skip
    assert len({sha256_of(value) for value in [local, *others]}) == len(others) + 1
    assert sha256_of(Local(("a",), {"a": 0.1}, (Pass(()),))) == sha256_of(local)


@dataclass(frozen=True)
class Mine:
    """A class of a file that fcil does not know the content of."""

    number: int = 0


def test_what_remembers_something_or_is_of_another_package_has_no_description():
    remembered = 3

    def closure(arrays, client):
        return {name: a * remembered for name, a in arrays.items()}

    for value in (closure, lambda: 0, Mine(), Mine, object(), np.random.default_rng(0), {1: closure}, {1, 2}):
        with pytest.raises(Undescribed):
            sha256_of(value)
