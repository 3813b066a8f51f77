"""FOT and DOLFIN: what the server makes of means and sketches, against the dense definition."""

from dataclasses import replace

import numpy as np
import pytest
import reference
import reference_subspaces
from rounds import COUNTS, begun, steps
from small import BACKBONE, LINEARS, dense, phase

from fcil.errors import ConfigError
from fcil.method import ClientUpdate, Task
from fcil.statistics.input_projection import projection_of
from strategies.dolfin import Dolfin
from strategies.fedavg import FedAvg
from strategies.fot import FOT

LAYERS = list(LINEARS)
SECOND = Task(1, 2, 2)


def sketches(client, rank=3):
    """Sketches of a client's inputs, of a space of a few dimensions per layer that all clients share."""
    out = {}
    for i, layer in enumerate(LAYERS):
        space = np.random.default_rng(i).normal(size=(LINEARS[layer][1], rank))
        out[projection_of(layer)] = (space @ np.random.default_rng([i, client]).normal(size=(rank, 64))).astype("f4")
    return out


def reported(method, state, at, rank=3, clients=(0, 1, 2)):
    updates = [ClientUpdate(c, at.index, 3, {}, sketches(c, rank)) for c in clients]
    return method.merge(state, at, updates)


def second_task(method):
    """The state at the end of the first task, and that at the begin of the second."""
    *_, (_, _, _, state) = steps(method, 2, begun(method))
    state = reported(method, state, phase(4, "report", index=8))
    return state, method.begin(state, phase(task=SECOND, index=9), BACKBONE)


def whole(module, layer):
    return module[f"{layer}.lora_B"].astype(float) @ module[f"{layer}.lora_A"].astype(float)


def test_fots_first_task_is_federated_averaging_and_ends_with_bases_of_the_inputs():
    method = FOT(rank=2, energy=0.999999)
    for (*_, ours), (*_, plain) in zip(steps(method, 3), steps(FedAvg(rank=2), 3), strict=True):
        for group in ("module", "head"):
            for name, a in plain[group].items():
                np.testing.assert_allclose(ours[group][name], a, rtol=1e-6, atol=1e-7)
    state, _ = second_task(method)
    for i, layer in enumerate(LAYERS):
        space = np.linalg.qr(np.random.default_rng(i).normal(size=(LINEARS[layer][1], 3)))[0]
        basis = state["bases"][layer]
        np.testing.assert_allclose(basis @ basis.T, np.eye(3), atol=1e-5)
        np.testing.assert_allclose(reference_subspaces.projector(basis), space @ space.T, atol=1e-4)


@pytest.mark.parametrize("clients", [(0, 1, 2), (2, 0, 1)])
def test_fot_projects_the_merged_change_of_a_dense_weight(clients):
    """The factors' means make a change B A of the weight; what the round keeps of it is dW (I - U U^T)."""
    method = FOT(rank=2, energy=0.999999)
    old, state = second_task(method)
    for layer in LAYERS:
        np.testing.assert_allclose(whole(state["module"], layer), whole(old["module"], layer), atol=1e-5)
    for number, (_, sent, updates, after) in enumerate(steps(method, 2, state, SECOND)):
        kept = method.merge(state, phase(number + 1, task=SECOND), [updates[c] for c in clients])
        for layer in LAYERS:
            means = {n: reference.fedavg([u.arrays[n] for u in updates], COUNTS) for n in sent if n.startswith(layer)}
            start = whole(state["module"], layer)
            change = dense(means, layer) - dense(sent, layer)
            theirs = reference_subspaces.fot_step(start, [start + change], [1], old["bases"][layer].astype(float))
            np.testing.assert_allclose(whole(after["module"], layer), theirs, atol=1e-4)
            np.testing.assert_allclose(whole(kept["module"], layer), whole(after["module"], layer), atol=1e-5)
        state = after


FULL = {"adapter_text": "full", "energy": 0.999999}


def full_tasks(**settings):
    """Full tuning: the state at the end of the first task, and every step of the second with those bases."""
    method = FOT(**{**FULL, **settings})
    *_, (_, _, _, state) = steps(method, 2, begun(method))
    old = reported(method, state, phase(4, "report", index=8))
    begin = method.begin(old, phase(task=SECOND, index=9), BACKBONE)
    return method, old, begin


def test_full_tuning_in_fots_first_task_is_federated_averaging_of_all_parameters():
    method, plain = FOT(**FULL), FedAvg(adapter_text="full")
    for (_, sent, _, ours), (_, theirs, _, averaged) in zip(steps(method, 3), steps(plain, 3), strict=True):
        assert sent.keys() == theirs.keys()
        for group in ("module", "head"):
            assert ours[group].keys() == averaged[group].keys()
            for name, a in averaged[group].items():
                np.testing.assert_allclose(ours[group][name], a, rtol=1e-6, atol=1e-7)


