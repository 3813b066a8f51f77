"""What a broadcast refuses."""

import numpy as np
import pytest

from fcil.method import Broadcast


def test_a_name_stands_for_an_array_or_for_a_reference():
    weights = {"head.0.weight": np.zeros(1), "a": np.zeros(2)}
    assert Broadcast(weights, {"anchor/a": np.zeros(2)}).references.keys() == {"anchor/a"}
    with pytest.raises(ValueError, match="a is the name of an array and of a reference; give references a prefix"):
        Broadcast(weights, {"a": np.zeros(2)})
