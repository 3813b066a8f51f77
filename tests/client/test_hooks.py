"""`client_begin` and `client_end`, and what a method's code may reach there: streams, samples, the store."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from small import BACKBONE, SIZE, WIDTH, client_data, dataset, model, phase
from toys import Replay

from fcil.arrays import shapes
from fcil.client.data import ClientData
from fcil.client.session import ENGINE_STREAMS, ClientSession
from fcil.client.settings import Train
from fcil.client.store import ClientStore
from fcil.client.training import run_client
from fcil.data.dataset import model_inputs
from fcil.engine.simulation import prepare
from fcil.exchange.inline import Inline
from fcil.exchange.worker import Worker
from fcil.method import Broadcast, Computed, Local, Method, Pass, Task, head
from fcil.model.lora import Lora
from fcil.server.loop import run
from fcil.server.plan import initial_progress, make_plan
from fcil.statistics.training_gradients import MeanGradient, mean_gradient

DATA = dataset()
TASK = Task(0, 0, 2)
MINE = np.flatnonzero(np.isin(DATA.train.labels, TASK.positions))[:9]
TRAIN = Train(epochs=2, batch=4, lr=1e-2)
ROWS = (head.weight(0), head.bias(0))


def arrays():
    rng = np.random.default_rng(1)
    return {**Lora(2).initial(BACKBONE, lambda _: rng), **head.new_rows(TASK, WIDTH, rng)}


@dataclass
class Means:
    """A statistic that writes down when it saw its first batch."""

    calls: list
    layers: dict = field(default_factory=dict)
    gradients: dict = field(default_factory=dict)

    def shapes(self, broadcast):
        return {"count": ()}

    def start(self, arrays, model, generator):
        return self

    def batch(self, features, labels, samples):
        self.calls.append("report")

    def finish(self):
        return {"count": np.array(1.0)}


@dataclass(frozen=True, kw_only=True)
class Diary(Method):
    """Writes down every call with the head's rows at that time and one draw of its own stream."""

    calls: list = field(default_factory=list)
    rows: dict = field(default_factory=dict)
    draws: list = field(default_factory=list)
    reports: bool = False

    def note(self, call, client):
        self.calls.append(call)
        self.rows[call] = client.model.arrays[head.weight(0)].detach().numpy().copy()
        self.draws.append(client.generator("diary").random())

    def local(self, phase):
        trains = ROWS if phase.kind == "train" else ()
        return Local(trains=trains, passes=(Pass((Means(self.calls),)),) if self.reports else ())

    def client_begin(self, client):
        self.note("begin", client)

    def loss(self, step):
        self.note("loss", step.client)
        return step.cross_entropy()

    def client_end(self, client):
        self.note("end", client)


def work(method, at=None, store=None, samples=MINE, data=None):
    data = data or client_data(DATA, samples)
    kept = {} if store is None else store
    return run_client(method, model(Lora(2)), data, TRAIN, at or phase(), Broadcast(arrays()), 1, kept)


def test_hooks_are_called_once_around_training_and_before_reports():
    method = Diary(reports=True)
    work(method)
    assert method.calls == ["begin", *["loss"] * 6, "end", "report"]  # 9 samples in batches of 4, twice


def test_and_in_a_phase_that_only_reports():
    method = Diary(reports=True)
    update = work(method, phase(kind="report"))
    assert method.calls == ["begin", "end", "report"]
    assert not update.arrays
    np.testing.assert_array_equal(method.rows["end"], arrays()[head.weight(0)])


def test_begin_sees_what_was_broadcast_and_end_what_is_sent():
    method = Diary()
    update = work(method)
    np.testing.assert_array_equal(method.rows["begin"], arrays()[head.weight(0)])
    np.testing.assert_array_equal(method.rows["end"], update.arrays[head.weight(0)])
    assert not np.array_equal(method.rows["begin"], method.rows["end"])


def test_what_client_end_does_to_the_model_does_not_change_what_is_sent():
    @dataclass(frozen=True, kw_only=True)
    class Vandal(Diary):
        def client_end(self, client):
            client.model.arrays[head.weight(0)].data.zero_()

    plain, after = work(Diary()), work(Vandal())
    np.testing.assert_array_equal(plain.arrays[head.weight(0)], after.arrays[head.weight(0)])


def test_autograd_is_on_in_both_hooks():
    @dataclass(frozen=True, kw_only=True)
    class Differentiates(Diary):
        def client_begin(self, client):
            features = client.model.features(client.images(client.samples[:2]))
            self.calls.append(client.model.logits(features).requires_grad)

        client_end = client_begin

    method = Differentiates()
    work(method)
    assert [call for call in method.calls if call != "loss"] == [True, True]


