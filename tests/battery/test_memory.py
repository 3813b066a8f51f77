"""Forgetting what code has remembered outside the contract, and remembering it again."""

import sys
from dataclasses import dataclass, field

import numpy as np
from own_methods import MINE, write

from fcil.battery.memory import Memory
from fcil.registry import build_method
from strategies.fedavg import FedAvg

SOURCE = """
import threading
import numpy as np

CALLS, LOCK = [], threading.Lock()
TABLE = np.zeros(2)

"""


@dataclass(frozen=True, kw_only=True)
class Local(FedAvg):
    """Has a memory of its own."""

    kept: dict = field(default_factory=dict)


def test_globals_class_attributes_and_attributes_are_as_at_first_and_then_as_before(tmp_path):
    method = build_method(str(write(tmp_path, source=SOURCE + MINE + "\n    seen = {}\n")), {})
    module, kind = sys.modules[type(method).__module__], type(method)
    memory, calls, lock = Memory(method), module.CALLS, module.LOCK
    calls.append(1)
    module.TABLE += 1
    kind.seen["a"] = [1]
    kind.later = 3
    module.LATER = 4
    object.__setattr__(method, "own", 5)
    with memory.forgotten():
        assert (module.CALLS, module.TABLE.tolist(), kind.seen) == ([], [0, 0], {})
        assert not any((hasattr(kind, "later"), hasattr(module, "LATER"), hasattr(method, "own")))
        assert module.LOCK is lock  # what cannot be copied stays
        module.CALLS.append("for the block alone")
        kind.other = 6
    assert module.CALLS is calls
    assert (calls, module.TABLE.tolist(), kind.seen) == ([1], [1, 1], {"a": [1]})
    assert (kind.later, module.LATER, method.own) == (3, 4, 5)
    assert not hasattr(kind, "other")
    with memory.forgotten():
        assert module.CALLS == []


def test_parts_of_a_method_and_fields_are_forgotten_too():
    method = Local()
    whole = build_method("compose", {})
    object.__setattr__(whole, "further", method)
    memory = Memory(whole)
    method.kept["x"] = np.zeros(1)
    with memory.forgotten():
        assert method.kept == {}
    assert list(method.kept) == ["x"]
