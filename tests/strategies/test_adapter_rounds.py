"""Adapters in methods with a way of their own: settings that must reach the clients, schedules, ranks."""

import numpy as np
import pytest
from small import BACKBONE

from fcil.battery import trial_of
from fcil.errors import ConfigError
from fcil.method import Modules
from fcil.model.kernel_form import SPARSITY
from fcil.registry import build_method

QKV = 'lora(targets = ["blocks.*.attn.qkv"])'


def test_a_router_stands_beside_the_adapter_that_was_asked_for():
    routed, plain = (build_method("emr", {"adapter": QKV, "router": r}).adapter for r in (True, False))
    assert routed.layers(BACKBONE) == plain.layers(BACKBONE)
    assert len(routed.layers(BACKBONE)) == BACKBONE.blocks
    with pytest.raises(ConfigError, match="plain LoRA pairs"):
        build_method("emr", {"adapter": "loftq(bits = 2)", "router": True})


@pytest.mark.parametrize("of", ["weights", "factors"])
def test_the_schedule_of_sparsities_goes_on_however_rounds_are_averaged(of):
    settings = {"adapter": "snella(sparsity = 0.5)", "at": "round", "of": of}
    records = trial_of("fisher", settings).records
    module = Modules.of(records[-1].after).module
    shares = {name: a for name, a in module.items() if name.endswith(SPARSITY)}
    sizes = {name: np.prod(BACKBONE.linears[name.removesuffix(SPARSITY)]) / len(a) for name, a in shares.items()}
    zero = sum(sizes[name] * float(a.sum()) for name, a in shares.items())
    assert zero / sum(sizes[name] * len(a) for name, a in shares.items()) == pytest.approx(0.5, abs=1e-5)
    first = Modules.of(records[0].before).module
    assert all((first[name] == 0).all() for name in shares)


@pytest.mark.parametrize(("adapter", "most"), [("lora", 2), ("full", None)])
def test_a_flat_spectrum_is_cut_only_where_a_pair_has_to_hold_it(adapter, most):
    trial = trial_of("iso", {"adapter": adapter, "at": "round"})
    record, layer = trial.records[0], "blocks.0.mlp.fc1"
    before, after = (
        trial.method.adapter.changes(Modules.of(state).module)[layer] for state in (record.before, record.after)
    )
    values = np.linalg.svd(after.minus(before).b @ after.minus(before).a, compute_uv=False)
    kept = values[values > 1e-4 * values[0]]
    np.testing.assert_allclose(kept, kept[0], rtol=1e-3)
    assert len(kept) == (most or min(BACKBONE.linears[layer]))
