"""Arrays that are loaded: what a network computes with does not depend on where and how NumPy holds them."""

import warnings

import numpy as np
import pytest
from small import model

HEAD = "head.0.weight"


def held(kind):
    """The same 2 x 48 numbers, held in another way."""
    rows = np.arange(96, dtype=np.float32).reshape(2, 48)
    if kind == "read-only":
        rows.flags.writeable = False
        return rows
    if kind == "not aligned":
        memory = np.zeros(rows.nbytes + 64, np.uint8)
        begin = (4 - memory.ctypes.data) % 64
        inside = memory[begin : begin + rows.nbytes].view(np.float32).reshape(2, 48)
        inside[:] = rows
        return inside
    return {
        "rows": rows,
        "columns": np.asfortranarray(rows),
        "every other": np.repeat(rows, 2, 1)[:, ::2],
        "float64": rows.astype(np.float64),
        "other byte order": rows.astype(">f4"),
    }[kind]


KINDS = ["rows", "columns", "every other", "float64", "other byte order", "read-only", "not aligned"]


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_an_array_is_copied_into_aligned_rows_of_float32_however_it_is_held(kind, trains):
    network, array = model(None), held(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network.load({HEAD: array}, [HEAD] if trains else [])
    tensor = network.arrays[HEAD]
    assert str(tensor.dtype) == "torch.float32"
    assert tensor.is_contiguous()
    assert tensor.data_ptr() % 64 == 0
    assert tensor.requires_grad == trains
    np.testing.assert_array_equal(tensor.detach().numpy(), held("rows"))
    if array.flags.writeable:
        array[:] = 0
        np.testing.assert_array_equal(tensor.detach().numpy(), held("rows"))
