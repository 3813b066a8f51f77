"""Methods of other families, made here: the contract carries them and the loop knows nothing about them."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from small import BACKBONE, client_data, dataset, model, phase
from toys import Anchored, Calibrated, NearestMean, Pool, PromptPool, Replay, RidgeHead

from fcil.client.settings import Train
from fcil.client.store import ClientStore
from fcil.client.training import run_client
from fcil.data.dataset import model_inputs
from fcil.engine.metrics import summarise
from fcil.exchange.inline import Inline
from fcil.exchange.worker import Worker
from fcil.model.backbone import describe_backbone
from fcil.server.loop import run
from fcil.server.plan import initial_progress, make_plan
from strategies.fedavg import FedAvg


def carried_out(config, method, store=None, worker=None):
    worker = worker or Worker(config, method, store)
    plan = make_plan(config, method, worker.census, describe_backbone(config.model))
    events = []
    progress = run(plan, initial_progress(plan), Inline(worker), events.append, lambda _: None)
    assert not [event for event in events if event["event"] == "refused"]
    return progress, worker, plan


def accuracy(progress, worker):
    return summarise(progress.correct, [len(t) for t in worker.scenario.tests])["final_accuracy"]


def features(worker, part, indices):
    """Pooled features of the bare backbone, in one go."""
    worker.model.load({})
    images = model_inputs(part.images[indices], worker.dataset, worker.config.model.image_size)
    with torch.no_grad():
        return worker.model.features(images).double().numpy()


# ---- (1) a ridge head from sums, in a schedule that only reports -----------------------------------------------------


@pytest.mark.parametrize(
    "partition", [{"kind": "dirichlet", "beta": 0.2}, {"kind": "iid", "clients": 5}, {"clients": 1}]
)
def test_ridge_head_is_exactly_the_centralised_one_for_any_partition(digits_config, partition):
    config = digits_config({"partition": partition})
    progress, worker, plan = carried_out(config, RidgeHead())
    train = worker.dataset.train
    x, y = features(worker, train, np.arange(len(train))), np.eye(10)[train.labels]
    central = Ridge(alpha=1.0, fit_intercept=False).fit(x, y)
    deployed = plan.method.deploy(progress.state, plan.phases[-1])
    np.testing.assert_allclose(deployed["head.0.weight"], central.coef_, rtol=1e-4, atol=1e-5)
    test = worker.dataset.test
    right = central.predict(features(worker, test, np.arange(len(test)))).argmax(1) == test.labels
    assert sum(progress.correct[-1]) == right.sum()
    assert accuracy(progress, worker) > 0.5
    assert progress.totals["download_bytes"] == 0


# ---- (2) a penalty around an anchor that comes as a reference --------------------------------------------------------


def test_a_penalty_of_strength_zero_is_fedavg_bit_for_bit_and_a_strong_one_holds(digits_config):
    config = digits_config({"train": {"rounds": 1}, "data": {"train_limit": 120}})
    plain, *_ = carried_out(config, FedAvg(rank=2))
    zero, *_ = carried_out(config, Anchored(rank=2, strength=0.0), worker=Worker(config, Anchored(rank=2)))
    strong, *_ = carried_out(config, Anchored(rank=2, strength=1e4))
    for group in ("module", "head"):
        for name, a in plain.state[group].items():
            np.testing.assert_array_equal(a, zero.state[group][name])
    assert plain.correct == zero.correct
    assert zero.totals["download_bytes"] > plain.totals["download_bytes"]

    def drift(progress):
        return sum(np.abs(a - zero.state["anchor"][f"anchor {n}"]).sum() for n, a in progress.state["module"].items())

    assert drift(strong) < 0.5 * drift(zero)


# ---- (3) a replay store that follows the client ----------------------------------------------------------------------


def test_a_store_survives_rounds_tasks_and_workers_and_follows_the_client(digits_config, tmp_path):
    config = digits_config({"data": {"train_limit": 60, "test_limit": 20}, "train": {"batch": 8}})
    progress, worker, _ = carried_out(config, Replay(rank=2), ClientStore(tmp_path))
    again = ClientStore(tmp_path)  # as another worker would open it
    assert progress.position == 4
    for client in range(3):
        kept = again.read(client, progress.position)
        assert kept["owner"] == [client]
        assert kept["phase"] == [3]
        assert len(kept["samples"]) == 8  # two from each of two tasks of two rounds
        assert set(kept["samples"].tolist()) <= {i for parts in worker.scenario.parts for i in parts[client].tolist()}
    other, *_ = carried_out(config, Replay(rank=2), ClientStore(tmp_path / "other"))
    assert other.sha256() == progress.sha256()
    assert carried_out(config, FedAvg(rank=2))[0].sha256() != progress.sha256()


# ---- (4) nearest class mean, with scores of its own ------------------------------------------------------------------


def test_nearest_class_mean_predicts_by_its_own_scores(digits_config):
    config = digits_config({"partition": {"clients": 4, "beta": 0.3}})
    progress, worker, _ = carried_out(config, NearestMean())
    train, test = worker.dataset.train, worker.dataset.test
    x = features(worker, train, np.arange(len(train)))
    means = np.stack([x[train.labels == c].mean(0) for c in range(10)])
    seen = features(worker, test, np.arange(len(test)))
    nearest = np.square(seen[:, None] - means[None]).sum(2).argmin(1)
    assert sum(progress.correct[-1]) == (nearest == test.labels).sum()
    assert accuracy(progress, worker) > 0.4


# ---- (5) a head that the server trains, on arrays alone --------------------------------------------------------------


def test_a_server_may_train_a_head_on_drawn_features_in_equal_bits_and_touches_nothing_else(digits_config):
    config = digits_config({"data": {"train_limit": 120}, "train": {"rounds": 1}})
    plain, *_ = carried_out(config, FedAvg(rank=2))
    none, *_ = carried_out(config, Calibrated(rank=2, steps=0))
    once, again = (carried_out(config, Calibrated(rank=2))[0] for _ in range(2))
    assert none.sha256() == plain.sha256()
    assert once.sha256() == again.sha256() != plain.sha256()
    for name, a in plain.state["module"].items():
        np.testing.assert_array_equal(a, once.state["module"][name])
    assert all(not np.array_equal(a, once.state["head"][name]) for name, a in plain.state["head"].items())


# ---- (6) prompts chosen by image, with a pull term from the same forward pass ----------------------------------------

PICTURES = model_inputs(dataset().train.images[:6], dataset(), 16)


def pool_of(**changes):
    """The resident model with a pool in it, whose arrays train."""
    adapted = model(PromptPool())
    started = Pool().begin({}, phase(), BACKBONE)
    arrays = {**started["module"], **started["head"], **changes}
    return adapted, adapted.load(arrays, list(arrays)), arrays


def passes_of(method, samples=24, batch=10):
    """How often the first block is called while a client trains for one epoch, and the client's reply."""
    adapted, data, at, calls = model(method.adapter), dataset(), phase(), []
    adapted.network.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    part = client_data(data, np.flatnonzero(data.train.labels < 2)[:samples])
    broadcast = method.broadcast(method.begin({}, at, BACKBONE), at)
    update = run_client(method, adapted, part, Train(epochs=1, batch=batch, lr=1e-2), at, broadcast, 0, {})
    return len(calls), update, broadcast


