"""Number types: what "auto" means, the scaling of float16, and a run that knows in which type it was begun."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from small import BACKBONE, SIZE, WIDTH, client_data, dataset, model, phase

import fcil.model.precision as precision
from fcil.client.settings import Train
from fcil.client.training import run_client
from fcil.config import Config
from fcil.engine.provenance import provenance
from fcil.engine.records import read_config, read_provenance
from fcil.engine.simulation import prepare, simulate
from fcil.errors import ConfigError
from fcil.exchange.device import resolved
from fcil.method import Broadcast, Task, head
from fcil.model.backbone import Model
from fcil.model.lora import Lora
from fcil.model.lora_layer import LoraLinear
from fcil.model.precision import ScaledSteps, resolve
from fcil.registry import build_method
from strategies.lorm import LoRM

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_what_is_named_is_taken(precision):
    assert resolve(precision, CPU) == resolve(precision, GPU) == precision


@pytest.mark.parametrize(("hardware", "meant"), [(True, "bf16"), (False, "fp32")])
def test_auto_on_a_processor_is_bf16_where_it_is_in_hardware(hardware, meant, monkeypatch):
    monkeypatch.setattr(precision, "bf16_in_hardware", lambda: hardware)
    assert resolve("auto", CPU) == meant


@pytest.mark.parametrize(("bf16", "capability", "meant"), [(True, 8, "bf16"), (False, 7, "fp16"), (False, 6, "fp32")])
def test_auto_on_a_gpu(bf16, capability, meant, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16 or including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (capability, 0))
    assert resolve("auto", GPU) == meant


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_frozen_weights_rest_in_the_low_type_and_what_trains_does_not(kind):
    name = {torch.bfloat16: "bf16", torch.float16: "fp16"}[kind]
    adapted = model(Lora(2), name)
    layers = [m for m in adapted.network.modules() if isinstance(m, LoraLinear)]
    assert layers
    assert all(layer.weight.dtype == kind for layer in layers)
    assert adapted.network.blocks[0].norm1.weight.dtype == torch.float32
    leaves = adapted.load({"head.0.weight": np.zeros((2, WIDTH))}, ["head.0.weight"])
    assert leaves["head.0.weight"].dtype == torch.float32
    assert adapted.features(torch.zeros(1, 3, SIZE, SIZE)).dtype == torch.float32


def updates(name, **train):
    """One client's round of FedAvg in a number type."""
    method, task = build_method("fedavg", {"rank": 2}), Task(0, 0, 2)
    rng = np.random.default_rng(0)
    arrays = {**Lora(2).initial(BACKBONE, lambda _: rng), **head.new_rows(task, WIDTH, rng)}
    data = client_data(dataset(), np.flatnonzero(dataset().train.labels < 2))
    setting = Train(epochs=2, batch=8, **train)
    return arrays, run_client(method, model(Lora(2), name), data, setting, phase(), Broadcast(arrays), 0, {})


def test_float16_learns_what_float32_learns_to_its_own_accuracy():
    start, low = updates("fp16", optimizer="sgd", lr=1e-2)
    _, full = updates("fp32", optimizer="sgd", lr=1e-2)
    assert low.metrics["loss"] == pytest.approx(full.metrics["loss"], rel=0.02)
    assert "skipped_steps" not in full.metrics
    for name, a in full.arrays.items():
        moved = np.linalg.norm(a - start[name])
        assert np.linalg.norm(a - low.arrays[name]) <= 0.1 * moved, name
        assert low.arrays[name].dtype == np.float32


def weight_after(losses, kind="fp16", optimizer=torch.optim.SGD, **options):
    """A weight of 1 after steps down the gradients `losses`, and how many of them were skipped."""
    weight = torch.ones(1, requires_grad=True)
    steps = ScaledSteps(optimizer([weight], lr=0.25, **options), CPU, kind)
    for slope in losses:
        steps.step((weight * slope).sum())
    return weight.item(), steps.metrics


def test_scaling_does_not_change_a_step_and_an_overflow_is_skipped_and_counted():
    assert weight_after([1.0, 1.0]) == (0.5, {"skipped_steps": 0.0})
    assert weight_after([1.0, 1.0], "fp32") == (0.5, {})
    assert weight_after([1.0, float("inf"), 1.0]) == (0.5, {"skipped_steps": 1.0})


def test_the_fused_optimiser_skips_too():
    plain, _ = weight_after([1.0], "fp32", torch.optim.AdamW, weight_decay=0.0, fused=True)
    skipped, result = weight_after([float("inf"), 1.0], "fp16", torch.optim.AdamW, weight_decay=0.0, fused=True)
    assert skipped == pytest.approx(plain)
    assert result == {"skipped_steps": 1.0}


def test_small_gradients_survive_in_float16():
    """1e-8 is below float16's smallest number: unscaled, the gradient of a float16 product would be zero."""
    weight = torch.ones(1, requires_grad=True)
    steps = ScaledSteps(torch.optim.SGD([weight], lr=1.0), CPU, "fp16")
    steps.step((weight.half() * torch.tensor(1.0).half()).float().sum() * 1e-8)
    assert weight.grad.item() == pytest.approx(1e-8, rel=1e-3)


# ---- a run's identity ------------------------------------------------------------------------------------------------


def auto(config):
    return replace(config, model=replace(config.model, precision="auto"))


def means(monkeypatch, hardware):
    monkeypatch.setattr(precision, "bf16_in_hardware", lambda: hardware)


def test_a_run_goes_on_only_in_the_precision_in_which_it_began(digits_config, tmp_path, monkeypatch):
    config = digits_config(
        {"data": {"train_limit": 40, "test_limit": 20}, "train": {"rounds": 1}, "tasks": {"count": 1}}
    )
    config, folder = auto(config), tmp_path / "run"
    means(monkeypatch, False)
    first = simulate(prepare(config, folder), folder)["sha256"]
    assert read_config(folder).model.precision == "auto"
    assert read_provenance(folder)["precision"] == "fp32"
    assert simulate(prepare(config, folder), folder)["sha256"] == first
    named = replace(config, model=replace(config.model, precision="fp32"))
    assert simulate(prepare(named, folder), folder)["sha256"] == first
    means(monkeypatch, True)
    with pytest.raises(ConfigError, match=r"was begun in fp32.*means bf16.*model\.precision=fp32"):
        simulate(prepare(config, folder), folder)
    assert simulate(prepare(named, folder), folder)["sha256"] == first
    with pytest.raises(ConfigError, match=r"holds another run, which differs in model\.precision"):
        simulate(prepare(replace(config, model=replace(config.model, precision="fp16")), folder), folder)


def test_auto_is_settled_once_for_all_workers(monkeypatch):
    means(monkeypatch, True)
    assert resolved(auto(Config())).model == Model(precision="bf16")
    assert resolved(Config()).model.precision == "fp32"


def test_auto_for_workers_with_gpus_cannot_be_told_without_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = auto(Config())
    run = replace(config.run, exchange="ray", gpus_per_client=0.5)
    with pytest.raises(ConfigError, match=r"model\.precision"):
        resolved(replace(config, run=run))


def test_what_of_the_weights_was_left_out_is_recorded(digits_config):
    config = digits_config()
    result = provenance(config, LoRM(), "", "")
    assert result["method"] == {f.name: getattr(LoRM(), f.name) for f in fields(LoRM) if f.name not in ("lr_a", "lr_b")}
    assert result["weights_left_out"] == []
    assert len(result["weights_sha256"]) == 64