# ---- what hooks send -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Counts(Diary):
    """Sends the number of its samples, which it has put aside at the beginning, and what training has summed."""

    declares: tuple = ("count",)
    training: bool = True

    def local(self, phase):
        computed = Computed("count", lambda broadcast: dict.fromkeys(self.declares, ()))
        return replace(super().local(phase), computed=(computed,), training=(MeanGradient(ROWS),) * self.training)

    def client_begin(self, client):
        client.scratch["aside"] = torch.tensor(float(len(client.samples)))

    def client_end(self, client):
        client.statistics["count"] = client.scratch["aside"].numpy()
        assert (mean_gradient(ROWS[0]) in client.statistics) == self.training


def test_what_a_hook_computes_is_sent_and_stays_out_of_the_store():
    store = {}
    update = work(Counts(), store=store)
    assert update.statistics["count"] == len(MINE)
    assert update.statistics[mean_gradient(ROWS[0])].any()
    assert not store
    assert Counts().local(phase()).reported(shapes(arrays())) == {n: a.shape for n, a in update.statistics.items()}


@pytest.mark.parametrize(
    ("declares", "says"), [((), "count is not declared"), (("count", "other"), "other is declared")]
)
def test_what_hooks_send_must_be_what_is_declared(declares, says):
    with pytest.raises(ValueError, match=says):
        work(Counts(declares=declares, training=False))


# ---- randomness ------------------------------------------------------------------------------------------------------


def test_one_stream_goes_on_through_hooks_and_steps_of_a_phase():
    method = Diary()
    work(method)
    stream = phase().generator("diary", 1)
    assert method.draws == [stream.random() for _ in range(8)]


def test_a_methods_own_streams_and_images_do_not_change_batches_or_views():
    @dataclass(frozen=True, kw_only=True)
    class Busy(Diary):
        def client_begin(self, client):
            client.generator("replay").random(7)
            client.images(client.samples, augment=True)

        def loss(self, step):
            step.client.images(step.samples, augment=True)
            return super().loss(step)

    plain, busy = work(Diary()), work(Busy())
    for name in ROWS:
        np.testing.assert_array_equal(plain.arrays[name], busy.arrays[name])


@pytest.mark.parametrize("purpose", ENGINE_STREAMS)
def test_the_engines_streams_are_refused(purpose):
    @dataclass(frozen=True, kw_only=True)
    class Thief(Diary):
        def client_begin(self, client):
            client.generator(purpose)

    with pytest.raises(ValueError, match="the engine draws from this stream"):
        work(Thief())


# ---- samples ---------------------------------------------------------------------------------------------------------


def session(indices, earlier=()):
    data = client_data(DATA, indices)
    data = ClientData(data.dataset, data.indices, data.positions, data.size, data.device, earlier)
    return ClientSession(1, phase(2), model(None), Broadcast({}), {}, data)


def test_images_and_labels_are_those_of_the_training_part():
    client = session(MINE)
    np.testing.assert_array_equal(client.samples, MINE)
    np.testing.assert_array_equal(client.labels(MINE[:3]).numpy(), DATA.train.labels[MINE[:3]])
    plain = model_inputs(DATA.train.images[MINE[:3]], DATA, SIZE)
    np.testing.assert_array_equal(client.images(MINE[:3]).numpy(), plain.numpy())
    assert not np.array_equal(client.images(MINE[:3], augment=True).numpy(), plain.numpy())


def test_no_samples_are_no_images():
    client, none = session(MINE), np.zeros(0, np.int64)
    assert client.images(none).shape == client.images(none, augment=True).shape == (0, 3, SIZE, SIZE)
    assert client.labels(none).shape == (0,)


def test_a_client_reads_its_earlier_samples_and_nobody_elses():
    earlier, other = np.array([3, 7]), np.array([11])
    client = session(MINE, (earlier,))
    assert len(client.images(np.concatenate([earlier, MINE]))) == len(client.labels(earlier)) + len(MINE)
    for read in (client.images, client.labels):
        with pytest.raises(ValueError, match=r"client 1 asks for training samples 11, .* task 1, round 2"):
            read(other)


