"""SNELLA over the rounds of a federated run: one budget, scores summed over clients, the same sparsities for all."""

from dataclasses import replace

import numpy as np
import pytest
import reference_kernels as reference
from small import LINEARS

from fcil.battery import trial_of
from fcil.battery.trial import CLIENTS, TASKS, TRAIN
from fcil.engine.simulation import prepare
from fcil.errors import ConfigError
from fcil.merging.allocation import budget
from fcil.method import ClientUpdate, Modules, Phase, Task
from fcil.model.kernelised import parts_of
from fcil.model.sensitivity import score_of
from fcil.registry import build_method

ENTRIES = sum(out * width for out, width in LINEARS.values())
ADAPTER = "snella(sparsity = 0.75, sparsity_start = 0.25)"


def kept(arrays):
    """Number of nonzeros that the sparsities leave, over all parts."""
    sizes = {layer: out * width // parts_of(layer) for layer, (out, width) in LINEARS.items()}
    return sum(float((1 - arrays[f"{layer}.sparsity"].astype(float)).sum()) * size for layer, size in sizes.items())


def test_the_budget_falls_over_all_tasks_where_one_module_goes_on():
    trial = trial_of("fedavg", {"adapter": ADAPTER})
    rounds = len(TASKS) * TRAIN.rounds
    volumes = [kept(record.broadcast.arrays) for record in trial.records]
    wanted = [budget(t / (rounds - 1), ENTRIES, 0.25, 0.75) for t in range(rounds)]
    np.testing.assert_allclose(volumes, wanted, rtol=1e-6)
    assert wanted[0] == 0.75 * ENTRIES
    assert wanted[-1] == pytest.approx(0.25 * ENTRIES)
    deployed = trial.deploy(trial.records[-1].after, trial.records[-1].phase)
    assert kept(deployed) == pytest.approx(volumes[-1])  # what is deployed is as sparse as what trained last


def test_it_falls_within_every_task_where_tasks_begin_anew():
    trial = trial_of("task_arithmetic", {"adapter": ADAPTER, "start": "fresh"})
    volumes = np.array([kept(record.broadcast.arrays) for record in trial.records]).reshape(len(TASKS), TRAIN.rounds)
    np.testing.assert_allclose(volumes[:, 0], 0.75 * ENTRIES)
    np.testing.assert_allclose(volumes[:, -1], 0.25 * ENTRIES, rtol=1e-6)


def test_reports_after_the_rounds_do_not_stretch_the_schedule():
    trial = trial_of("regmean", {"adapter": ADAPTER})
    last = [r for r in trial.records if r.phase.kind == "train" and r.phase.phases_left == 1]
    assert len(last) == len(TASKS)
    assert [kept(r.broadcast.arrays) for r in last] == pytest.approx([0.25 * ENTRIES] * len(TASKS))


def test_sparsities_follow_from_the_scores_of_all_clients_together():
    trial = trial_of("fedavg", {"adapter": ADAPTER})
    first, second = trial.records[:2]
    names = [(layer, part) for layer in LINEARS for part in range(parts_of(layer))]
    scores = np.zeros(len(names))
    for update in first.updates:  # summed over clients, and over P and Q
        scores += [update.statistics[score_of(layer)][part].astype(float).sum() for layer, part in names]
    assert len(first.updates) == CLIENTS
    sizes = np.array([LINEARS[layer][0] * LINEARS[layer][1] // parts_of(layer) for layer, _ in names], float)
    volume = budget(1 / 3, ENTRIES, 0.25, 0.75)
    wanted = 1 - np.array(reference.water_filled(scores / scores.sum(), sizes, volume)) / sizes
    got = [second.broadcast.arrays[f"{layer}.sparsity"][part] for layer, part in names]
    np.testing.assert_allclose(got, wanted, atol=1e-6)
    assert len(set(np.round(got, 4))) > 3  # layers differ


def test_groups_of_clients_sum_to_the_same_sparsities():
    trial = trial_of("fedavg", {"adapter": ADAPTER})
    record = trial.records[0]
    sums = [
        trial.method.sums(record.phase, record.broadcast, group) for group in (record.updates[:1], record.updates[1:])
    ]
    added = {name: sums[0][name] + sums[1][name] for name in sums[0]}
    merged = trial.method.merge_sums(record.before, record.phase, added)
    for name, a in Modules.of(record.after).module.items():
        np.testing.assert_allclose(merged["module"][name], a, atol=1e-6)


@pytest.mark.parametrize(("adapter", "more"), [("snell(sparsity = 0.5)", 0), ("snella", 3 + 2)])
def test_a_client_sends_q_times_in_and_out_and_a_few_numbers_a_part(adapter, more):
    """The server knows the sparsities; with the mix kernel alpha, gamma, beta and two scores travel up."""
    q = 4
    trial = trial_of("fedavg", {"adapter": adapter, "rank": q})
    update: ClientUpdate = trial.records[0].updates[0]
    sent = sum(a.size for n, a in {**update.arrays, **update.statistics}.items() if not n.startswith("head."))
    parts = [(layer, parts_of(layer)) for layer in LINEARS]
    wanted = sum(n * (q * (LINEARS[layer][0] // n + LINEARS[layer][1]) + more) for layer, n in parts)
    assert sent == wanted


def test_one_round_is_no_schedule():
    once = Phase(0, "train", Task(0, 0, 2), 1, 0, tasks_left=1)
    again = replace(once, index=1, task=Task(1, 2, 2), tasks_left=0)
    for name in ("fedavg", "ties"):
        with pytest.raises(ConfigError, match=r"one round only; set train\.rounds to 2 or more"):
            build_method(name, {"adapter": "snella"}).check_phases([once] if name == "fedavg" else [once, again])
        for still in ("snella(sparsity = 0.5, sparsity_start = 0.5)", 'snella(competition = "none")'):
            build_method(name, {"adapter": still}).check_phases([once, again])
    build_method("fedavg", {"adapter": "snella"}).check_phases([once, again])  # its module goes on: two rounds
    build_method("ties", {"adapter": "snella"}).check_phases([once, replace(once, round=2)])


def test_a_run_of_one_round_is_refused_before_it_has_a_folder(digits_config, tmp_path):
    sections = {"method": {"name": "ties", "adapter": "snella", "rank": 2}}, {"train": {"rounds": 1}}
    with pytest.raises(ConfigError, match="one round only"):
        prepare(digits_config(*sections), tmp_path / "run")
    assert not (tmp_path / "run").exists()
