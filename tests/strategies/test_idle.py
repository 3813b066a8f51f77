"""Settings that would change nothing are refused, and those that do something are not."""

import pytest

from fcil.errors import ConfigError
from fcil.registry import build_method


@pytest.mark.parametrize(
    ("name", "idle", "beside"),
    [
        ("dare", {"top": 0.3}, {"reduce": "ties"}),
        ("knots", {"drop": 0.3}, {"reduce": "dare_ties"}),
        ("iso", {"common": 0.3}, {"variant": "cts"}),
        ("regmean", {"shrink": 0.3, "gram": "diagonal"}, {"gram": "full"}),
        ("lorm", {"lr_a": 0.1, "train_order": "B"}, {"train_order": "BA"}),
        ("lorm", {"lr_b": 0.1, "train_order": "A"}, {"train_order": "AB"}),
        ("lorm+ranpac", {"transport_mu": 0.3}, {"transport": True, "adapt": "every_task"}),
        ("stsa", {"empty_groups": "left_out"}, {"groups": 3}),
    ],
)
def test_a_setting_without_effect_is_refused_with_the_reason(name, idle, beside):
    with pytest.raises(ConfigError, match=rf"method.{next(iter(idle))} = .*: .*; leave it out"):
        build_method(name, idle)
    build_method(name, {**idle, **beside})


def test_the_mean_of_knots_trims_nothing():
    with pytest.raises(ConfigError, match="keeps all"):
        build_method("knots", {"reduce": "mean", "top": 0.3})
    build_method("knots", {"top": 0.3})