def test_further_outputs_come_from_the_pass_that_gives_the_features():
    """Two passes a step, the query's and the prompted one, whether or not the loss reads the cosines."""
    steps = 3
    pulled, update, broadcast = passes_of(Pool())
    plain, without, _ = passes_of(Pool(pull=0.0))
    assert pulled == plain == 2 * steps
    keys = broadcast.arrays["pool.keys"]
    assert not np.array_equal(update.arrays["pool.keys"], keys)
    assert np.array_equal(without.arrays["pool.keys"], keys), "a choice has no gradient"


def test_outputs_are_there_whoever_asks_first_and_features_alone_are_the_same():
    adapted, _, _ = pool_of()
    features, outputs = adapted.outputs(PICTURES)
    assert set(outputs) == {"cosines", "chosen"}
    assert outputs["cosines"].shape == (6, 2)
    torch.testing.assert_close(adapted.features(PICTURES), features)
    for i in range(6):  # each image's choice is its own
        _, alone = adapted.outputs(PICTURES[i : i + 1])
        assert torch.equal(alone["chosen"][0], outputs["chosen"][i])


def test_prompts_that_nobody_chose_get_no_gradient_and_the_length_of_a_key_is_nothing():
    adapted, leaves, arrays = pool_of()
    features, outputs = adapted.outputs(PICTURES[:1])
    features.square().sum().backward()
    chosen = set(outputs["chosen"].flatten().tolist())
    for i, gradient in enumerate(leaves["pool.prompts"].grad):
        assert bool(gradient.any()) == (i in chosen)
    longer, _, _ = pool_of(**{"pool.keys": 7 * arrays["pool.keys"]})
    torch.testing.assert_close(longer.features(PICTURES[:1]), features)


def test_a_pool_of_prompts_runs_through_tasks(digits_config):
    config = digits_config({"train": {"lr": 3e-2}})
    progress, worker, _ = carried_out(config, Pool())
    still, *_ = carried_out(config, Pool(pull=0.0))
    assert accuracy(progress, worker) > 0.15
    assert not np.array_equal(progress.state["module"]["pool.keys"], still.state["module"]["pool.keys"])