def test_in_a_run_a_client_holds_what_it_was_given_so_far(digits_config):
    worker = prepare(digits_config()).worker
    seen = {}

    @dataclass(frozen=True, kw_only=True)
    class Census(Diary):
        def client_begin(self, client):
            seen[client.phase.task.index, client.number] = set(client.data.held_so_far.tolist())

    tasks, parts = worker.scenario.tasks, worker.scenario.parts
    worker = Worker(worker.config, Census())
    for task in tasks:
        rows = head.new_rows(task, 128, np.random.default_rng(0))
        sent = Broadcast({**head.new_rows(TASK, 128, np.random.default_rng(0)), **rows})
        for client in range(3):
            worker.work(phase(kind="report", task=task, index=task.index), sent, client)
            assert seen[task.index, client] == {i for t in parts[: task.index + 1] for i in t[client].tolist()}


def test_a_constant_is_a_reference_or_what_was_broadcast_and_never_one_of_two():
    client = session(MINE)
    client.broadcast = Broadcast({"a": np.ones(2), "b": np.ones(3)}, {"anchor/a": np.zeros(2), "b": np.zeros(3)})
    assert client.constant("a").tolist() == [1, 1]
    assert client.constant("anchor/a").tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"'b'.* is the name of an array and of a reference; give references a prefix"):
        client.constant("b")
    with pytest.raises(KeyError):
        client.constant("c")


# ---- the store -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Counter(Diary):
    """Counts its phases in the store, and once more in place."""

    def client_begin(self, client):
        client.store.setdefault("begun", np.zeros(1, np.int64))
        client.store["begun"] += 1

    def client_end(self, client):
        client.store["ended"] = client.store.get("ended", np.zeros(1)) + 1


def test_what_hooks_put_into_the_store_reaches_the_disk_and_the_next_phase(digits_config, tmp_path):
    worker = Worker(digits_config(), Counter(), ClientStore(tmp_path))
    sent = Broadcast(head.new_rows(Task(0, 0, 5), 128, np.random.default_rng(0)))
    for index in range(3):
        worker.work(phase(kind="report", task=Task(0, 0, 5), index=index), sent, 2)
        kept = ClientStore(tmp_path).read(2, index + 1)
        assert kept["begun"] == kept["ended"] == [index + 1]
    assert ClientStore(tmp_path).read(1, 9) == {}


def test_without_a_folder_it_is_kept_in_memory_alike(digits_config):
    worker = Worker(digits_config(), Counter())
    sent = Broadcast(head.new_rows(Task(0, 0, 5), 128, np.random.default_rng(0)))
    for index in (0, 1, 1, 2):  # a phase that is run again starts from the same
        worker.work(phase(kind="report", task=Task(0, 0, 5), index=index), sent, 2)
        assert worker._kept.read(2, index + 1)["begun"] == [index + 1]
    assert worker._kept.read(0, 9) == {}


@pytest.mark.parametrize("stop", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in (1, 2))])
def test_a_run_that_goes_on_elsewhere_ends_in_the_same_bits(digits_config, tmp_path, stop):
    """Killed after a phase, whose successor had already been begun; another process has the folder only."""
    config = digits_config({"data": {"train_limit": 60, "test_limit": 20}, "method": {"name": "fedavg", "rank": 2}})
    session = prepare(config)
    plan = make_plan(config, Replay(rank=2), session.worker.census, session.plan.backbone)
    saved = []

    def through(folder, start):
        worker = Worker(config, plan.method, ClientStore(folder))
        return run(plan, start, Inline(worker), lambda event: None, saved.append)

    whole = through(tmp_path / "whole", initial_progress(plan))
    through(tmp_path / "broken", initial_progress(plan))
    assert through(tmp_path / "broken", saved[stop]).sha256() == whole.sha256()
    assert through(tmp_path / "elsewhere", saved[stop]).sha256() != whole.sha256()  # the store is part of the run


# ---- slips that would be silent, or that torch tells of in its own words ---------------------------------------------


def _writes_a_gradient(step):
    step.model.arrays[ROWS[0]].grad = torch.ones_like(step.model.arrays[ROWS[0]])
    return step.cross_entropy()


def _writes_a_constant(step):
    step.constant(ROWS[0]).mul_(0.5)
    return step.cross_entropy()


def _asks_for_features_under_a_teacher(step):
    with torch.no_grad(), step.model.using({name: step.constant(name) for name in ROWS}):
        teacher = step.features
    return step.cross_entropy() + (step.features - teacher).square().mean()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda step: None, "gave NoneType.*is a return missing"),
        (lambda step: step.cross_entropy().item(), "gave float"),
        (lambda step: step.cross_entropy() * torch.ones(4), r"shape \(4,\).*take its mean"),
        (lambda step: step.cross_entropy().detach(), "without a gradient"),
        (_writes_a_gradient, "has written a gradient, of head.0.weight"),
        (_writes_a_constant, "'head.0.weight'.*changed in place"),
        (_asks_for_features_under_a_teacher, "other arrays loaded"),
    ],
)
def test_slips_in_a_loss_are_refused_in_words(loss, message):
    @dataclass(frozen=True, kw_only=True)
    class Slip(Diary):
        def loss(self, step):
            return loss(step)

    with pytest.raises((TypeError, ValueError), match=message):
        work(Slip())


