"""Tokens of layers: how they are written, what they are as an array, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcil.errors import ConfigError
from fcil.method import Backbone, Tokens
from fcil.method.tokens import side_by_side, sides, spread

VIT = Backbone(8, {}, blocks=12, grid=(4, 4))
BARE = Backbone(8, {}, blocks=12, grid=(4, 4), class_token=False)
CLOSED = Backbone(8, {}, blocks=12, grid=(4, 4), layer_tokens=False)

blocks = st.lists(st.tuples(st.integers(1, 100), st.integers(0, 64)), min_size=1, max_size=40)


@given(st.integers(1, 40), st.integers(1, 40))
def test_spread_layers_end_with_the_last_and_are_as_even_as_whole_numbers_can_be(count, depth):
    if count > depth:
        with pytest.raises(ConfigError, match=rf'method\.layers = "spread:{count}": the backbone has {depth} layers'):
            spread(count, depth)
        return
    layers = spread(count, depth)
    assert len(layers) == count
    assert layers[-1] == depth
    gaps = np.diff([0, *layers])
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1


@given(blocks)
def test_tokens_survive_as_an_array_of_the_type_that_travels(named):
    tokens = Tokens(tuple(named))
    array = tokens.array()
    assert (array.dtype, array.shape) == (np.float32, (len(named), 2))
    assert Tokens.of(array) == tokens
    assert hash(Tokens.of(array)) == hash(tokens)


@given(blocks, st.integers(1, 30))
def test_the_width_counts_one_class_token_and_a_token_for_each_cell(named, width):
    tokens = Tokens(tuple(named))
    cells = [1 if side == 0 else side**2 for _, side in named]
    assert list(tokens.sizes) == cells
    assert tokens.width(Backbone(width, {})) == width * sum(cells)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("class", (0,)), ("mean", (1,)), ("patches", (4,)), ("grid:1", (1,)), ("grid:2", (2,)), ("grid:64", (64,)),
        ("class+mean", (0, 1)), ("mean+class", (1, 0)), (" class + grid:3 ", (0, 3)),
    ],
)  # fmt: skip
def test_tokens_of_a_layer_are_read_in_the_order_they_are_written(text, expected):
    assert sides(text, VIT) == expected


@pytest.mark.parametrize("grid", [(4, 4), (1, 1), (16, 16), (70, 70)])
def test_patches_are_the_finest_grid(grid):
    backbone = Backbone(8, {}, blocks=2, grid=grid)
    tokens = side_by_side((1,), sides("patches", backbone))
    tokens.check(backbone)
    assert tokens.width(backbone) == 8 * grid[0] * grid[1]
    assert sides(f"grid:{grid[0]}", backbone) == (grid[0],)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "'' is none of"), ("cls", "'cls' is none of"), ("grid", "'grid' is none of"),
        ("grid:0", "'grid:0' is none of"), ("grid:-1", "is none of"), ("grid:2.0", "is none of"),
        ("class,mean", "'class,mean' is none of"), ("class+", "'' is none of"), ("grid:65", "is none of"),
        ("class+class", "the same tokens twice"), ("mean+grid:1", "the same tokens twice"),
        ("grid:4+patches", "the same tokens twice"),
    ],
)  # fmt: skip
def test_other_texts_are_refused_with_what_may_be_written(text, reason):
    with pytest.raises(ConfigError) as caught:
        sides(text, VIT)
    assert str(caught.value).startswith(f"method.tokens = {text!r}: ")
    assert reason in str(caught.value)
    if "none of" in reason:
        assert all(word in str(caught.value) for word in ('"class"', '"mean"', '"grid:<k>"', '"patches"', "joined"))


def test_blocks_stand_layer_by_layer_in_the_order_given():
    assert side_by_side((3, 1), (2, 0)).blocks == ((3, 2), (3, 0), (1, 2), (1, 0))


def test_a_layer_named_twice_is_refused():
    with pytest.raises(ConfigError, match=r"method\.layers = \[2, 1, 2\]: the same layer twice"):
        side_by_side((2, 1, 2), (1,))


@pytest.mark.parametrize(
    ("named", "backbone", "message"),
    [
        ([(1, 1)], CLOSED, "method.layers: this backbone does not hand out tokens of single layers; leave it out"),
        ([(13, 1)], VIT, "method.layers: no layer 13: the backbone has layers 1 to 12"),
        ([(20, 1), (0, 1), (12, 1), (20, 2)], VIT, "no layer 0, 20: the backbone has layers 1 to 12"),
        ([(1, 5)], VIT, 'method.tokens = "grid:5": the images have 4 x 4 patches; at most "grid:4", or "patches"'),
        ([(1, 0)], BARE, 'method.tokens = "class": this backbone has no class token; "mean" is the mean of patches'),
    ],
)
def test_tokens_that_the_backbone_does_not_have_are_refused(named, backbone, message):
    with pytest.raises(ConfigError) as caught:
        Tokens(tuple(named)).check(backbone)
    assert message in str(caught.value)


def test_all_that_the_backbone_has_is_accepted():
    side_by_side(range(1, 13), (0, 1, 2, 3, 4)).check(VIT)
    side_by_side(range(1, 13), (1, 2, 3, 4)).check(BARE)
