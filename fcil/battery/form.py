"""Check the form of a state: groups of arrays by name, under names that are free."""

from collections.abc import Mapping

import numpy as np

from fcil.battery.outcome import Broken
from fcil.errors import MethodError
from fcil.method import Method, Phase
from fcil.method.groups import check_groups

__all__ = ["check_state"]


def check_state(method: Method, state: object, phase: Phase, *functions: str) -> None:
    """Refuse a state that is no groups of arrays by name, or has a group under a name that is taken.

    Args:
        functions: those of the method of which one gave the state; a message names the first.
    """
    groups = state if isinstance(state, Mapping) else {"": state}
    for group, arrays in groups.items():
        named = arrays.values() if isinstance(arrays, Mapping) else [arrays]
        wrong = [a for a in named if arrays is a or not isinstance(a, np.ndarray)]
        if wrong:
            what, where = type(wrong[0]).__name__, group or "the place of the state"
            raise Broken(
                f"{functions[0]} gave a value of type {what} in {where}: a state maps groups to arrays by name, "
                "{group: {name: array}}; one number is np.array([3.0])",
                *functions, phase=phase,
            )  # fmt: skip
    try:
        check_groups(method, groups, phase)
    except MethodError as error:
        raise Broken(str(error), *functions) from None