def test_features_first_asked_for_without_autograd_still_have_a_gradient():
    @dataclass(frozen=True, kw_only=True)
    class Looks(Diary):
        def local(self, phase):
            return Local(trains=("*",))

        def loss(self, step):
            with torch.no_grad():
                assert step.features.isfinite().all()
            assert step.features.requires_grad
            return step.cross_entropy()

    update = work(Looks())
    assert any(name.endswith("lora_B") and np.abs(a).max() > 0 for name, a in update.arrays.items())


# ---- copies of what trains -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Keeps(Method):
    """Keeps something of the head's rows before they train."""

    keep: object = None

    def local(self, phase):
        return Local(trains=ROWS)

    def client_begin(self, client):
        self.keep(client, client.model.arrays[head.weight(0)])


@pytest.mark.parametrize(
    ("keep", "place", "advice"),
    [
        (lambda c, leaf: c.store.update(a=leaf.detach().numpy()), "store", ".numpy().copy()"),
        (lambda c, leaf: c.store.update(a=leaf.detach().numpy()[1:].T), "store", ".numpy().copy()"),
        (lambda c, leaf: c.store.update(a=leaf.detach()[1:, 3:].numpy()[::-1]), "store", ".numpy().copy()"),
        (lambda c, leaf: c.statistics.update(a=leaf.detach().numpy()), "statistics", ".numpy().copy()"),
        (lambda c, leaf: c.scratch.update(a=leaf.detach()), "scratch", ".detach().clone()"),
        (lambda c, leaf: c.scratch.update(a={"b": leaf.data.view(-1)}), "scratch", ".detach().clone()"),
        (lambda c, leaf: c.scratch.update(a=[leaf.detach()]), "scratch", ".detach().clone()"),
    ],
)
def test_what_is_kept_of_an_array_that_trains_without_a_copy_is_refused(keep, place, advice):
    with pytest.raises(ValueError, match=r"is no copy but the memory of head\.0\.weight, which has trained") as error:
        work(Keeps(keep=keep))
    assert f"Client.{place}['a'] is no copy" in str(error.value)
    assert advice in str(error.value)


@pytest.mark.parametrize(
    "keep",
    [
        lambda c, leaf: c.store.update(a=leaf.detach().numpy().copy()),
        lambda c, leaf: c.store.update(a=c.broadcast.arrays[head.weight(0)]),
        lambda c, leaf: c.store.update(a=np.zeros(0, np.float32), b=c.samples),
        lambda c, leaf: c.scratch.update(a=leaf.detach().clone(), b=leaf, c=[leaf.view(-1)], d=1, e="text", f=None),
        lambda c, leaf: c.scratch.update(a=c.model.arrays),
        lambda c, leaf: c.scratch.update(a=c.constant(head.weight(0)), b=torch.zeros(0)),
    ],
)
def test_copies_and_the_arrays_that_train_themselves_are_not(keep):
    update = work(Keeps(keep=keep))
    assert (update.arrays[head.weight(0)] != arrays()[head.weight(0)]).any()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            lambda step: step.labels,
            r"Target \d is out of bounds.*here 2 to 3.*the 2 columns.*take labels - task\.first",
        ),
        (lambda step: step.labels + 40, r"^Target 4\d is out of bounds\.$"),
    ],
    ids=["not shifted", "another mistake"],
)
def test_labels_of_all_tasks_for_the_columns_of_one_are_explained(labels, message):
    @dataclass(frozen=True, kw_only=True)
    class Unshifted(Method):
        def local(self, phase):
            return Local(trains=(head.weight(1), head.bias(1)))

        def loss(self, step):
            logits = step.model.logits(step.features, (step.phase.task.index,))
            return torch.nn.functional.cross_entropy(logits, labels(step))

    task = Task(1, 2, 2)
    sent = Broadcast(head.new_rows(task, WIDTH, np.random.default_rng(0)))
    data = client_data(DATA, np.flatnonzero(np.isin(DATA.train.labels, task.positions))[:9])
    with pytest.raises(IndexError, match=message) as error:
        run_client(Unshifted(), model(None), data, TRAIN, phase(task=task), sent, 1, {})
    assert any("cross_entropy(logits, labels(step))" in str(entry.statement) for entry in error.traceback)
