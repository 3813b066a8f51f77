"""joint and sequential: the same training on other streams of data."""

import json

import numpy as np
import pytest
from small import dataset

from fcil.client.data import ClientData
from fcil.client.training import run_client
from fcil.engine.simulation import prepare, simulate
from fcil.exchange.inline import Inline
from fcil.exchange.worker import Worker
from fcil.method import Broadcast, Phase, Task
from fcil.model.adapted import AdaptedModel
from fcil.model.backbone import describe_backbone, load_backbone
from fcil.scenario.partition import Partition
from fcil.scenario.scenario import make_scenario
from fcil.scenario.tasks import Tasks
from fcil.server.loop import run
from fcil.server.plan import initial_progress, make_plan
from strategies.alone import Alone
from strategies.fedavg import FedAvg
from strategies.joint import Joint
from strategies.sequential import Sequential


def carried_out(config, method):
    worker = Worker(config, method)
    plan = make_plan(config, method, worker.census, describe_backbone(config.model))
    return run(plan, initial_progress(plan), Inline(worker), lambda event: None, lambda progress: None), plan


def test_one_client_holds_everything_task_by_task_or_at_once():
    data, tasks, partition = dataset(120, 6), Tasks(count=3, order="shuffled"), Partition(clients=4, min_samples=1)
    federated, pooled, once = (
        make_scenario(data, tasks, partition, 0, stream) for stream in ("federated", "pooled", "at_once")
    )
    for task in range(3):
        np.testing.assert_array_equal(pooled.parts[task][0], np.sort(np.concatenate(federated.parts[task])))
        for other in (pooled, once):
            np.testing.assert_array_equal(other.tests[task], federated.tests[task])
            np.testing.assert_array_equal(other.order, federated.order)
    assert pooled.census(data).clients == once.census(data).clients == 1
    assert pooled.tasks == federated.tasks
    assert once.tasks == (Task(2, 0, 6),)
    np.testing.assert_array_equal(once.parts[2][0], np.arange(120))
    assert once.num_examples(0, 0) == once.num_examples(1, 0) == 0


def test_with_one_task_joint_and_sequential_are_the_same_run(digits_config):
    config = digits_config({"tasks": {"count": 1}, "train": {"rounds": 2}, "data": {"train_limit": 120}})
    runs = [carried_out(config, method(rank=2))[0] for method in (Joint, Sequential)]
    assert runs[0].sha256() == runs[1].sha256()
    assert runs[0].correct == runs[1].correct


def test_joint_is_centralised_training_by_the_same_local_code(digits_config):
    """Rounds of one client that goes on from where it stopped; nothing is averaged with anything."""
    config = digits_config({"data": {"train_limit": 120}})
    progress, plan = carried_out(config, Joint(rank=2))
    method, worker = FedAvg(rank=2), Worker(config, Joint(rank=2))
    adapted = AdaptedModel(load_backbone(config.model), method.adapter)
    task = plan.census.tasks[0]
    first = Phase(0, "train", task, 1, config.run.seed)
    arrays = dict(method.broadcast(method.begin({}, first, plan.backbone), first).arrays)
    data = ClientData(
        worker.dataset, np.arange(len(worker.dataset.train)), worker.scenario.positions, config.model.image_size,
        adapted.device,
    )  # fmt: skip
    for round in range(1, config.train.rounds + 1):
        phase = Phase(round - 1, "train", task, round, config.run.seed)
        arrays |= run_client(method, adapted, data, config.train, phase, Broadcast(arrays), 0, {}).arrays
    deployed = plan.method.deploy(progress.state, plan.phases[-1])
    assert deployed.keys() == arrays.keys()
    for name, a in arrays.items():
        np.testing.assert_array_equal(deployed[name], a, err_msg=name)


@pytest.mark.parametrize("name", ["joint", "sequential"])
def test_the_figures_stand_beside_the_others(digits_config, tmp_path, name):
    config = digits_config({"method": {"name": name, "rank": 2}, "train": {"rounds": 1}, "data": {"train_limit": 100}})
    summary = simulate(prepare(config, tmp_path / "run"), tmp_path / "run")
    last = summary["correct"][-1]
    assert [len(last), sum(summary["total"])] == [2, 100]
    assert summary["final_accuracy"] == sum(last) / 100
    assert summary["final_accuracy_task_mean"] == pytest.approx(
        np.mean([r / t for r, t in zip(last, summary["total"], strict=True)])
    )
    assert (summary["forgetting"] is None) == (name == "joint")
    assert (summary["average_accuracy"] is None) == (name == "joint")
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == json.loads(json.dumps(summary))
    lines = (tmp_path / "run" / "accuracy_matrix.csv").read_text().splitlines()
    assert len(lines) == 3
    assert (lines[1] == "1,,") == (name == "joint")


def test_both_train_as_many_images_as_a_federated_run(digits_config):
    config = digits_config({"data": {"train_limit": 100}})
    images = {m: carried_out(config, m(rank=2))[0].totals["images"] for m in (Joint, Sequential, FedAvg)}
    assert len(set(images.values())) == 1


def test_alone_begins_every_task_anew_and_answers_with_its_classes_only(digits_config):
    config = digits_config({"data": {"train_limit": 120}})
    alone, plan = carried_out(config, Alone(rank=2))
    sequential, _ = carried_out(config, Sequential(rank=2))
    assert alone.correct[0] == sequential.correct[0], "the first task is the same for both"
    assert alone.correct[1][0] == 0, "no image is given to a class of another task"
    assert alone.correct[1][1] >= sequential.correct[1][1]
    first = next(phase for phase in plan.phases if phase.task.index == 1)
    sent = plan.method.broadcast(plan.method.begin(alone.state, first, plan.backbone), first)
    assert not any(np.any(a) for name, a in sent.arrays.items() if name.endswith("lora_B"))
    assert set(sent.arrays) & {"head.0.weight"} == set()
