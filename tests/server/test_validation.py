"""Every reason for which a reply is refused, one by one."""

from dataclasses import replace

import numpy as np
import pytest
from small import BACKBONE, phase

from fcil.method import ClientUpdate, GramShape, gram_layouts
from fcil.server.validation import expected, refusal
from strategies.lorm import LoRM

AT = phase(2, index=5)
METHOD = LoRM(rank=2)
STATE = METHOD.begin({}, AT, BACKBONE)
BROADCAST = METHOD.broadcast(STATE, AT)
WANTED = expected(AT, BROADCAST, METHOD.local(AT), {0: 10, 2: 7})
GOOD = ClientUpdate(
    2, 5, 7,
    {n: np.ones(shape, np.float32) for n, shape in WANTED.arrays.items()},
    {n: np.ones(shape, np.float32) for n, shape in WANTED.statistics.items()},
)  # fmt: skip
ARRAY, STATISTIC = next(iter(WANTED.arrays)), next(iter(WANTED.statistics))


def test_a_good_reply_passes():
    assert refusal(GOOD, WANTED, []) is None
    assert refusal(GOOD, WANTED, [0]) is None
    assert refusal(replace(GOOD, metrics={"loss": float("nan")}), WANTED, []) is None  # records only


def test_only_what_trains_is_expected():
    assert all(".lora_A" in n or n.startswith("head.0.") for n in WANTED.arrays)
    assert all(n.endswith(("input_energy", "gram")) for n in WANTED.statistics)
    assert gram_layouts(WANTED.statistics).keys() == WANTED.statistics.keys()


@pytest.mark.parametrize(
    ("change", "already", "reason"),
    [
        ({"client": 1}, [], "was not asked"),
        ({"phase": 4}, [], "stale: answers phase 4, not 5"),
        ({}, [2], "a second reply"),
        ({"num_examples": 8}, [], "claims 8 training samples, holds 7"),
        ({"num_examples": -7}, [], "claims -7"),
        ({"arrays": {}}, [], "array: missing"),
        ({"statistics": {}}, [], "statistic: missing"),
    ],
)
def test_stamps_counts_and_names(change, already, reason):
    assert reason in refusal(replace(GOOD, **change), WANTED, already)


def bad_arrays(a):
    poisoned = a.copy()
    poisoned.flat[0] = np.nan
    infinite = a.copy()
    infinite.flat[-1] = -np.inf
    return {
        "1 of": poisoned, "NaN or infinite": infinite, "type int64": a.astype(int),
        "type float16": a.astype(np.float16), "type object": a.astype(object),
        "shape": a[:1].copy() if len(a) > 1 else a[:, :1], "shape ": a[None],
        "type complex64": a.astype(np.complex64), "type bool": a.astype(bool),
    }  # fmt: skip


@pytest.mark.parametrize("field", ["arrays", "statistics"])
@pytest.mark.parametrize("reason", list(bad_arrays(np.ones((2, 2), np.float32))))
def test_values_shapes_and_types(field, reason):
    name = {"arrays": ARRAY, "statistics": STATISTIC}[field]
    good = getattr(GOOD, field)
    refused = refusal(replace(GOOD, **{field: {**good, name: bad_arrays(good[name])[reason]}}), WANTED, [])
    assert reason.strip() in refused
    assert name in refused


def test_extra_arrays_are_refused_too():
    """A frozen factor that a client sends nevertheless must not get into a merge."""
    extra = replace(GOOD, arrays={**GOOD.arrays, "blocks.0.attn.qkv.lora_B": np.zeros((96, 2), np.float32)})
    assert "not asked for ['blocks.0.attn.qkv.lora_B']" in refusal(extra, WANTED, [])


