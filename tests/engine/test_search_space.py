"""Values and ranges to try, as `--grid` writes them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcil.engine.search_space import Range, rounded, space_of, written
from fcil.engine.tuning import grid_of
from fcil.errors import ConfigError


def test_ranges_are_whole_or_real_and_by_logarithms_if_asked_for():
    texts = ["train.lr=1e-4..1e-1:log", "method.rank=2..16", "train.batch=8,16", "method.penalty=1.0..2.0"]
    space, lacking = space_of("lorm", texts)
    assert space == {
        "train.lr": Range(1e-4, 1e-1, log=True), "method.rank": Range(2, 16), "train.batch": [8, 16],
    }  # fmt: skip
    assert [space["train.lr"].whole, space["method.rank"].whole] == [False, True]
    assert lacking == ["method.penalty"]
    assert json.loads(json.dumps(written(space))) == written(space)
    others = [["train.lr=1e-4..1e-1"], ["train.lr=1e-4..1e-2:log"], ["train.lr=1..2:log"], ["train.lr=1.0..2.0:log"]]
    assert len({json.dumps(written(space_of("lorm", texts)[0])) for texts in others}) == len(others)


@pytest.mark.parametrize("text", ["train.lr=2..1", "train.lr=0..1:log", "train.lr=-1.0..1.0:log", "train.lr=1..1"])
def test_ranges_with_nothing_in_them_are_refused(text):
    with pytest.raises(ConfigError, match="LOW below HIGH, and above 0 with :log"):
        space_of("lorm", [text])


def test_a_grid_of_values_has_no_ranges():
    with pytest.raises(ConfigError, match=r"train.lr: a range is searched, which takes --trials N"):
        grid_of("lorm", ["train.lr=1e-4..1e-1"])
    assert len(grid_of("lorm", ["train.lr=1e-4,1e-1", "method.layers=a..b"])[0]) == 2, "words with dots are words"


@given(st.floats(1e-9, 1e9), st.floats(0, 1), st.floats(1e-9, 1e9))
def test_values_with_few_digits_stay_near_and_in_their_range(low, share, width):
    within = Range(low, low + width)
    value = min(within.low + share * width, within.high)
    assert within.low <= rounded(value, within) <= within.high
    assert rounded(value, within) == pytest.approx(value, rel=6e-3)
