"""Training images in the place of the test images: a fixed share of every class, and never one of both."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcil.data import Data, load
from fcil.data.dataset import Dataset, Split
from fcil.data.held_out import hold_out
from fcil.errors import ConfigError


def data_of(sizes, digest=""):
    """One image of one pixel a sample, whose value is its number."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    names = tuple(f"class {k}" for k in range(len(sizes)))
    return Dataset("made", names, Split(images, labels, digest), Split(images[:1], labels[:1]), files="two files")


def numbers(split):
    return [int(image.reshape(-1)[0]) for image in split.images[np.arange(len(split))]]


@given(st.lists(st.integers(2, 12), min_size=1, max_size=6), st.floats(0.01, 0.9), st.integers(0, 5))
def test_every_class_gives_its_share_and_the_rest_keeps_its_order(sizes, share, seed):
    data = data_of(sizes)
    result = hold_out(data, share, seed)
    train, held = numbers(result.train), numbers(result.test)
    assert sorted(train + held) == list(range(sum(sizes)))
    assert train == sorted(train)
    for label, size in enumerate(sizes):
        count = int((result.test.labels == label).sum())
        assert count == min(max(round(share * size), 1), size - 1)
        assert int((result.train.labels == label).sum()) == size - count
    assert all(data.train.labels[n] == label for n, label in zip(held, result.test.labels, strict=True))
    assert numbers(hold_out(data, share, seed).test) == held


def test_what_is_held_out_depends_on_its_own_seed_and_the_class_alone():
    one, other = (numbers(hold_out(data_of([60, 60]), 0.5, seed).test) for seed in (0, 1))
    assert one != other
    first, more = data_of([60]), data_of([60, 5])
    of_first = [int(np.flatnonzero(np.flatnonzero(first.train.labels == 0) == n)[0])
                for n in numbers(hold_out(first, 0.3, 0).test)]  # fmt: skip
    kept = hold_out(more, 0.3, 0).test
    of_more = [int(np.flatnonzero(np.flatnonzero(more.train.labels == 0) == n)[0])
               for n, label in zip(numbers(kept), kept.labels, strict=True) if label == 0]  # fmt: skip
    assert of_more == of_first, "the members of a class are drawn by their places in it"


def test_the_hash_of_the_data_tells_it(tmp_path):
    whole = data_of([20, 20], digest="abc")
    hashes = {
        whole.sha256(),
        *(hold_out(whole, share, seed).sha256() for share, seed in ((0.1, 0), (0.2, 0), (0.2, 1))),
    }
    assert len(hashes) == 4
    assert hold_out(data_of([20, 20]), 0.2, 0).sha256() != hold_out(data_of([20, 20]), 0.2, 1).sha256()
    assert (
        hold_out(whole, 0.2, 0).files == "two files; 20 % of the training images held out in place of the test images"
    )


def test_a_class_with_one_image_is_named():
    with pytest.raises(ConfigError, match=r"data.held_out = 0.2: class 'class 1' has a single training image"):
        hold_out(data_of([5, 1]), 0.2, 0)


def test_limits_hold_before_and_after():
    data = load(Data(held_out=0.25, train_limit=200, test_limit=30), 16)
    assert (len(data.train), len(data.test)) == (data.train.images.array.size, 30)
    whole = load(Data(held_out=0.25, train_limit=200), 16)
    assert len(whole.train) + len(whole.test) == 200
    assert len(whole.test) == pytest.approx(50, abs=6)
    real = load(Data(train_limit=200), 16)
    both = np.concatenate(
        [whole.train.images[np.arange(len(whole.train))], whole.test.images[np.arange(len(whole.test))]]
    )
    assert sorted(image.tobytes() for image in both) == sorted(image.tobytes() for image in real.train.images)