def test_float64_and_lengths_that_only_the_client_knows_are_admitted():
    double = replace(GOOD, statistics={n: a.astype(np.float64) for n, a in GOOD.statistics.items()})
    assert refusal(double, WANTED, []) is None
    open_ended = replace(WANTED, statistics={n: (-1,) * len(s) for n, s in WANTED.statistics.items()})
    longer = replace(GOOD, statistics={n: np.ones(3, np.float32) for n in GOOD.statistics})
    assert refusal(longer, open_ended, []) is None
    deeper = replace(GOOD, statistics={n: np.ones((3, 1), np.float32) for n in GOOD.statistics})
    assert "shape" in refusal(deeper, open_ended, [])


@pytest.mark.parametrize(("value", "good"), [(1e30, True), (1e39, False), (-1e300, False)])
def test_a_double_that_the_state_cannot_hold_is_as_bad_as_infinity(value, good):
    update = replace(GOOD, arrays={**GOOD.arrays, ARRAY: np.full(WANTED.arrays[ARRAY], value)})
    assert (refusal(update, WANTED, []) is None) == good


@pytest.mark.parametrize("name", ["images", "peak_memory_bytes"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_metric_that_enters_the_totals_must_be_a_number(name, value):
    assert f"metric {name}" in refusal(replace(GOOD, metrics={name: value}), WANTED, [])
    assert refusal(replace(GOOD, metrics={name: 3.0}), WANTED, []) is None


def with_diagonal(statistic, value):
    """The good reply, but one diagonal entry of a Gram is another."""
    a = GOOD.statistics[statistic].copy()
    a[0] = value  # entry (0, 0) comes first, in a half as in a diagonal
    return replace(GOOD, statistics={**GOOD.statistics, statistic: a})


@pytest.mark.parametrize("statistic", WANTED.statistics)
def test_a_gram_with_a_negative_diagonal_is_refused_and_named(statistic):
    result = refusal(with_diagonal(statistic, -1e-3), WANTED, [])
    assert statistic in result
    assert "1 entries of a Gram's diagonal are negative" in result
    assert refusal(with_diagonal(statistic, 0.0), WANTED, []) is None


def test_a_whole_gram_is_judged_by_its_diagonal_and_a_factor_not_at_all():
    gram, factor = (replace(WANTED, statistics={"gram": shape}) for shape in (GramShape((-1, -1), "matrix"), (-1, -1)))
    for wanted, matrix, reason in (
        (gram, np.array([[1.0, -1.0], [-1.0, 1.0]]), None),
        (gram, np.diag([1.0, -1.0]), "1 entries of a Gram's diagonal are negative"),
        (gram, np.ones((2, 3)), "shape"),
        (factor, -np.ones((2, 3)), None),
    ):
        result = refusal(replace(GOOD, statistics={"gram": matrix}), wanted, [])
        assert result is None if reason is None else reason in result


@pytest.mark.parametrize(
    ("layout", "shape"), [("matrix", (2, 3)), ("matrix", (4,)), ("half", (5,)), ("diagonal", (2, 2))]
)
def test_a_shape_that_no_gram_has_is_refused_where_it_is_declared(layout, shape):
    with pytest.raises(ValueError, match=f"no Gram matrix has the shape .* in the layout '{layout}'"):
        GramShape(shape, layout)


def test_a_half_of_a_length_that_only_the_client_knows_must_be_a_half():
    wanted = replace(WANTED, statistics={"gram": GramShape((-1,), "half")})
    assert "shape" in refusal(replace(GOOD, statistics={"gram": np.ones(5)}), wanted, [])
    assert "are negative" in refusal(replace(GOOD, statistics={"gram": np.array([1.0, 0.0, -1.0])}), wanted, [])
    assert refusal(replace(GOOD, statistics={"gram": np.array([1.0, -1.0, 1.0])}), wanted, []) is None


def test_off_diagonals_and_what_is_no_gram_may_be_negative():
    (half,) = [name for name in WANTED.statistics if name.startswith("head.")]
    a = GOOD.statistics[half].copy()
    a[1] = -0.5  # entry (0, 1)
    assert refusal(replace(GOOD, statistics={**GOOD.statistics, half: a}), WANTED, []) is None
    assert refusal(replace(GOOD, arrays={n: -x for n, x in GOOD.arrays.items()}), WANTED, []) is None
