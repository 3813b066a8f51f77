"""How head rows of new classes begin, and that every method takes the start that the run names."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from small import BACKBONE, phase, small_settings

from fcil.config import load_config
from fcil.errors import ConfigError
from fcil.method import Task, head
from fcil.model.backbone import describe_backbone
from fcil.registry import build_method, method_names

TASK, WIDTH = Task(2, 7, 40), 96


def rows(start, seed=0, task=TASK, width=WIDTH):
    arrays = head.new_rows(task, width, np.random.default_rng(seed), start)
    assert {n: (a.shape, a.dtype) for n, a in arrays.items()} == {
        f"head.{task.index}.weight": ((task.size, width), np.float32),
        f"head.{task.index}.bias": ((task.size,), np.float32),
    }
    return arrays["head.2.weight"], arrays["head.2.bias"]


def cut_normal(x, sd=0.02, low=-2.0, high=2.0):
    """The distribution of a normal draw of `sd` cut at `low` and `high`, as timm's trunc_normal_ draws it."""

    def below(value):
        return (1 + math.erf(value / sd / math.sqrt(2))) / 2

    return (np.array([below(v) for v in np.ravel(x)]) - below(low)) / (below(high) - below(low))


def test_timm_starts_with_a_truncated_normal_and_zero_biases():
    weight, bias = rows("timm")
    assert not bias.any()
    assert kstest(weight.ravel(), cut_normal).pvalue > 1e-3
    assert abs(weight).max() < 0.02 * 6  # beyond what 3,840 draws reach


def test_it_is_the_distribution_of_torchs_own_initialiser():
    tensor = torch.nn.init.trunc_normal_(torch.empty(64, 96), std=0.02, generator=torch.Generator().manual_seed(1))
    assert kstest(tensor.ravel().numpy(), cut_normal).pvalue > 1e-3
    assert kstest(rows("linear")[0].ravel(), cut_normal).pvalue < 1e-6


def test_the_default_keeps_its_bits_and_is_torchs_linear():
    weight, bias = rows("linear")
    rng, bound = np.random.default_rng(0), 1 / np.sqrt(WIDTH)
    np.testing.assert_array_equal(weight, rng.uniform(-bound, bound, (40, WIDTH)).astype(np.float32))
    np.testing.assert_array_equal(bias, rng.uniform(-bound, bound, 40).astype(np.float32))
    plain = head.new_rows(TASK, WIDTH, np.random.default_rng(0))
    np.testing.assert_array_equal(plain["head.2.weight"], weight)


def test_the_setting_reaches_the_description_that_methods_are_given():
    assert load_config({}).model.head_start == "linear"
    for start in ("linear", "timm"):
        config = load_config({}, [f'model.head_start="{start}"'])
        assert describe_backbone(config.model).head_start == start
    with pytest.raises(ConfigError, match="head_start"):
        load_config({}, ['model.head_start="zero"'])


@pytest.mark.parametrize("name", [n for n in method_names() if n != "pilora"])  # whose rows are prototypes
def test_every_method_that_trains_a_head_begins_it_so(name):
    settings = small_settings(name)
    method = build_method(settings.pop("name"), settings)
    biases = {}
    for start in ("linear", "timm"):
        backbone = replace(BACKBONE, head_start=start)
        state = method.begin(method.init(backbone, 2, 0), phase(), backbone)
        biases[start] = [a for arrays in state.values() for n, a in arrays.items() if n == head.bias(0)]
    assert len(biases["linear"]) == len(biases["timm"])
    assert all(a.any() for a in biases["linear"])
    assert not any(a.any() for a in biases["timm"])