def test_full_tuning_projects_the_change_of_a_round_and_not_what_earlier_tasks_have_changed():
    """W + dW (I - U U^T) for linear layers, whose W was changed in U in the first task; the mean for all others."""
    method, old, state = full_tasks()
    assert {name: a.tobytes() for name, a in state["module"].items()} == {
        name: a.tobytes() for name, a in old["module"].items()
    }
    for _, sent, updates, after in steps(method, 3, state, SECOND):
        for name in sent:
            arrays = [u.arrays[name].astype(float) for u in updates]
            group, start = ("head" if name.startswith("head.") else "module"), sent[name].astype(float)
            if (layer := name.removesuffix(".delta")) in LAYERS:
                basis = old["bases"][layer].astype(float)
                expected = reference_subspaces.fot_step(start, arrays, COUNTS, basis)
                assert np.abs(start @ basis.T).max() > 0.1
            else:
                expected = reference.fedavg(arrays, COUNTS)
            np.testing.assert_allclose(after[group][name], expected, rtol=1e-5, atol=1e-5)
        state = after
    for i, layer in enumerate(LAYERS):
        change = state["module"][f"{layer}.delta"].astype(float) - old["module"][f"{layer}.delta"]
        inputs = np.random.default_rng(i).normal(size=(LINEARS[layer][1], 3))
        assert np.abs(change @ inputs).max() < 1e-3
        assert np.abs(change).max() > 0.1


def test_the_share_that_fots_bases_hold_grows_by_a_step_a_task():
    """Literal growth, with sketches of full rank; and nothing that ends above all of the energy."""
    method = FOT(rank=2, energy=0.5, energy_step=0.2)
    *_, (_, _, _, state) = steps(method, 1, begun(method))
    state = reported(method, state, phase(4, "report", index=8), rank=20)
    state = method.begin(state, phase(task=SECOND, index=9), BACKBONE)
    state = reported(method, state, phase(4, "report", SECOND, index=10), rank=20)
    for layer in LAYERS:
        sketch = sum(sketches(c, 20)[projection_of(layer)].astype(float) for c in (0, 1, 2))
        basis = np.zeros((0, len(sketch)))
        for share in (0.5, 0.7):
            basis = reference_subspaces.grown(basis, sketch, share)
        assert len(state["bases"][layer]) == len(basis)
        np.testing.assert_allclose(
            reference_subspaces.projector(state["bases"][layer]), reference_subspaces.projector(basis), atol=1e-4
        )
    with pytest.raises(ConfigError, match=r"energy_step = 0.3: after 3 tasks .* 1.100"):
        FOT(energy=0.5, energy_step=0.3).check_phases([phase(task=Task(t, 2 * t, 2), index=t) for t in range(3)])


def test_fots_clients_count_alike_if_they_are_asked_to():
    method = FOT(rank=2, weights="equal")
    for _, sent, updates, after in steps(method, 2):
        for name in sent:
            group = "head" if name.startswith("head.") else "module"
            expected = reference.fedavg([u.arrays[name].astype(float) for u in updates], [1, 1, 1])
            np.testing.assert_allclose(after[group][name], expected, rtol=1e-5, atol=1e-6)


def test_fots_new_a_has_nothing_of_the_old_inputs_before_the_first_round():
    """So that the clients' first updates begin where the server would project them to."""
    old, state = second_task(FOT(rank=2, energy=0.999999))
    for layer in LAYERS:
        a, basis = state["module"][f"{layer}.lora_A"][:2].astype(float), old["bases"][layer].astype(float)
        assert np.abs(a @ basis.T).max() < 1e-6
        assert np.linalg.norm(a, axis=1).min() > 0.1


def test_old_inputs_are_answered_as_before_and_others_are_not():
    method = FOT(rank=2, energy=0.999999)
    old, state = second_task(method)
    *_, (_, _, _, after) = steps(method, 3, state, SECOND)
    for i, layer in enumerate(LAYERS):
        change = whole(after["module"], layer) - whole(old["module"], layer)
        inputs = np.random.default_rng(i).normal(size=(LINEARS[layer][1], 3))
        assert np.abs(change @ inputs).max() < 1e-3
        assert np.abs(change).max() > 0.1


def test_dolfin_sets_a_outside_old_inputs_and_trains_b_alone():
    method = Dolfin(rank=2, energy=0.999999)
    assert method.phases(SECOND, 2) == ("report", "train", "train", "report")
    _, state = second_task(method)
    at = replace(phase(1, "report", SECOND, index=9), phases_left=3)
    assert not method.evaluates(at)
    state = reported(method, state, at, 5)
    train = phase(2, task=SECOND, index=10)
    sent = method.broadcast(state, train).arrays
    names = method.local(train).trained(list(sent))
    assert {n.rpartition(".")[2] for n in names if not n.startswith("head.")} == {"lora_B"}
    for layer in LAYERS:
        total = sum(sketches(c, 5)[projection_of(layer)].astype(float) for c in range(3))
        theirs = reference_subspaces.dolfin_factor(state["bases"][layer].astype(float), total, 2)
        ours = sent[f"{layer}.lora_A"]
        np.testing.assert_allclose(np.abs(np.sum(ours * theirs, 1)), 1, atol=1e-4)
        np.testing.assert_allclose(ours @ state["bases"][layer].T, 0, atol=1e-5)
        assert not sent[f"{layer}.lora_B"].any()


def test_dolfins_mean_of_changes_is_exact():
    """A is common to all clients, so the mean of B times A is the mean of the products."""
    method = Dolfin(rank=2)
    _, state = second_task(method)
    for _, sent, updates, after in steps(method, 2, state, SECOND):
        for layer in LAYERS:
            changes = [dense({**sent, **u.arrays}, layer) - dense(sent, layer) for u in updates]
            mean = sum(n * c for n, c in zip(COUNTS, changes, strict=True)) / sum(COUNTS)
            moved = whole(after["module"], layer) - whole(state["module"], layer)
            np.testing.assert_allclose(moved, mean, atol=1e-5)
        state = after
