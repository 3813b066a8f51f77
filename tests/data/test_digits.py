"""The embedded data set is scikit-learn's, whichever way it is read."""

import numpy as np
from sklearn.datasets import load_digits

from fcil.data.families import digits
from fcil.data.settings import Data

SETTINGS = Data(name="digits")


def test_the_file_and_the_function_of_scikit_learn_give_the_same(monkeypatch):
    bunch = load_digits()
    from_file = digits._scans()
    monkeypatch.setattr(digits, "find_spec", lambda name: None)
    from_function = digits._scans()
    for images, labels in (from_file, from_function):
        np.testing.assert_array_equal(images, bunch.images)
        np.testing.assert_array_equal(labels, bunch.target)
        assert (images.dtype, labels.dtype) == (np.float64, np.int64)


def test_who_writes_on_the_images_of_a_listing_changes_no_other():
    first = digits._listing(None, SETTINGS)
    first.train.images[:] = 0
    assert digits._listing(None, SETTINGS).train.images.any()
